"""WebDataset and Parquet: what their columns and names mean, and what is refused with the way out."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thaw.config.schema import DataParams
from thaw.data import listing, unpacked
from thaw.errors import DataError

Files = dict[str, str | bytes]


def shard(path: Path, files: Files) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            content = data.encode() if isinstance(data, str) else data
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def samples(label: str = "cls", values: tuple[str, ...] = ("cat", "dog"), start: int = 0) -> Files:
    found: Files = {}
    for number, value in enumerate(values, start=start):
        found |= {f"{number:06d}.jpg": f"{number}", f"{number:06d}.{label}": value}
    return found


def read(raw: Path, **settings: Any) -> listing.Listing:
    return listing.read(raw, data=DataParams.model_validate({"raw": str(raw), **settings}))


def rows(found: listing.Listing, *columns: str) -> list[list[str]]:
    return found.table[list(columns or ("path", "label"))].values.tolist()


PLAIN = [["000000.jpg", "cat"], ["000001.jpg", "dog"]]


def test_labels_are_names_or_numbers_that_a_list_names(tmp_path: Path) -> None:
    assert rows(read(shard(tmp_path / "a.tar", samples()))) == PLAIN
    numbers = samples(values=("0", "1"))
    found = read(shard(tmp_path / "b.tar", numbers))
    assert rows(found) == [["000000.jpg", "0"], ["000001.jpg", "1"]]
    assert "the classes are called by their numbers (0, 1); a classes.txt beside the shards" in found.notes[0]
    assert rows(read(shard(tmp_path / "c.tar", numbers | {"classes.txt": "cat\ndog\n"}))) == PLAIN
    with pytest.raises(DataError, match=r"a sample has class 1, and classes.txt has 1 names from 0 on"):
        read(shard(tmp_path / "d.tar", numbers | {"classes.txt": "cat\n"}))
    with pytest.raises(DataError, match=r"classes.txt does not name dog; add it there"):
        read(shard(tmp_path / "e.tar", samples() | {"classes.txt": "cat\n"}))


def test_a_thousand_numbers_in_cls_are_classes_and_no_values_to_regress(tmp_path: Path) -> None:
    found = read(shard(tmp_path / "a.tar", samples(values=tuple(map(str, range(200))))))
    assert len(found.classes) == 200


def test_a_json_is_a_row_of_a_table_with_the_same_rules(tmp_path: Path) -> None:
    about = [{"label": label, "patient": 7, "seen": None} for label in ("cat", "dog")]
    path = shard(tmp_path / "a.tar", samples("json", tuple(map(json.dumps, about))))
    with pytest.raises(
        DataError, match=r"column 'patient' \(like group\) would have no effect; map what is to be used"
    ):
        read(path)
    assert rows(read(path, columns={"group": "patient"}), "label", "group") == [["cat", "7"], ["dog", "7"]]
    path = shard(tmp_path / "b.tar", samples("json", ('{"species": "cat"}', '{"species": "dog"}')))
    with pytest.raises(DataError, match=r"\(they have 'species'\); .* data.columns: {label: species}"):
        read(path)
    assert rows(read(path, columns={"label": "species"})) == PLAIN
    for content, said in (("[1]", "is no JSON object"), ("{", "is no JSON"), ("[" * 10**5, "is no JSON")):
        with pytest.raises(DataError, match=rf"000000.json {said}"):
            read(shard(tmp_path / "c.tar", samples("json", (content, "{}"))))


def test_a_text_may_be_a_caption_and_is_asked_about(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", samples("txt"))
    with pytest.raises(DataError, match=r"no label in a .json \(they have 'txt'\).*data.columns: {label: txt}"):
        read(path)
    assert rows(read(path, columns={"label": "txt"})) == PLAIN


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"7.jpg": "7"}, r"1 samples have no cls \(7.jpg\); add it, or leave them out"),
        ({"7.cls": "cat"}, r"1 samples have no image \(7\); each needs KEY.jpg"),
        ({"7.jpg": "7", "7.mask.png": "8", "7.cls": "cat"}, r"sample '7' has several images \(jpg, mask.png\)"),
        ({"7.jpg": "7", "7.cls": b"\xff"}, r"7.cls is no text in UTF-8"),
    ],
)
def test_a_sample_that_is_unclear_refuses_the_shard(tmp_path: Path, more: Files, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(shard(tmp_path / "a.tar", samples() | more))


def test_shards_in_a_folder_tell_splits_and_their_names_keep_samples_apart(tmp_path: Path) -> None:
    for name in ("pets-train-000000.tar", "pets-train-000001.tar", "pets-val-000000.tar"):
        shard(tmp_path / name, samples())
    (tmp_path / "sizes.json").write_text("{}")
    found = read(tmp_path)
    assert rows(found, "path", "split")[::2] == [
        ["pets-train-000000/000000.jpg", "train"],
        ["pets-train-000001/000000.jpg", "train"],
        ["pets-val-000000/000000.jpg", "val"],
    ]
    assert "shards have samples of the same names, so the shard's name stands before them" in found.notes[0]
    assert found.archive is not None
    assert found.archive.read("pets-val-000000/000001.jpg", 1) == b"1"
    shard(tmp_path / "more.tar", samples(start=50))
    with pytest.raises(DataError, match=r"more.tar has none of train, val, valid, .* in its name, as other files"):
        read(tmp_path)


def test_a_tar_of_class_folders_is_no_shard_though_json_stands_beside_its_images(tmp_path: Path) -> None:
    files: Files = {"cat/1.jpg": "1", "cat/1.json": '{"label": "x"}', "dog/2.jpg": "2"}
    found = read(shard(tmp_path / "a.tar", files))
    assert rows(found) == [["cat/1.jpg", "cat"], ["dog/2.jpg", "dog"]]
    assert "1 files beside the images are not used (1 .json; cat/1.json)" in found.notes[0]
    with pytest.raises(DataError, match=r"a tar of class folders is no shard: set data.raw to that file alone"):
        read(shard(tmp_path / "b" / "a.tar", {"cat/1.jpg": "1", "dog/2.jpg": "2"}).parent)


IMAGES = [{"bytes": b"1", "path": "1.jpg"}, {"bytes": b"2", "path": "2.jpg"}]


def parquet(path: Path, columns: dict[str, Any], classes: dict[str, list[str]] | None = None) -> Path:
    table = pa.table(columns)
    if classes is not None:
        features = {name: {"_type": "ClassLabel", "names": names} for name, names in classes.items()}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def test_rows_without_a_class_are_not_used_and_other_numbers_are_refused(tmp_path: Path) -> None:
    columns = {"image": [*IMAGES, {"bytes": b"3", "path": "3.jpg"}], "label": [0, 1, -1]}
    found = read(parquet(tmp_path / "a.parquet", columns, {"label": ["cat", "dog"]}))
    assert rows(found) == [["1.jpg", "cat"], ["2.jpg", "dog"]]
    assert found.notes == [f"{tmp_path / 'a.parquet'}: 1 rows have no label (-1) and are not used"]
    with pytest.raises(DataError, match=r"has the classes 1, and names for 0 to 0"):
        read(parquet(tmp_path / "b.parquet", columns, {"label": ["cat"]}))


def test_another_label_is_mapped_with_its_names(tmp_path: Path) -> None:
    columns = {"img": IMAGES, "fine_label": [1, 0], "coarse_label": [0, 0]}
    names = {"fine_label": ["ash", "bee"], "coarse_label": ["all"]}
    path = parquet(tmp_path / "a.parquet", columns, names)
    with pytest.raises(DataError, match="has no column label"):
        read(path)
    assert rows(read(path, columns={"label": "fine_label"})) == [["1.jpg", "bee"], ["2.jpg", "ash"]]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a/1.jpg", "b/1.jpg"], ["a/1.jpg", "b/1.jpg"]),
        (["a/1.jpg", "a/1.jpg"], ["00000000-1.jpg", "00000001-1.jpg"]),
        ([None, None], ["00000000", "00000001"]),
        (["/home/me/1.jpg", "..\\2.jpg"], ["1.jpg", "2.jpg"]),
        (["../../etc/1.jpg", ".."], ["00000000-1.jpg", "00000001"]),
        (["a//./1.jpg", "a/2.jpg"], ["a/1.jpg", "a/2.jpg"]),
    ],
)
def test_a_path_in_a_row_is_a_name_and_leads_nowhere(
    tmp_path: Path, paths: list[str | None], expected: list[str]
) -> None:
    images = [{"bytes": bytes([number]), "path": path} for number, path in enumerate(paths)]
    found = read(parquet(tmp_path / "a.parquet", {"image": images, "label": ["cat", "dog"]}))
    assert found.table["path"].tolist() == expected
    assert found.archive is not None
    assert [found.archive.read(path, 1) for path in expected] == [b"\0", b"\1"]


def test_files_called_after_splits_give_the_split_as_on_the_hub(tmp_path: Path) -> None:
    for name, data in {"train-00000-of-00001": b"1", "validation-00000-of-00001": b"2"}.items():
        images = [{"bytes": data + bytes([number]), "path": f"{data!r}{number}.jpg"} for number in range(2)]
        parquet(tmp_path / "data" / f"{name}.parquet", {"image": images, "label": ["cat", "dog"]})
    assert [row[0] for row in rows(read(tmp_path), "split")] == ["train", "train", "val", "val"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": IMAGES, "label": [["cat"], ["dog"]]}, "holds several values a row. Thaw trains one class"),
        ({"image": IMAGES, "mask": IMAGES, "other": ["a", "b"], "label": ["c", "d"]}, ""),
        ({"left": IMAGES, "right": IMAGES, "label": ["c", "d"]}, r"one of the columns 'left', 'right'; say in which"),
        ({"image": IMAGES, "label": ["cat", None]}, "label is empty in 1 rows"),
        ({"image": IMAGES, "breed": ["cat", "dog"]}, "say which it is: data.columns: {label: breed}"),
        ({"image": IMAGES, "label": ["c", "d"], "fold": [1, 2]}, r"column 'fold' \(like split\) would have no effect"),
        ({"width": [1, 2]}, "has no column path and no column label"),
    ],
)
def test_columns_that_are_unclear_are_refused(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    path = parquet(tmp_path / "a.parquet", columns)
    if not said:
        assert rows(read(path)) == [["1.jpg", "c"], ["2.jpg", "d"]]
        return
    with pytest.raises(DataError, match=said):
        read(path)


def test_a_named_column_of_images_is_taken(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"left": IMAGES, "right": IMAGES[::-1], "label": ["c", "d"]})
    found = read(path, columns={"path": "right"})
    assert rows(found) == [["1.jpg", "d"], ["2.jpg", "c"]]


def test_a_row_without_bytes_is_rejected_when_it_is_read(tmp_path: Path) -> None:
    images = [*IMAGES, {"bytes": None, "path": "3.jpg"}, None]
    found = read(parquet(tmp_path / "a.parquet", {"image": images, "label": ["c", "d", "c", "d"]}))
    assert found.archive is not None
    reasons = {path: found.archive.parts[path].refused for path in found.table["path"]}
    assert list(reasons.values()) == ["", "", "a row without bytes", "a row without bytes"]


def test_parquet_that_is_damaged_or_of_other_columns_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a" / "1.parquet", {"image": IMAGES, "label": ["c", "d"]})
    parquet(tmp_path / "a" / "2.parquet", {"photo": IMAGES, "label": ["c", "d"]})
    with pytest.raises(DataError, match=r"2.parquet has other columns than .*1.parquet"):
        read(tmp_path / "a")
    whole = path.read_bytes()
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match=r"1.parquet is a pointer of Git LFS; run `git lfs pull`"):
        read(tmp_path / "a")
    for length in range(4, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"1.parquet is no Parquet that can be read"):
            read(path)


def same_value(path: Path, value: bytes | str, num: int, name: str, others: dict[str, Any]) -> Path:
    """Write a column whose rows all point to one value: the file has it once, and packed."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * num, pa.int8()), pa.array([value]))
    table = pa.table({name: column.cast(pa.binary() if isinstance(value, bytes) else pa.string()), **others})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=2**30)
    return path


def test_rows_that_point_to_one_huge_image_are_refused_and_never_in_the_memory_of_the_stage(tmp_path: Path) -> None:
    path = same_value(tmp_path / "a.parquet", bytes(10**8), 20, "image", {"label": ["c", "d"] * 10})
    assert path.stat().st_size < 10**6
    code = f"""
import resource
from pathlib import Path
from thaw.config.schema import DataParams
from thaw.data import listing
from thaw.errors import DataError
import thaw.data.parquet
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    listing.read(Path({str(path)!r}), data=DataParams(raw={str(path)!r}))
except DataError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, grown_mib = done.stdout.splitlines()
    assert said.startswith(f"{path} cannot be decoded: a few rows of it take more than 2 GiB or 60 seconds (")
    assert int(grown_mib) < 300


def test_a_label_of_a_kilobyte_in_thousands_of_rows_is_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = same_value(
        tmp_path / "a.parquet", "c" * 1000, 9000, "label", {"path": [f"{row}.jpg" for row in range(9000)]}
    )
    assert path.stat().st_size < 10**5
    with pytest.raises(DataError, match="has one class only"):
        read(path)
    monkeypatch.setattr(unpacked, "_FREE_BYTES", 2**20)
    with pytest.raises(DataError, match=r"a.parquet unpacks to more than 100 times its \d+ bytes"):
        read(path)


def test_many_small_files_of_images_are_no_bomb_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacked, "_FREE_BYTES", 10**5)
    draws = np.random.default_rng(0)
    for number in range(120):
        images = [{"bytes": draws.bytes(20_000), "path": f"{number}-{one}.jpg"} for one in range(2)]
        parquet(tmp_path / "set" / f"{number:03d}.parquet", {"image": images, "label": ["c", "d"]})
    assert len(read(tmp_path / "set").table) == 240


def test_images_without_any_other_column_have_no_labels(tmp_path: Path) -> None:
    for name in ("train", "test"):
        parquet(tmp_path / "set" / f"{name}.parquet", {"image": IMAGES})
    with pytest.raises(DataError, match=r"set has no column label, nor another one of texts or numbers"):
        read(tmp_path / "set")
