"""Tables written row by row, as CSV, JSON lines or Parquet: to standard output, or to a file whole or not at all."""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO

from thaw.errors import ThawError
from thaw.names import as_cell

_ROWS_AT_ONCE = 4096

Row = Mapping[str, str | float]
Write = Callable[[Row], None]


class Format(StrEnum):
    """How a table is written."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


def format_of(asked: Format | None, output: Path | None) -> Format:
    """Return the format: the one asked for, the one that the file's name ends in, or CSV on standard output.

    Raises: ThawError if they contradict each other, or Parquet has no file to go to.
    """
    named = None if output is None else output.suffix.removeprefix(".").lower()
    if asked is Format.PARQUET and output is None:
        raise ThawError("--format parquet needs a file; name one with --output")
    if asked is None and named is not None and named not in {*Format}:
        raise ThawError(f"--output is {output}; end it in .csv, .jsonl or .parquet, or say --format")
    if asked is not None and named in {*Format} - {asked}:
        raise ThawError(f"--format is {asked} and --output {output}; drop one of them, or let them agree")
    return asked or Format(named or Format.CSV)


@contextmanager
def table(form: Format, output: Path | None, columns: Sequence[str]) -> Iterator[Write]:
    """Yield what writes a row; a file gets its name when the block succeeds, and an old one stays until then.

    Columns called path, class or class_N, model and explanation are text, all others numbers.
    Raises: ThawError if the file cannot be written.
    """
    if output is None:
        with _writer(form, sys.stdout, columns) as write:
            yield write
        return
    partial = output.with_name(f".{output.name}.partial")
    try:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            if form is Format.PARQUET:
                with _parquet(partial, columns) as write:
                    yield write
            else:
                with partial.open("w", encoding="utf-8", newline="") as file, _writer(form, file, columns) as write:
                    yield write
            partial.replace(output)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ThawError(
            f"{output} cannot be written: {error.strerror or error}; name another file with --output"
        ) from None


@contextmanager
def _writer(form: Format, file: IO[str], columns: Sequence[str]) -> Iterator[Write]:
    if form is Format.JSONL:
        yield lambda row: print(json.dumps(row, ensure_ascii=False), file=file)
        return
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()  # no column is a formula: those with a name of others begin with p:
    yield lambda row: writer.writerow(
        {name: as_cell(value) if isinstance(value, str) else value for name, value in row.items()}
    )


@contextmanager
def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Write]:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = [pa.string() if _is_text(name) else pa.float64() for name in columns]
    schema = pa.schema(list(zip(columns, kinds, strict=True)))
    waiting: list[Row] = []
    with parquet.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
            waiting.clear()

        def write(row: Row) -> None:
            waiting.append(row)
            if len(waiting) == _ROWS_AT_ONCE:
                flush()

        yield write
        if waiting:
            flush()


def _is_text(column: str) -> bool:
    return column in ("path", "class", "model", "explanation") or column.startswith("class_")
