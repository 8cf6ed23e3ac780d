"""How a difference of two data sets is shown: short and aligned, and whatever a file is called."""

import json
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from tests.photos import ROOT
from tests.unit.test_data_difference import image, snapshot
from thaw.data import accepted, snapshots
from thaw.data.difference import Difference, compare
from thaw.data.snapshots import Image
from thaw.errors import ArtifactError, DataError
from thaw.names import on_one_line
from thaw.pipeline import artifacts, revisions
from thaw.pipeline.revisions import Tree
from thaw.report.data_diff import html, in_report, markdown, sections_of, text

_EVIL = "ok/<script>alert(1)</script> `x` | @team\u202egnp\n.png"


def lines(difference: Difference) -> list[str]:
    return list(text(difference, sections_of(difference)))


def tree(*sides: int, places: list[int] | None = None) -> Tree:
    """Files with shards of so many packed images of 4 px; the image at place i is i everywhere."""
    files, first = dict[str, bytes](), 0
    for number, count in enumerate(sides):
        buffer = BytesIO()
        pixels = np.arange(first, first + count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
        np.save(buffer, pixels)
        files[f"data/prepared/images-{number:05d}.npy"] = buffer.getvalue()
        first += count
    if places is not None:
        buffer = BytesIO()
        np.save(buffer, np.array(places))
        files["data/prepared/places.npy"] = buffer.getvalue()
    listed: dict[str, dict[str, str]] = {Path(name).name: {} for name in files}
    files["data/prepared/manifest.json"] = json.dumps({"files": listed}).encode()
    return Tree("some", lambda path: BytesIO(files[path]))


def test_the_text_has_the_numbers_first_aligned_then_classes_then_images() -> None:
    before = snapshot(image("a"), image("b", split="test"))
    after = snapshot(image("a", "crack"), image("c", "crack", "test"), rejected={"b": "cut short"})
    assert lines(compare(before, after)) == [
        "some -> some: 2 images",
        "  rejected        1  newly; 1 of them good before",
        "  relabelled      1  ok -> crack 1",
        "  replaced        0  other bytes at the same path",
        "  moved           0  between splits",
        "  duplicates      0  new groups alike across splits or folds; 0 groups in all",
        "  added           1  crack 1; test 1",
        "  removed         0",
        "",
        "  class     all   train    test",
        "  crack  0 -> 2  0 -> 1  0 -> 1",
        "  ok     2 -> 0  1 -> 0  1 -> 0",
        "",
        "rejected",
        "  b: cut short; was good: ok, test",
        "",
        "relabelled",
        "  a: ok -> crack, train",
        "",
        "added",
        "  c: crack, test",
    ]


def test_nothing_changed_is_a_row_of_zeros() -> None:
    found = lines(compare(snapshot(image("a")), snapshot(image("a"))))
    assert found[0] == "some -> some: 1 images"
    assert [re.split(r"\s{2,}", line.strip())[1] for line in found[1:]] == ["0"] * 7


def test_a_change_of_ten_thousand_images_in_a_thousand_classes_stays_short() -> None:
    after = [image(f"{number:05d}", f"class {number % 1000}") for number in range(10_000)]
    difference = compare(snapshot(), snapshot(*after, rejected={str(number): "broken" for number in range(50)}))
    found = lines(difference)
    assert len(found) < 50
    assert "  and 988 more classes, in --json" in found
    assert "  and 9995 more, in --json" in found
    assert "  and 45 more, in --json" in found
    assert max(map(len, found)) < 120
    assert len(list(markdown(difference, sections_of(difference)))) < 50


def test_a_name_stays_on_its_line_and_is_no_markup() -> None:
    difference = compare(snapshot(), snapshot(image(_EVIL, "a|b`c"), image("b", "other")))
    assert "  ok/<script>alert(1)</script> `x` | @team\\u202egnp\\n.png: a|b`c, train" in lines(difference)
    marked = "\n".join(markdown(difference, sections_of(difference)))
    assert "- ``ok/<script>alert(1)</script> `x` | @team\\u202egnp\\n.png``: ``a|b`c, train``" in marked
    assert "| ``a\\|b`c`` | 0 → 1 | 0 → 1 |" in marked


def test_the_page_is_one_file_without_script_with_a_picture_of_each_side_and_escaped_names() -> None:
    before = snapshot(Image("a", "ok", "train", -1, "x", 1), Image("gone", "ok", "train", -1, "g", 3))
    after = snapshot(Image("a", "ok", "train", -1, "y", 0), Image(_EVIL, "ok", "test", -1, "z", 4))
    difference = compare(before, after)
    page = html(difference, sections_of(difference), tree(5), tree(2, 3))
    assert "<script" not in page
    assert "ok/&lt;script&gt;alert(1)&lt;/script&gt; `x` | @team" in page
    assert page.count('src="data:image/webp;base64,') == 4  # two of what was replaced, one removed, one added
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "default-src 'none'" in page


def test_the_report_gets_a_section_of_what_changed_at_the_places_that_its_template_keeps() -> None:
    before = snapshot(Image("gone", "ok", "train", -1, "g", 3))
    after = snapshot(Image(_EVIL, "<b>", "test", -1, "z", 4))
    difference = compare(before, after)
    template = (ROOT / "thaw" / "report" / "templates" / "report.html").read_bytes()
    new = tree(5)
    pages = {"reports/index.html": template}
    with_report = Tree("v1", lambda path: BytesIO(pages[path]) if path in pages else new.open(path))
    page = in_report(difference, sections_of(difference), tree(5), with_report)
    assert page.count('<a href="#changes">') == page.count('<section id="changes">') == 1
    assert page.index("</nav>") < page.index('<section id="changes">') < page.index('<section id="lineage">')
    assert '<h3 id="changes-added-title">added</h3>' in page
    assert "<b>:" not in page
    assert page.count('src="data:image/webp;base64,') == 2
    pages["reports/index.html"] = b"<html>"
    with pytest.raises(
        ArtifactError, match=r"^reports/index\.html of v1 was written by an earlier Thaw; run `dvc repro"
    ):
        in_report(difference, sections_of(difference), tree(5), with_report)


def test_the_page_leaves_out_pictures_beyond_its_most_and_says_how_many() -> None:
    after = snapshot(*(Image(f"{number:03d}", "ok", "train", -1, str(number), number) for number in range(100)))
    difference = compare(snapshot(), after)
    page = html(difference, sections_of(difference), tree(1), tree(100))
    assert page.count("<figure>") == 60
    assert "and 40 more, in --json" in page


@pytest.mark.parametrize("rows", [[], [0], [4], [1, 3, 3], [6, 0, 2]])
def test_single_images_are_read_from_whichever_shard_holds_them(rows: list[int]) -> None:
    found = snapshots.read_squares(tree(2, 3, 2), rows)
    assert sorted(found) == sorted(set(rows))
    for row, square in found.items():
        np.testing.assert_array_equal(square, np.full((4, 4, 3), row))


def test_images_are_found_where_shards_of_before_have_moved_them() -> None:
    found = snapshots.read_squares(tree(2, 3, places=[4, 0, 2, 1, 3]), [0, 3, 4])
    assert {row: int(square[0, 0, 0]) for row, square in found.items()} == {0: 4, 3: 1, 4: 3}


def test_a_printable_name_is_shown_as_it_is() -> None:
    assert on_one_line("Größe 1/日本.png") == "Größe 1/日本.png"
    assert on_one_line("a\tb\x1b[31m") == "a\\tb\\x1b[31m"


@pytest.fixture
def prepared(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose data/prepared has one image, in the form before there were folds."""
    monkeypatch.chdir(tmp_path)
    with artifacts.new_folder(tmp_path / "data" / "prepared") as partial:
        (partial / "samples.csv").write_text("path,label,split,sha256,row\nNA,007,val,f00,0\n")
        (partial / "rejected.csv").write_text("path,reason\nb,broken\n")
        (partial / "audit.json").write_text('{"near_duplicates": {"count": 0, "first": [], "groups_across_splits": 0}}')
    return tmp_path / "data"


V1 = Tree("v1", revisions._open_here)


def test_what_looks_like_a_number_or_nothing_is_read_as_text_and_folds_may_be_away(prepared: Path) -> None:
    found = snapshots.read(V1)
    assert found.images == [Image("NA", "007", "val", -1, "f00", 0)]
    assert (found.rejected, found.num_folds, found.accepted) == ({"b": "broken"}, 1, frozenset())


def test_an_altered_table_and_one_of_another_version_are_told_apart(prepared: Path) -> None:
    path = prepared / "prepared" / "samples.csv"
    text_before = path.read_text()
    path.write_text(text_before.replace("007", "008"))
    with pytest.raises(ArtifactError, match="data/prepared of v1 is not what its manifest says"):
        snapshots.read(V1)
    path.write_text(text_before)
    with artifacts.new_folder(prepared / "prepared") as partial:
        (partial / "samples.csv").write_text("path,label\na,b\n")
        (partial / "rejected.csv").write_text("path,reason\n")
        (partial / "audit.json").write_text("{}")
    with pytest.raises(ArtifactError, match="was written by another version of Thaw"):
        snapshots.read(V1)


def test_accepted_rejections_are_kept_as_long_as_the_file_is_rejected_for_that_reason(prepared: Path) -> None:
    accepted.write(frozenset({("a", "empty"), ("b", "other")}), [("b", "broken"), ("c, d", "cut\nshort")], {
        "b": "broken", "c, d": "cut\nshort",
    })  # fmt: skip
    assert snapshots.read(V1).accepted == {("b", "broken"), ("c, d", "cut\nshort")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"<<<<<<< HEAD\npath,reason\n",
            "data/accepted.csv of v1 has the columns <<<<<<< HEAD; it must have path, reason",
        ),
        (b"", "data/accepted.csv of v1 is no CSV in UTF-8"),
        (b"path,reason\na,\xff\n", "data/accepted.csv of v1 is no CSV in UTF-8"),
    ],
)
def test_a_spoilt_list_of_accepted_rejections_is_one_line(prepared: Path, content: bytes, message: str) -> None:
    (prepared / "accepted.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        snapshots.read(V1)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
