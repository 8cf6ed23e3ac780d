"""Annotations of detection data sets: COCO where an image has one category, all others recognised and refused by name.

In COCO (cocodataset.org, "Data format") a JSON lists images, categories, and annotations that tie an image to a
category and a box. The boxes are not used: Thaw classifies an image as a whole.
"""

import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from thaw.config.schema import DataParams
from thaw.data import manifest, shard_names
from thaw.data.dialect import Sheet
from thaw.data.manifest import SPLITS, Manifest
from thaw.data.places import Place
from thaw.errors import DataError
from thaw.names import few

_NAMED = re.compile(r"annotation|instances|coco", re.IGNORECASE)
_KEYS = {"images", "annotations", "categories"}
_WAY_OUT = (
    "Thaw trains one class an image, and no boxes; write each box as an image of its own into a folder of its class, "
    "or list one class an image in a manifest.csv"
)


def find(place: Place) -> dict[str, Mapping[str, Any]]:
    """Return the COCO annotations in a place by path: at its top or in a folder there. Raises: DataError."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in _candidates(place):
        try:
            content = json.loads(place.content(path))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place.root / path} is no JSON that can be read ({str(error)[:80]})") from None
        if isinstance(content, dict) and content.keys() >= _KEYS:
            found[path] = content
    return found


def _candidates(place: Place) -> Iterator[str]:
    for entry in place.entries():
        if entry.kind == "file" and _is_named(entry.name):
            yield entry.name
        if entry.kind == "folder" and (entry.name.lower() in SPLITS or _is_named(f"{entry.name}.json")):
            for inner in place.entries(entry.name):
                path = f"{entry.name}/{inner.name}"
                if inner.kind == "file" and _is_named(path):
                    yield path


def _is_named(path: str) -> bool:
    return path.lower().endswith(".json") and _NAMED.search(path) is not None


def read(place: Place, found: Mapping[str, Mapping[str, Any]], data: DataParams) -> Manifest:
    """Return the images that COCO annotations list, each with its one category.

    Raises: DataError if an image has several categories, or the annotations contradict themselves.
    """
    rows, notes = [], []
    splits = shard_names.splits([place.root / path for path in found], place.root)
    for (path, content), split in zip(found.items(), splits, strict=True):
        listed, said = _listed(content, path, place)
        rows += [{"path": name, "label": label, **({"split": split} if split else {})} for name, label in listed]
        notes += said
    source = place.root / next(iter(found))
    if not rows:
        raise DataError(f"{source} has no image with an annotation; a class needs some")
    how = data.model_copy(update={"columns": {}, "ignore_columns": ()})
    listing = manifest.of_cells(Sheet(pd.DataFrame(rows, dtype=object), []), source, place, how)
    return Manifest(listing.table, [*notes, *listing.notes])


def _listed(content: Mapping[str, Any], path: str, place: Place) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the path and the category of each image that has one, and what is not used."""
    source = place.root / path
    try:
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        categories = {category["id"]: str(category["name"]) for category in content["categories"]}
        of_image: dict[object, set[str]] = defaultdict(set)
        boxes = 0
        for annotation in content["annotations"]:
            of_image[annotation["image_id"]].add(categories[annotation["category_id"]])
            boxes += "bbox" in annotation or "segmentation" in annotation
    except (KeyError, TypeError) as error:
        raise DataError(f"{source} is no COCO: an entry lacks {error}, or has another form; write it again") from None
    if unknown := [image for image in of_image if image not in names]:
        raise DataError(
            f"{source} annotates {len(unknown)} images that it does not list ({unknown[0]}); write it again"
        )
    if several := [image for image, labels in of_image.items() if len(labels) > 1]:
        shown = f"{names[several[0]]}: {', '.join(sorted(of_image[several[0]]))}"
        raise DataError(
            f"{source}: {len(several)} of {len(names)} images have several categories ({shown}), as for detection or "
            f"multi-label targets. {_WAY_OUT}"
        )
    folder = _folder(path, list(names.values()), place)
    listed = [
        (posixpath.normpath(f"{folder}/{name}").lstrip("/"), min(of_image[image]))
        for image, name in names.items()
        if image in of_image
    ]
    notes = [f"{source}: labels are the categories of its annotations (COCO)"]
    if boxes:
        notes.append(f"{source}: {boxes} boxes or outlines are not used: an image is classified as a whole")
    if without := [name for image, name in names.items() if image not in of_image]:
        notes.append(f"{source}: {len(without)} images have no annotation and are not used ({few(sorted(without))})")
    return listed, notes


def _folder(path: str, names: Sequence[str], place: Place) -> str:
    """Return the folder that the file names of annotations count from: the first in which one of them is there."""
    here = path.rpartition("/")[0]
    above = here.rpartition("/")[0]
    own = PurePosixPath(path).stem.rpartition("_")[2]  # instances_train2017.json tells of train2017
    for folder in (here, f"{here}/images", above, f"{above}/images", f"{above}/{own}", f"{above}/images/{own}"):
        inside = folder.strip("/")
        if any(place.has(posixpath.normpath(f"{inside}/{name}").lstrip("/")) for name in names[:100]):
            return inside
    return here


def check_detection(place: Place) -> None:
    """Raises: DataError if folders are laid out for detection: those of YOLO, or of Pascal VOC."""
    tops = {entry.name for entry in place.entries() if entry.kind == "folder"}
    if {"JPEGImages", "Annotations"} <= tops:
        raise DataError(
            f"{place.root} is laid out for detection as Pascal VOC is (JPEGImages, Annotations). {_WAY_OUT}"
        )
    for folder in ["", *sorted(top for top in tops if top.lower() in SPLITS)]:
        inside = {entry.name for entry in place.entries(folder) if entry.kind == "folder"}
        if {"images", "labels"} <= inside and _has_texts(place, f"{folder}/labels".lstrip("/")):
            shown = f"{folder}/labels" if folder else "labels"
            raise DataError(f"{place.root} is laid out for detection as YOLO has it ({shown} with .txt). {_WAY_OUT}")


def _has_texts(place: Place, folder: str) -> bool:
    """Tell whether a folder, or a folder in it, holds text files and nothing else."""
    files = list[str]()
    for entry in place.entries(folder):
        inner = place.entries(f"{folder}/{entry.name}") if entry.kind == "folder" else [entry]
        files += [one.name for one in inner if one.kind == "file"]
    return bool(files) and all(name.lower().endswith((".txt", ".cache")) for name in files)
