"""Parquet files whose rows are images: Hugging Face's struct of bytes and path, or columns of bytes, path and label.

Numbers of classes become names where the schema has them (Hugging Face's ClassLabel). The bytes are copied into a file
once, a few rows at a time: an image alone cannot be read from a Parquet file. A file without bytes is a table of paths.
A process of its own decodes (parquet_rows.py).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from thaw.config.schema import DataParams
from thaw.data import archives, manifest, parquet_rows, shard_names, unpacked
from thaw.data.dialect import Sheet
from thaw.data.manifest import Manifest
from thaw.data.parquet_rows import Rows
from thaw.data.places import Archive, Folder, Part, Place
from thaw.data.unpacked import LARGEST_FILE, Unpacked
from thaw.errors import DataError
from thaw.names import few

_CELL_BYTES = 64  # of a text in memory, beside its letters


@dataclass(frozen=True)
class _Columns:
    """Which columns of a file hold what."""

    texts: list[str]
    """Columns that become cells."""
    others: list[str]
    """Columns of lists, structs and bytes, which become cells without text."""
    image: parquet_rows.Columns | None
    """Columns of the images; None for a table of paths."""
    classes: Mapping[str, Sequence[str]]
    """Names of the classes by column, where the schema has them."""


def read(raw: Path, files: Sequence[Path], data: DataParams) -> tuple[Place, Manifest]:
    """Return the images of Parquet files, and their labels.

    Raises: DataError if a file is damaged, if files differ in their columns, or if it is unclear which column is which.
    """
    root = raw if raw.is_dir() else raw.parent
    if pointer := next((file for file in files if archives.is_pointer(file)), None):
        raise DataError(f"{pointer} is a pointer of Git LFS; run `git lfs pull`, which brings the file")
    with Rows() as rows:
        schemas = [rows.schema(file) for file in files]
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
        if not found.texts:
            raise DataError(
                f"{raw} has no column {label}, nor another one of texts or numbers; write the labels into it"
            )
        tables = _texts(rows, raw, files, found)
        cells = pd.concat(tables, ignore_index=True)
        place: Place = Folder(root)
        if found.image is not None:
            place, paths = _unpacked(rows, raw, files, found.image)
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


def _columns(schema: pa.Schema, data: DataParams, raw: Path) -> _Columns:
    """Return which column is which. Raises: DataError if that is unclear."""
    if twice := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise DataError(f"{raw} has two columns {twice[0]!r}; write it with one of them")
    features, asked = _features(schema), data.columns.get("path")
    binary = [field.name for field in schema if parquet_rows.is_binary(field.type)]
    texts = [field.name for field in schema if not pa.types.is_nested(field.type) and field.name not in binary]
    structs = [field.name for field in schema if parquet_rows.is_image(field.type)]
    image = asked if asked in {*structs, *binary} else _only(parquet_rows.images_in(schema), raw)
    images = None if image is None else parquet_rows.columns_of(schema, image, asked)
    classes = {name: feature["names"] for name, feature in features.items() if _is_class_label(feature)}
    path = None if images is None else images.path
    kept = [name for name in texts if name != path]
    others = [name for name in schema.names if name not in {*kept, image, path}]
    return _Columns(kept, others, images, classes)


def _only(names: Sequence[str], raw: Path) -> str | None:
    """Return the column of the images, if there is one. Raises: DataError if several may be it."""
    if len(names) < 2:
        return names[0] if names else None
    raise DataError(
        f"{raw} has the images in one of the columns {', '.join(map(repr, names))}; say in which: data.columns: "
        f"{{path: {names[0]}}}"
    )


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


def _texts(rows: Rows, raw: Path, files: Sequence[Path], found: _Columns) -> list[pd.DataFrame]:
    """Return the cells of each file as texts, '' for nothing. Raises: DataError if there are too many for the files."""
    tables, in_memory, packed = list[pd.DataFrame](), 0, 0
    for file in files:
        cells, packed = list[tuple[str, ...]](), packed + file.stat().st_size
        for batch in rows.texts(file, found.texts) if found.texts else ():
            in_memory += sum(_CELL_BYTES + len(cell) for row in batch for cell in row)
            unpacked.check(raw, in_memory, packed)
            cells += batch
        table = pd.DataFrame(cells, columns=found.texts, dtype=object)
        tables.append(table.assign(**dict.fromkeys(found.others, "")))
    return tables


def _unpacked(rows: Rows, raw: Path, files: Sequence[Path], found: parquet_rows.Columns) -> tuple[Archive, list[str]]:
    """Return the images, unpacked, and the path of each row.

    A path that is missing, or stands in several rows, gets the number of its row before it.
    """
    given, parts, packed_bytes = list[str](), list[Part](), 0
    with Unpacked(raw) as into:
        for file in files:
            packed_bytes += file.stat().st_size
            for name, data in rows.images(file, found):
                into.count(len(data or b""), packed_bytes)
                given.append(name)
                parts.append(_part(into, data))
        paths = _names(given)
        return into.archive(raw, dict(zip(paths, parts, strict=True))), paths


def _part(into: Unpacked, data: bytes | None) -> Part:
    if data is None:
        return Part(refused="a row without bytes")
    if len(data) > LARGEST_FILE:
        return Part(refused=f"larger than {LARGEST_FILE} bytes")
    return into.append(data)


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
