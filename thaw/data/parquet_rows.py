"""Rows of Parquet files, decoded by a process of its own within limits of memory and of time.

A file of a few kilobytes may stand for gigabytes: pages are compressed, and thousands of rows may point to one long
value. So no more than some rows are decoded at once, as many as should take 64 MiB by what the file says of itself.
"""

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from thaw.data import columns
from thaw.errors import DataError
from thaw.pipeline.bounded import Bounded, Bounds, Lost

_BOUNDS = Bounds(memory_bytes=2**31, seconds=60)  # for a schema, or for the rows that are decoded at once
_BYTES_AT_ONCE = 2**26
_MOST_IMAGES, _MOST_TEXTS = 32, 4096  # rows at once
_PAGE_BYTES = 2**20
_CALLED = ("bytes", "image_bytes", "image", "img", "jpg", "png")
"""What a column of bytes is called, where there are several."""

Image = tuple[str, bytes | None]
"""Path of a row ('' for none) and its bytes."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a file hold images."""

    image: str
    """Column of the bytes, or of structs of bytes and path."""
    is_struct: bool
    path: str | None
    """Column of the paths of bytes; None where the structs have them, or nothing does."""


def images_in(schema: pa.Schema) -> list[str]:
    """Return the columns that may be the images: structs of bytes and path, or else bytes; one that is called so alone.

    A struct of bytes and path is what Hugging Face's `Image` is.
    """
    found = [field.name for field in schema if is_image(field.type)] or [
        field.name for field in schema if is_binary(field.type)
    ]
    return [name for name in _CALLED if name in found][:1] if len(found) > 1 and {*_CALLED} & {*found} else found


def is_binary(kind: pa.DataType) -> bool:
    """Tell whether a column holds bytes."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def columns_of(schema: pa.Schema, image: str, asked: str | None = None) -> Columns:
    """Return the columns of images whose bytes are in the column `image`; `asked` may name that of their paths."""
    is_struct = not is_binary(schema.field(image).type)
    texts = [field.name for field in schema if not pa.types.is_nested(field.type) and not is_binary(field.type)]
    alike = [name for name in texts if columns.like(name) == "path" and not is_struct]
    path = next((name for name in (asked, "path", *alike) if name in texts), None)
    return Columns(image, is_struct, path)


def is_image(kind: pa.DataType) -> bool:
    """Tell whether a column holds structs of bytes and path."""
    return pa.types.is_struct(kind) and {kind.field(number).name for number in range(kind.num_fields)} == {
        "bytes",
        "path",
    }


@dataclass(frozen=True)
class _Asked:
    """What a process is to decode of a file: its schema, or rows."""

    file: Path
    found: Columns | tuple[str, ...] | None = None
    """Of images, or of texts by the names of their columns; None for the schema."""
    number: int = 0
    """Of the batch of rows."""


class Rows:
    """Reads Parquet files in a process that may die of one; used as a context manager.

    All methods raise DataError for a file that is damaged, or that takes too much to decode.
    """

    def __init__(self) -> None:
        """Start the process."""
        self._process: Bounded[_Asked, Any] = Bounded(_Decoder(), _BOUNDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()

    def schema(self, file: Path) -> pa.Schema:
        """Return the columns of a file."""
        return self._decoded(_Asked(file))

    def texts(self, file: Path, names: Sequence[str]) -> Iterator[list[tuple[str, ...]]]:
        """Yield the cells of some rows after the other as texts, '' for nothing, in the order of the columns named."""
        return self._batches(file, tuple(names))

    def images(self, file: Path, found: Columns) -> Iterator[Image]:
        """Yield the path and the bytes of each row."""
        for batch in self._batches(file, found):
            yield from batch

    def _batches(self, file: Path, found: Columns | tuple[str, ...]) -> Iterator[list[Any]]:
        number = 0
        while batch := self._decoded(_Asked(file, found, number)):
            yield batch
            number += 1

    def _decoded(self, asked: _Asked) -> Any:
        found = self._process(asked)
        if isinstance(found, Lost):
            raise DataError(
                f"{asked.file} cannot be decoded: a few rows of it take more than {_BOUNDS.memory_bytes >> 30} GiB or "
                f"{_BOUNDS.seconds} seconds ({found.reason}); if you trust it, write it again with smaller values, or "
                "its images as files"
            )
        return found


class _Decoder:
    """What the process does; it keeps the batches of a file at hand, of which one is asked for after the other."""

    def __init__(self) -> None:
        """Begin with no file."""
        self._next: _Asked | None = None
        self._batches: Iterator[list[Any]] = iter(())

    def __call__(self, asked: _Asked) -> Any:
        """Return the schema, or the batch that is asked for; nothing behind the last one. Raises: DataError."""
        pa.set_memory_pool(pa.system_memory_pool())  # others reserve a gibibyte, which would count
        try:
            if asked.found is None:
                return pq.read_schema(asked.file)
            if asked != self._next:
                self._batches = _decoded(asked.file, asked.found)
                for _ in range(asked.number):  # a process before this one has given them
                    next(self._batches, None)
            self._next = _Asked(asked.file, asked.found, asked.number + 1)
            return next(self._batches, [])
        except MemoryError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            raise DataError(
                f"{asked.file} is no Parquet that can be read ({said}); bring it again from its source"
            ) from None


def _decoded(file: Path, found: Columns | tuple[str, ...]) -> Iterator[list[Any]]:
    """Yield some rows after the other, none of them empty."""
    if isinstance(found, Columns):
        names, most = [found.image, *([] if found.path is None else [found.path])], _MOST_IMAGES
    else:
        names, most = [*found], _MOST_TEXTS
    with pq.ParquetFile(file, buffer_size=_PAGE_BYTES, pre_buffer=False) as opened:
        rows = _rows_at_once(opened.metadata, {*names}, most)
        for batch in opened.iter_batches(rows, columns=names, use_threads=False):
            if batch.num_rows:
                yield _images(batch, found) if isinstance(found, Columns) else _texts(batch, found)


def _rows_at_once(metadata: Any, names: set[str], most: int) -> int:
    """Return how many rows should take 64 MiB by the sizes that a file declares, 1 to `most`."""
    size, num_rows = 0, int(metadata.num_rows)
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema in names or column.path_in_schema.partition(".")[0] in names:
                size += max(0, int(column.total_uncompressed_size))
    return max(1, min(most, _BYTES_AT_ONCE * max(1, num_rows) // max(1, size)))


def _images(batch: pa.RecordBatch, found: Columns) -> list[Image]:
    values = batch.column(found.image).to_pylist()
    inside: list[Any] = [None] * len(values)
    if found.is_struct:
        inside = [value["path"] if value else None for value in values]
        values = [value["bytes"] if value else None for value in values]
    names = batch.column(found.path).to_pylist() if found.path is not None else inside
    return [(_inside(str(name or "")), value) for name, value in zip(names, values, strict=True)]


def _texts(batch: pa.RecordBatch, names: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(*(_as_texts(batch.column(name)) for name in names), strict=True))


def _as_texts(column: pa.Array) -> list[str]:
    return ["" if value is None else str(value) for value in column.to_pylist()]


def _inside(path: str) -> str:
    """Return a path that is a name only: of one that leads elsewhere, as an absolute one, the file's name is left."""
    windows = PureWindowsPath(path)
    normal = posixpath.normpath(path) if path else ""
    if windows.drive or "\\" in path or normal.startswith(("/", "..")) or normal == ".":
        return windows.name if windows.name != ".." else ""
    return normal
