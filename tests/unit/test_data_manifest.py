"""Tables of images as people have them: understood, with a line that says how, or refused with the way out."""

import json
from pathlib import Path

import pytest

from thaw.config.schema import DataParams
from thaw.data import listing, manifest
from thaw.errors import DataError

FILES = ("img/box_0.jpg", "img/box_1.jpg", "img/disc_0.jpg", "img/disc_1.jpg")
ROWS = [(path, path[4:-6]) for path in FILES]
PLAIN = [[path, label, "", "", 1.0] for path, label in ROWS]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in FILES:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(path.encode())
    return tmp_path


def write(root: Path, header: str, *lines: str, name: str = "list.csv", encoding: str = "utf-8") -> Path:
    (root / name).write_bytes(("\r\n".join([header, *lines]) + "\r\n").encode(encoding))
    return root / name


def read(path: Path, **settings: object) -> manifest.Manifest:
    return manifest.read(path, path.parent, DataParams.model_validate({"raw": str(path), **settings}))


def rows(separator: str = ",", path: str = "{}", more: str = "") -> list[str]:
    return [f"{path.format(file)}{separator}{label}{more}" for file, label in ROWS]


@pytest.mark.parametrize(
    ("header", "lines", "encoding", "note"),
    [
        ("path,label", rows(), "utf-8", ""),
        ("path,label", rows(), "utf-8-sig", ""),
        ("path;label", rows(";"), "utf-8", "is separated by semicolons"),
        ("path\tlabel", rows("\t"), "utf-8", "is separated by tabs"),
        ("sep=;\r\npath;label", rows(";"), "utf-8", "is separated by semicolons"),
        ("path\tlabel", rows("\t"), "utf-16", "is in UTF-16"),
        ("path,label", rows(), "utf-16", "is in UTF-16"),
        ("path,label", [row.replace("/", "\\") for row in rows()], "utf-8", r"with backslashes (img\box_0.jpg is img/"),
        ("path,label", [row.replace(".jpg", "") for row in rows()], "utf-8", "4 paths without an extension (img/box_0"),
        ("path,label", [f"./{row}" for row in rows()], "utf-8", ""),
        (
            ",path,label",
            [f"{n},{row}" for n, row in enumerate(rows())],
            "utf-8",
            "without a name are not used (1)",
        ),
        ("label,path", [",".join(reversed(row.split(","))) for row in rows()], "utf-8", ""),
        ("path,label,width,id", rows(more=",7,8"), "utf-8", "columns not used: width, id"),
        ('"path","label"', rows(), "utf-8", ""),
        ("path,label,,", rows(more=",,"), "utf-8", "columns without a name are not used (2)"),
    ],
)
def test_every_dialect_gives_the_same_rows(root: Path, header: str, lines: list[str], encoding: str, note: str) -> None:
    found = read(write(root, header, *lines, encoding=encoding))
    assert found.table.values.tolist() == PLAIN
    assert note in "; ".join(found.notes)
    assert bool(note) == bool(found.notes)


def test_absolute_paths_into_the_folder_are_understood_and_others_are_not(root: Path) -> None:
    found = read(write(root, "path,label", *rows(path=str(root / "{}"))))
    assert found.table.values.tolist() == PLAIN
    assert "4 paths from the root of the system" in found.notes[0]
    with pytest.raises(DataError, match=r"path '/mnt/x/img/box_0.jpg' leads out of .* \(img/box_0.jpg is there\);"):
        read(write(root, "path,label", *rows(path="/mnt/x/{}")))
    with pytest.raises(DataError, match=r"path 'C:\\\\data\\\\img\\\\box_0.jpg' leads out of .*img/box_0.jpg is there"):
        read(write(root, "path,label", *[f"C:\\data\\{row}".replace("/", "\\") for row in rows()]))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([f" {row}" for row in rows()], "all 4 paths begin or end with blanks"),
        (rows(path="{}").copy(), ""),
        ([row.replace(".jpg", ".JPG") for row in rows()], "all 4 paths have other capitals than the files"),
        ([row.replace("img/", "") for row in rows()], "all 4 paths lack the folder that the files are in"),
    ],
    ids=["blanks", "none", "capitals", "bare names"],
)
def test_where_no_file_is_found_for_one_cause_the_cause_is_named(root: Path, lines: list[str], message: str) -> None:
    path = write(root, "path,label", *lines)
    if not message:
        assert read(path).notes == []
        return
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert "is 'img/box_0.jpg'); mend them in the table" in str(caught.value)


def test_a_name_that_fits_two_files_is_not_completed(root: Path) -> None:
    (root / "img/box_0.png").touch()
    with pytest.raises(DataError, match=r"'img/box_0' may be img/box_0.jpg or img/box_0.png; write the extension"):
        read(write(root, "path,label", *[row.replace(".jpg", "") for row in rows()]))


def test_a_file_that_is_not_there_stays_in_the_list_and_is_rejected_later(root: Path) -> None:
    found = read(write(root, "path,label", *rows(), "img/none.jpg,disc"))
    assert found.table["path"].tolist() == [*FILES, "img/none.jpg"]


@pytest.mark.parametrize(
    ("header", "more", "message"),
    [
        ("path,label,is_valid", ",True", r"column 'is_valid' \(like split\) .*data.columns: \{split: is_valid\}"),
        ("path,label,subset", ",training", r"'subset' \(like split\) would have no effect"),
        ("path,label,patient_id", ",P1", r"'patient_id' \(like group\).*data.columns: \{group: patient_id\}"),
        ("path,label,Weight,Patient ID", ",1,P1", r"columns 'Weight' \(like confidence\), 'Patient ID' \(like group\)"),
        (
            "path,label,category",
            ",x",
            r"'category' \(like label\) would have no effect; name what is not in data.ig",
        ),
        ("path,label,spilt", ",train", r"'spilt' \(like split\) would have no effect"),
        ("file_name,label", "", r"no column path; say which it is: data.columns: \{path: file_name\}"),
        ("image_id,category", "", r"no column path and no column label; .*\{path: image_id, label: category\}"),
        ("img/box_0.jpg,box", "", r"no column path and no column label; it needs path,label in its first line"),
        ("path,label,label", ",x", "has two columns 'label'"),
    ],
)
def test_a_column_that_may_matter_is_never_passed_over(root: Path, header: str, more: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(write(root, header, *rows(more=more)))
    assert "\n" not in str(caught.value)


def test_columns_are_mapped_or_ignored_as_asked(root: Path) -> None:
    path = write(root, "file_name,breed,patient,set,note", *rows(more=",P1,Train,x"))
    asked = {"path": "file_name", "label": "breed", "group": "patient", "split": "set"}
    found = read(path, columns=asked)
    assert found.table.values.tolist() == [[file, label, "train", "P1", 1.0] for file, label in ROWS]
    assert found.notes == [f"{path}: columns not used: note"]
    ignored = read(path, columns={"path": "file_name", "label": "breed"}, ignore_columns=["patient", "set"])
    assert ignored.table.values.tolist() == PLAIN
    assert ignored.notes == [f"{path}: columns not used: note, patient, set"]
    with pytest.raises(DataError, match=r"has no column 'kind', which data.columns or data.ignore_columns names"):
        read(path, columns=asked | {"label": "kind"})


@pytest.mark.parametrize(
    ("name", "cells", "splits"),
    [
        ("split", ["Train", "Val", "Test", "train"], ["train", "val", "test", "train"]),
        ("subset", ["training", "validation", "testing", "dev"], ["train", "val", "test", "val"]),
        ("is_valid", ["False", "True", "0", "1"], ["train", "val", "train", "val"]),
        ("is_test", ["no", "no", "yes", "no"], ["train", "train", "test", "train"]),
    ],
)
def test_splits_are_read_as_they_are_usually_written(
    root: Path, name: str, cells: list[str], splits: list[str]
) -> None:
    lines = [f"{row},{cell}" for row, cell in zip(rows(), cells, strict=True)]
    assert read(write(root, f"path,label,{name}", *lines), columns={"split": name}).table["split"].tolist() == splits


def test_bytes_of_another_encoding_are_refused_until_it_is_said(root: Path) -> None:
    path = write(root, "path,label", *[row.replace("box", "Käfig") if n else row for n, row in enumerate(rows())][:1],
                 "img/box_1.jpg,Käfig", encoding="latin-1")  # fmt: skip
    with pytest.raises(DataError, match=r"a CSV in UTF-8 \(line 3 has a byte that is none\).*data.encoding: latin-1"):
        read(path)
    found = read(path, encoding="latin-1")
    assert found.table["label"].tolist() == ["box", "Käfig"]
    assert found.notes == [f"{path} is in LATIN-1"]


@pytest.mark.parametrize(
    ("data", "what"), [(b"PK\x03\x04rest", "a spreadsheet or an archive"), (b"PAR1rest", "Parquet")]
)
def test_a_file_that_is_no_text_is_named(root: Path, data: bytes, what: str) -> None:
    (root / "list.csv").write_bytes(data)
    with pytest.raises(DataError, match=f"is {what}, and no text; save it as CSV in UTF-8"):
        read(root / "list.csv")


def test_all_images_that_are_listed_twice_are_counted(root: Path) -> None:
    with pytest.raises(DataError, match=r"lists 'img/box_0.jpg' and 2 more twice or more; keep one row for each image"):
        read(write(root, "path,label", *rows(), *rows()[:3]))


def test_a_row_with_a_cell_too_many_is_refused_and_one_with_too_few_has_empty_ones(root: Path) -> None:
    with pytest.raises(DataError, match=r"is no CSV that can be read .*line 3"):
        read(write(root, "path,label", rows()[0], "img/box_1.jpg,box,more"))
    with pytest.raises(DataError, match="label is empty in 1 rows"):
        read(write(root, "path,label", rows()[0], "img/box_1.jpg"))


TARGETS = {
    "joined": ("label", ["disc;box", "disc", "box", "box;disc"], "several classes with ';' between them"),
    "joined by bars": ("label", ["disc|box", "disc", "box", "disc|box"], r"several classes with '\|' between them"),
    "several": ("disc,box", ["1,1", "0,1", "1,0", "1,1"], "disc, box hold 0 and 1: several classes an image"),
    "one-hot": ("disc,box", ["1,0", "0,1", "1,0", "0,1"], "disc, box hold 0 and 1, with one 1 a row: write the name"),
}


@pytest.mark.parametrize(("names", "cells", "message"), TARGETS.values(), ids=TARGETS)
def test_several_classes_an_image_are_recognised(root: Path, names: str, cells: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write(root, f"path,{names}", *[f"{path},{cell}" for path, cell in zip(FILES, cells, strict=True)]))


def test_numbers_to_predict_are_recognised_and_single_label_takes_them_for_classes(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label", *[f"{n}.jpg,{n / 7:.2f}" for n in range(60)])
    with pytest.raises(DataError, match=r"60 different numbers from 0 to 8.43 \(0.00, 0.14, 0.29, ...\). Thaw "):
        read(path)
    assert read(path, task="single-label").table["label"].nunique() == 60
    ages = read(write(tmp_path, "path,label", *[f"{n}.jpg,{n % 8}" for n in range(80)]))
    assert ages.notes[0].endswith("whole numbers from 0 to 7: they are trained as 8 classes without an order")


@pytest.mark.parametrize("labels", [["Paris, France", "Lyon, France", "Rome, Italy"], ["yes", "no", "nan"], ["0", "1"]])
def test_names_that_look_a_little_like_other_targets_are_classes(tmp_path: Path, labels: list[str]) -> None:
    lines = [f'{number}.jpg,"{labels[number % len(labels)]}"' for number in range(30)]
    found = read(write(tmp_path, "path,label", *lines))
    assert sorted(set(found.table["label"])) == sorted(labels)
    assert found.notes == []


def test_an_image_folder_of_hugging_face_is_read_by_its_metadata(root: Path) -> None:
    lines = [json.dumps({"file_name": file, "label": label, "size": [1, 2]}) for file, label in ROWS]
    (root / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    listed = listing.read(root)
    assert listed.table.values.tolist() == PLAIN
    assert listed.notes == [f"{root / 'metadata.jsonl'}: columns not used: size"]
    (root / "metadata.jsonl").unlink()
    write(root, "file_name,label", *rows(), name="metadata.csv")
    assert listing.read(root).table.values.tolist() == PLAIN


def test_metadata_of_another_kind_beside_class_folders_is_left_alone(tmp_path: Path) -> None:
    for path in ("a/1.jpg", "b/2.jpg"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text(path)
    (tmp_path / "metadata.csv").write_text("license,source\nMIT,somewhere\n")
    assert listing.read(tmp_path).classes == ["a", "b"]


def test_split_folders_may_have_a_table_each_and_a_test_folder_without_one_is_said(tmp_path: Path) -> None:
    for top in ("train", "validation", "test"):
        (tmp_path / top).mkdir()
        for path in ("1.jpg", "2.jpg"):
            (tmp_path / top / path).write_text(top)
    for top in ("train", "validation"):
        (tmp_path / top / "metadata.csv").write_text("file_name,label\n1.jpg,a\n2.jpg,b\n")
    listed = listing.read(tmp_path)
    assert listed.table[["path", "label", "split"]].values.tolist() == [
        ["train/1.jpg", "a", "train"], ["train/2.jpg", "b", "train"],
        ["validation/1.jpg", "a", "val"], ["validation/2.jpg", "b", "val"],
    ]  # fmt: skip
    assert listed.notes == [
        f"{tmp_path / 'test'} has no class folders: its 2 files are not used, since they have no labels"
    ]
