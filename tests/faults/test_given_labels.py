"""Tables of images, contradictory labels, rare classes and what lies beside the images, through the real stage."""

from pathlib import Path

import pytest
from PIL import Image

from tests.faults.preparing import audit, change, prepare, refused, rejected, samples, save


def test_a_manifest_gives_groups_and_confidence(pets: Path) -> None:
    rows = [
        f"{label}/{i:02d}.png,{label},g{label}{i // 4},{0.5 + i / 40}" for label in ("cat", "dog") for i in range(20)
    ]
    (pets / "raw" / "list.csv").write_text("\n".join(["path,label,group,confidence", *reversed(rows)]))
    change(pets, "data", raw="raw/list.csv", labels="raw/list.csv")
    assert prepare(pets)[0] == 0
    table = samples(pets)
    assert table["path"].is_monotonic_increasing
    assert table.groupby("group")["split"].nunique().max() == 1
    assert table["confidence"].tolist()[:2] == [0.5, 0.525]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("path,lable\na.png,cat\n", "raw/list.csv has no column label; say which it is: data.columns: {label: lable}"),
        ("path\na.png\n", "raw/list.csv has no column label"),
        ("path,label\n", "raw/list.csv lists no images"),
        ("path,label\n../params.yaml,cat\n", "raw/list.csv: path '../params.yaml' leads out of raw"),
        ("path,label\n/etc/hostname,cat\n", "raw/list.csv: path '/etc/hostname' leads out of raw"),
        ("path,label\na.png,cat\n./a.png,dog\n", "raw/list.csv lists 'a.png' twice or more"),
        ("path,label\na.png,\n", "raw/list.csv: label is empty in 1 rows; fill it in, or remove these rows"),
        ("path,label,split\na.png,cat,trian\n", "raw/list.csv: split is 'trian'; it must be one of train"),
        ("path,label,confidence\na.png,cat,0\n", "raw/list.csv: confidence is '0'; it must be a number above 0"),
        ('path,label\n"a.png,cat\n', "raw/list.csv is no CSV that can be read (Error tokenizing data"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused_in_one_line(pets: Path, text: str, line: str) -> None:
    (pets / "raw" / "list.csv").write_text(text)
    change(pets, "data", raw="raw/list.csv", labels="raw/list.csv")
    assert refused(pets).startswith(line)


def contradict(pets: Path) -> None:
    """Put two cats among the dogs, one of them twice, and a second copy of it among the cats."""
    raw = pets / "raw"
    for name, label in (("01", "dog"), ("02", "dog"), ("01", "cat")):
        (raw / label / f"copy{name}.png").write_bytes((raw / "cat" / f"{name}.png").read_bytes())


def test_images_under_two_labels_are_all_named_at_once(pets: Path) -> None:
    contradict(pets)
    assert refused(pets) == (
        "2 images are listed under several labels: cat/01.png (cat) and cat/copy01.png (cat) and dog/copy01.png (dog); "
        "cat/02.png (cat) and dog/copy02.png (dog); correct the labels, or set data.conflicts to drop (use no copy) or "
        "first (use the first by its path)"
    )


@pytest.mark.parametrize(
    ("policy", "gone", "said"),
    [
        ("drop", {"cat/01.png", "cat/copy01.png", "dog/copy01.png", "cat/02.png", "dog/copy02.png"}, "none of their"),
        (
            "first",
            {"dog/copy01.png", "dog/copy02.png"},
            "the first by its path is kept (data.conflicts: first)",
        ),
    ],
)
def test_images_under_two_labels_go_as_asked_whatever_max_rejected_says(
    pets: Path, policy: str, gone: set[str], said: str
) -> None:
    contradict(pets)
    change(pets, "data", conflicts=policy)
    change(pets, "prepare", max_rejected=0.0)
    assert prepare(pets)[0] == 0
    assert set(rejected(pets)) == gone
    assert len(samples(pets)) == 43 - len(gone)
    assert audit(pets).label_conflicts.count == 2
    assert any(said in line for line in audit(pets).decisions)


def grow_a_tail(pets: Path) -> None:
    """Add fifteen classes of one or two images."""
    for number in range(15):
        (pets / "raw" / f"tail{number:02d}").mkdir()
        for index in range(1 + number % 2):
            save(pets / "raw" / f"tail{number:02d}" / f"{index}.png", 1000 + 10 * number + index)


@pytest.mark.parametrize(
    ("policy", "classes", "images"),
    [("train-only", 17, 62), ("drop", 2, 40), ("merge:rare", 3, 62), ("merge:dog", 2, 62)],
)
def test_rare_classes_go_as_asked(pets: Path, policy: str, classes: int, images: int) -> None:
    grow_a_tail(pets)
    change(pets, "data", rare=policy)
    assert prepare(pets)[0] == 0
    table, said = samples(pets), audit(pets).decisions
    assert (table["label"].nunique(), len(table)) == (classes, images)
    if policy == "train-only":
        alone = table[table["label"].map(table["label"].value_counts()) == 1]
        assert set(alone["split"]) == {"train"}
        assert any("trained on and never tested" in line for line in said)
    else:
        assert any(line.startswith("15 classes have fewer than 3 independent images: tail00 (1), ta") for line in said)


def test_rare_classes_are_all_named_at_once(pets: Path) -> None:
    grow_a_tail(pets)
    change(pets, "data", rare="error")
    line = refused(pets)
    assert all(f"tail{number:02d} ({1 + number % 2})" in line for number in range(15))
    assert "set data.rare to train-only" in line


def test_what_stands_beside_the_images_is_counted_apart_and_said(pets: Path) -> None:
    raw = pets / "raw"
    for path in [*raw.glob("*/*.png")]:
        path.with_suffix(".xml").write_text("<annotation/>")
    (raw / "cat" / "labels.csv").write_text("Filename;Width\n")
    (raw / "loose.png").write_bytes((raw / "cat" / "00.png").read_bytes())
    change(pets, "prepare", max_rejected=0.0)
    assert prepare(pets)[0] == 0
    assert rejected(pets) == {}
    assert audit(pets).decisions[:2] == [
        "raw: 1 files in no class folder are not used (loose.png)",
        "raw: 41 files beside the images are not used (40 .xml, 1 .csv; cat/00.xml)",
    ]


def test_what_cropping_cuts_off_is_said(pets: Path) -> None:
    Image.new("RGB", (160, 20), "red").save(pets / "raw" / "cat" / "panorama.png")
    assert prepare(pets)[0] == 0
    said = (
        "it cuts off the ends of images, 17% in the middle, 88% at most (cat/panorama.png), more than half of 1 images"
    )
    assert f"prepare.fit is crop: {said}; pad keeps them" in audit(pets).decisions
    change(pets, "prepare", fit="pad")
    assert prepare(pets)[0] == 0
    assert not any("prepare.fit" in line for line in audit(pets).decisions)
