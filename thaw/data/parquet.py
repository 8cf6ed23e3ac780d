"""Parquet files whose rows are images: Hugging Face's struct of bytes and path, or columns of bytes, path and label.

Numbers of classes become names where the schema has them (Hugging Face's ClassLabel). The bytes are copied into a file
once, a few rows at a time: an image alone cannot be read from a Parquet file. A file without bytes is a table of paths.
"""

import json
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from thaw.config.schema import DataParams
from thaw.data import archives, columns, manifest, shard_names
from thaw.data.dialect import Sheet
from thaw.data.manifest import Manifest
from thaw.data.places import Archive, Folder, Part, Place
from thaw.data.unpacked import LARGEST_FILE, Unpacked
from thaw.errors import DataError
from thaw.names import few

_ROWS = 32  # read at once: the bytes of that many images are in memory
_PAGE_BYTES = 2**20
_BYTES = ("bytes", "image_bytes", "image", "img", "jpg", "png")
"""What a column of bytes is called, where there are several."""


@dataclass(frozen=True)
class _Columns:
    """Which columns of a file hold what."""

    texts: list[str]
    """Columns that become cells."""
    others: list[str]
    """Columns of lists, structs and bytes, which become cells without text."""
    image: str | None
    """Column of the bytes, or of structs of bytes and path; None for a table of paths."""
    is_struct: bool
    path: str | None
    """Column of the paths of bytes; None where the structs have them, or nothing does."""
    classes: Mapping[str, Sequence[str]]
    """Names of the classes by column, where the schema has them."""


def read(raw: Path, files: Sequence[Path], data: DataParams) -> tuple[Place, Manifest]:
    """Return the images of Parquet files, and their labels.

    Raises: DataError if a file is damaged, if files differ in their columns, or if it is unclear which column is which.
    """
    root = raw if raw.is_dir() else raw.parent
    with _in_words(raw):
        if pointer := next((file for file in files if archives.is_pointer(file)), None):
            raise DataError(f"{pointer} is a pointer of Git LFS; run `git lfs pull`, which brings the file")
        schemas = [pq.read_schema(file) for file in files]
        if other := next(
            (file for file, schema in zip(files, schemas, strict=True) if not _alike(schema, schemas)), None
        ):
            raise DataError(f"{other} has other columns than {files[0]}; keep files of one data set in the folder")
        found = _columns(schemas[0], data, raw)
        label = data.columns.get("label", "label")
        if label in found.others:
            raise DataError(
                f"{raw}: column {label!r} holds several values a row. Thaw trains one class an image and no "
                "multi-label targets yet; write one label a row"
            )
        tables = [_texts(file, found) for file in files]
        cells = pd.concat(tables, ignore_index=True)
        place: Place = Folder(root)
        if found.image is not None:
            place, paths = _unpacked(raw, files, found)
            cells["path"] = paths
    splits = shard_names.splits(files, root)
    if any(splits):
        if "split" in cells and "split" not in data.ignore_columns:
            raise DataError(f"{raw} has a column split, and so say the names of files; name it in data.ignore_columns")
        cells["split"] = [split for split, table in zip(splits, tables, strict=True) for _ in range(len(table))]
    cells, notes = _named(cells, label, found.classes.get(label), raw)
    asked = {ours: name for ours, name in data.columns.items() if ours != "path" or found.image is None}
    how = data.model_copy(update={"columns": asked})
    listed = manifest.of_cells(Sheet(cells, []), raw, place, how)
    return place, Manifest(listed.table, [*notes, *listed.notes])


def _alike(schema: pa.Schema, schemas: Sequence[pa.Schema]) -> bool:
    return bool(schema.names == schemas[0].names)


@contextmanager
def _in_words(raw: Path) -> Iterator[None]:
    """Within, what Arrow finds wrong becomes one line. Raises: DataError."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:200]
        raise DataError(f"{raw} is no Parquet that can be read ({said}); bring it again from its source") from None


def _columns(schema: pa.Schema, data: DataParams, raw: Path) -> _Columns:
    """Return which column is which. Raises: DataError if that is unclear."""
    if twice := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise DataError(f"{raw} has two columns {twice[0]!r}; write it with one of them")
    features, asked = _features(schema), data.columns.get("path")
    structs = [field.name for field in schema if _is_image(field.type)]
    binary = [field.name for field in schema if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)]
    texts = [field.name for field in schema if not pa.types.is_nested(field.type) and field.name not in binary]
    image = asked if asked in {*structs, *binary} else _only(structs or binary, raw)
    path = None
    if image is not None:
        alike = [name for name in texts if columns.like(name) == "path" and image in binary]
        path = next((name for name in (asked, "path", *alike) if name in texts), None)
    classes = {name: feature["names"] for name, feature in features.items() if _is_class_label(feature)}
    kept = [name for name in texts if image is None or name != path]
    others = [name for name in schema.names if name not in {*kept, image, path}]
    return _Columns(kept, others, image, image in structs, path, classes)


def _only(names: Sequence[str], raw: Path) -> str | None:
    """Return the column of the images, if there is one. Raises: DataError if several may be it."""
    if len(names) < 2:
        return names[0] if names else None
    if found := [name for name in _BYTES if name in names]:
        return found[0]
    raise DataError(
        f"{raw} has the images in one of the columns {', '.join(map(repr, names))}; say in which: data.columns: "
        f"{{path: {names[0]}}}"
    )


def _is_image(kind: pa.DataType) -> bool:
    """Tell whether a column is a struct of bytes and path, as Hugging Face's `Image` is."""
    return pa.types.is_struct(kind) and {kind.field(number).name for number in range(kind.num_fields)} == {
        "bytes",
        "path",
    }


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return what Hugging Face's datasets say of the columns; nothing where the file is not of theirs."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_class_label(feature: object) -> bool:
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return False
    names = feature.get("names")
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _texts(file: Path, found: _Columns) -> pd.DataFrame:
    """Return the cells of a file as texts, '' for nothing."""
    table = pq.read_table(file, columns=found.texts)
    cells = {name: _as_texts(table.column(name)) for name in found.texts}
    rows = pq.read_metadata(file).num_rows
    return pd.DataFrame({**cells, **dict.fromkeys(found.others, "")}, index=range(rows), dtype=object)


def _as_texts(column: pa.ChunkedArray) -> list[str]:
    return ["" if value is None else str(value) for value in column.to_pylist()]


def _unpacked(raw: Path, files: Sequence[Path], found: _Columns) -> tuple[Archive, list[str]]:
    """Return the images, unpacked, and the path of each row.

    A path that is missing, or stands in several rows, gets the number of its row before it.
    """
    given, parts = list[str](), list[Part]()
    with Unpacked(raw) as unpacked:
        for file in files:
            packed_bytes = file.stat().st_size
            for name, data in _images(file, found):
                unpacked.count(len(data or b""), packed_bytes)
                given.append(name)
                parts.append(_part(unpacked, data))
        paths = _names(given)
        return unpacked.archive(raw, dict(zip(paths, parts, strict=True))), paths


def _part(unpacked: Unpacked, data: bytes | None) -> Part:
    if data is None:
        return Part(refused="a row without bytes")
    if len(data) > LARGEST_FILE:
        return Part(refused=f"larger than {LARGEST_FILE} bytes")
    return unpacked.append(data)


def _images(file: Path, found: _Columns) -> Iterator[tuple[str, bytes | None]]:
    """Yield the path and the bytes of each row."""
    wanted = [found.image, *([found.path] if found.path is not None else [])]
    with pq.ParquetFile(file, buffer_size=_PAGE_BYTES, pre_buffer=False) as opened:
        for batch in opened.iter_batches(_ROWS, columns=wanted, use_threads=False):
            values = batch.column(found.image).to_pylist()
            if found.is_struct:
                inside = [value["path"] if value else None for value in values]
                values = [value["bytes"] if value else None for value in values]
            else:
                inside = [None] * len(values)
            names = batch.column(found.path).to_pylist() if found.path is not None else inside
            yield from ((_inside(str(name or "")), value) for name, value in zip(names, values, strict=True))


def _inside(path: str) -> str:
    """Return a path that is a name only: of one that leads elsewhere, as an absolute one, the file's name is left."""
    windows = PureWindowsPath(path)
    normal = posixpath.normpath(path) if path else ""
    if windows.drive or "\\" in path or normal.startswith(("/", "..")) or normal == ".":
        return windows.name if windows.name != ".." else ""
    return normal


def _names(given: Sequence[str]) -> list[str]:
    counts = Counter(given)
    if all(name and count == 1 for name, count in counts.items()):
        return [*given]
    return [f"{row:08d}-{name.rpartition('/')[2]}" if name else f"{row:08d}" for row, name in enumerate(given)]


def _named(cells: pd.DataFrame, label: str, classes: Sequence[str] | None, raw: Path) -> tuple[pd.DataFrame, list[str]]:
    """Return the cells with names in the place of numbers of classes, without rows of class -1, and what was done."""
    if classes is None:
        return cells, []
    names = {str(number): name for number, name in enumerate(classes)}
    without = cells[label].isin(["", "-1"])
    cells = cells[~without].reset_index(drop=True)
    if unknown := sorted(set(cells[label]) - names.keys()):
        raise DataError(f"{raw} has the classes {few(unknown)}, and names for 0 to {len(names) - 1}; write it again")
    notes = [f"{raw}: {int(without.sum())} rows have no label (-1) and are not used"] if without.any() else []
    return cells.assign(**{label: cells[label].map(names)}), notes
