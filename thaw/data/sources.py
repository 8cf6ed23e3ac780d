"""What `data.raw` is: a folder, a table, an archive of a folder, or files that hold images together with their labels.

The content decides, not the name. What says its labels itself comes with a manifest, as if a table had listed it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from thaw.config.schema import DataParams
from thaw.data import annotations, archives, dialect, manifest, shard_names, torchvision_sets, webdataset
from thaw.data.manifest import SPLITS, Manifest
from thaw.data.places import Archive, Folder, Place
from thaw.errors import DataError

TABLES = ("manifest.csv", "metadata.csv", "metadata.jsonl")
"""Names of tables that list the images of their folder; the last two are those of Hugging Face's image folders."""

_PARQUET = b"PAR1"

Kind = Literal["folder", "table", "zip", "tar", "shards", "parquet"]


@dataclass(frozen=True)
class Source:
    """The files of a data set."""

    place: Place
    manifest: Manifest | None = None
    """The images and labels, where neither folders nor a table among the files say them."""
    notes: Sequence[str] = field(default_factory=list)
    """What was decided on the way, a line each."""


def kind_of(raw: Path) -> Kind:
    """Return what `data.raw` is; a tar may prove to be a shard of samples once it is open.

    Raises: DataError for a file of a kind that is not read.
    """
    try:
        if raw.is_file():
            with raw.open("rb") as file:
                return "parquet" if file.read(4) == _PARQUET else archives.kind_of(raw) or "table"
        if any((raw / name).is_file() for name in TABLES):
            return "folder"
        kinds: Mapping[str, Kind] = {".tar": "shards", ".parquet": "parquet"}
        return next((kind for suffix, kind in kinds.items() if shard_names.of_folder(raw, suffix)), "folder")
    except OSError as error:
        raise DataError(f"{raw} cannot be read: {error.strerror}") from None


def open_source(raw: Path, data: DataParams) -> Source:
    """Return the files that `data.raw` holds. Raises: DataError if they are none that can be read."""
    if data.layout is not None:
        name = data.layout.removeprefix(torchvision_sets.PREFIX)
        _check_columns(data, f"data.layout is {data.layout}")
        return Source(*torchvision_sets.read(raw, name, data))
    kind = kind_of(raw)
    if kind == "table":
        place = Folder(raw.parent)
        return Source(place, manifest.of_cells(dialect.read(raw, data.encoding), raw, place, data))
    if kind == "shards":
        return Source(*webdataset.read(raw, shard_names.of_folder(raw, ".tar"), data))
    if kind == "parquet":
        from thaw.data import parquet  # and pyarrow, which most data sets do without

        return Source(*parquet.read(raw, shard_names.of_folder(raw, ".parquet") if raw.is_dir() else [raw], data))
    if kind == "folder":
        if not any((raw / name).is_file() for name in TABLES):
            torchvision_sets.check_said(raw)
        return _annotated(Source(Folder(raw)), data)
    archive = archives.open_archive(raw, kind)
    if kind == "tar" and webdataset.is_shard(archive):
        return Source(*webdataset.read(raw, [raw], data))
    return _annotated(_without_top(archive), data)


def _annotated(source: Source, data: DataParams) -> Source:
    """Return a folder with the labels of COCO annotations, where it has some and no table of images.

    Raises: DataError if it is laid out for detection otherwise.
    """
    if data.label_file is not None or any(source.place.has(name) for name in TABLES):
        return source
    if found := annotations.find(source.place):
        _check_columns(data, f"{source.place.root} has its labels in COCO annotations")
        return Source(source.place, annotations.read(source.place, found, data), source.notes)
    annotations.check_detection(source.place)
    return source


def _check_columns(data: DataParams, why: str) -> None:
    """Raises: DataError if columns are named where there is no table."""
    if data.columns or data.ignore_columns:
        raise DataError(f"{why}, where data.columns and data.ignore_columns have no effect; remove them")


def _without_top(archive: Archive) -> Source:
    """Return the files of an archive without the one folder that holds all of them, as tools pack a folder.

    A folder that is called as a split and holds class folders says the split, and stays.
    """
    tops = archive.entries()
    if len(tops) != 1 or tops[0].kind != "folder":
        return Source(archive)
    top = tops[0].name
    if top.lower() in SPLITS and any(entry.kind == "folder" for entry in archive.entries(top)):
        return Source(archive)
    note = f"{archive.root}: all files are in the folder {top}, which is left out of their paths"
    return Source(archive.below(top).with_root(archive.root), notes=[note])
