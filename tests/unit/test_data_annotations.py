"""COCO where an image has one category; all that is laid out for detection is refused by name."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from thaw.config.schema import DataParams
from thaw.data import listing
from thaw.errors import DataError

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
LABELS = {"1.jpg": 7, "2.jpg": 9, "3.jpg": 7}


def coco(*more: tuple[int, int], labels: dict[str, int] = LABELS) -> dict[str, Any]:
    """The annotations of images, of which each has the one category; and further ones, image and category."""
    images = [{"id": number, "file_name": name} for number, name in enumerate(labels)]
    pairs = [*enumerate(labels.values()), *more]
    annotations = [{"image_id": image, "category_id": label, "bbox": [0, 0, 1, 1]} for image, label in pairs]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def lay_out(root: Path, found: dict[str, object]) -> Path:
    """Write JSON for what is a mapping, and nearly empty files for all else."""
    for name, content in found.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(content) if content else name)
    return root


PLAIN = [["1.jpg", "cat", ""], ["2.jpg", "dog", ""], ["3.jpg", "cat", ""]]


def rows(root: Path) -> list[list[str]]:
    return listing.read(root).table[["path", "label", "split"]].values.tolist()


@pytest.mark.parametrize(
    ("annotations", "folder"),
    [
        ("annotations.json", ""),
        ("_annotations.coco.json", "images/"),
        ("annotations/instances_train2017.json", "train2017/"),
        ("annotations/instances_train2017.json", "images/train2017/"),
        ("annotations/instances_default.json", "images/"),
    ],
)
def test_the_one_category_of_an_image_is_its_class_wherever_the_files_lie(
    tmp_path: Path, annotations: str, folder: str
) -> None:
    files: dict[str, object] = {f"{folder}{name}": None for name in LABELS}
    lay_out(tmp_path, files | {annotations: coco((0, 7))})
    assert rows(tmp_path) == [[f"{folder}{path}", label, split] for path, label, split in PLAIN]
    notes = listing.read(tmp_path).notes
    assert notes == [
        f"{tmp_path / annotations}: labels are the categories of its annotations (COCO)",
        f"{tmp_path / annotations}: 4 boxes or outlines are not used: an image is classified as a whole",
    ]


def test_annotations_of_splits_give_the_split_in_a_zip_as_well(tmp_path: Path) -> None:
    files: dict[str, object] = {}
    for split, labels in {"train": LABELS, "valid": {"4.jpg": 9}}.items():
        files |= {f"{split}/{name}": None for name in labels}
        files[f"{split}/_annotations.coco.json"] = coco(labels=labels)
    lay_out(tmp_path / "set", files)
    expected = [[f"train/{path}", label, "train"] for path, label, _ in PLAIN] + [["valid/4.jpg", "dog", "val"]]
    assert rows(tmp_path / "set") == expected
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for name in files:
            file.write(tmp_path / "set" / name, f"export/{name}")
    assert rows(tmp_path / "set.zip") == expected


def test_several_categories_an_image_are_refused_as_what_they_are(tmp_path: Path) -> None:
    lay_out(tmp_path, {"annotations.json": coco((0, 9)), "1.jpg": None, "2.jpg": None})
    with pytest.raises(DataError, match=r"1 of 3 images have several categories \(1.jpg: cat, dog\), as for detection"):
        listing.read(tmp_path)


def test_columns_have_no_effect_on_annotations_and_are_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, {"annotations.json": coco(), **dict.fromkeys(LABELS)})
    with pytest.raises(DataError, match=r"labels in COCO annotations, where data.columns and data.ignore_columns have"):
        listing.read(tmp_path, data=DataParams(raw=str(tmp_path), columns={"label": "x"}))


def test_images_without_an_annotation_are_not_used_and_said(tmp_path: Path) -> None:
    content = coco()
    content["images"].append({"id": 50, "file_name": "50.jpg"})
    lay_out(tmp_path, {"annotations.json": content, **dict.fromkeys(LABELS), "50.jpg": None})
    listed = listing.read(tmp_path)
    assert len(listed.table) == 3
    assert listed.notes[-1].endswith("1 images have no annotation and are not used (50.jpg)")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": [{"id": 0}]}, "is no COCO: an entry lacks 'file_name'"),
        ({"annotations": [{"image_id": 0, "category_id": 1}]}, "is no COCO: an entry lacks 1"),
        ({"annotations": [{"image_id": 99, "category_id": 7}]}, "annotates 1 images that it does not list"),
        ({"annotations": []}, "has no image with an annotation"),
        ({"categories": 3}, "is no COCO"),
    ],
)
def test_annotations_that_contradict_themselves_are_refused(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    lay_out(tmp_path, {"annotations.json": coco() | change, **dict.fromkeys(LABELS)})
    with pytest.raises(DataError, match=said):
        listing.read(tmp_path)


def test_annotations_that_are_no_json_are_refused_and_other_json_is_passed_over(tmp_path: Path) -> None:
    lay_out(tmp_path, {"cat/1.jpg": None, "dog/2.jpg": None, "annotations.json": {"images": []}})
    assert [row[1] for row in rows(tmp_path)] == ["cat", "dog"]
    (tmp_path / "annotations.json").write_text("{")
    with pytest.raises(DataError, match=r"annotations.json is no JSON that can be read"):
        listing.read(tmp_path)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("images/train/1.jpg", "labels/train/1.txt", "data.yaml"), r"as YOLO has it \(labels with .txt\)"),
        (("train/images/1.jpg", "train/labels/1.txt"), r"as YOLO has it \(train/labels with .txt\)"),
        (("JPEGImages/1.jpg", "Annotations/1.xml"), r"as Pascal VOC is \(JPEGImages, Annotations\)"),
    ],
)
def test_detection_layouts_are_refused_by_name(tmp_path: Path, files: tuple[str, ...], said: str) -> None:
    lay_out(tmp_path, dict.fromkeys(files))
    with pytest.raises(DataError, match=rf"{said}. Thaw trains one class an image, and no boxes; write each box"):
        listing.read(tmp_path)


def test_classes_called_images_and_labels_stay_classes(tmp_path: Path) -> None:
    lay_out(tmp_path, dict.fromkeys(("images/1.jpg", "labels/2.jpg", "labels/2.txt")))
    assert [row[1] for row in rows(tmp_path)] == ["images", "labels"]


def test_yolo_for_classification_is_read_as_split_folders(tmp_path: Path) -> None:
    lay_out(tmp_path, dict.fromkeys(("train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg", "val/dog/4.jpg")))
    assert [row[2] for row in rows(tmp_path)] == ["train", "train", "val", "val"]
