"""A table in a text file as people have it: its encoding, its separator and its header are found, and said."""

import codecs
import csv
import json
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pandas as pd

from thaw.errors import DataError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# Longest first: the mark of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_NO_TEXT = {b"PK\x03\x04": "a spreadsheet or an archive", b"\xd0\xcf\x11\xe0": "an old spreadsheet", b"PAR1": "Parquet"}


@dataclass(frozen=True)
class Sheet:
    """The cells of a table as text."""

    table: pd.DataFrame
    """Columns as the header names them, each a text; no cell is missing, an empty one is ''."""
    notes: list[str]
    """What was found to be otherwise than in a CSV in UTF-8, a line each."""


def read(path: Path, encoding: str = "auto") -> Sheet:
    """Return the cells of a CSV, or of a file with one JSON object a line (.jsonl).

    `encoding` is `auto` (UTF-8, or what a byte order mark says) or a name that Python knows.
    Raises: DataError if it is no such text, if rows have other lengths than the header, or if two columns share a name.
    """
    return parse(_bytes(path), path, encoding)


def parse(data: bytes, path: Path, encoding: str = "auto") -> Sheet:
    """Return the cells of a table whose bytes were read from `path`. Raises: DataError as `read`."""
    text, found = _text(data, path, encoding)
    _check_conflicts(path, text)
    if path.suffix.lower() == ".jsonl":
        return Sheet(_from_lines(path, text), found)
    asked, rest = _said_separator(text)
    separator = asked or _separator(rest)
    try:
        cells = pd.read_csv(StringIO(rest), sep=separator, header=None, dtype=str, keep_default_na=False).fillna("")
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise DataError(f"{path} is no CSV that can be read ({' '.join(str(error).split())})") from None
    named = cells.loc[:, cells.iloc[0].str.strip() != ""]
    if without := cells.shape[1] - named.shape[1]:
        found = [*found, f"{path}: columns without a name are not used ({without})"]
    names = named.iloc[0].tolist()
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{path} has two columns {twice!r}; rename one of them")
    table = named.iloc[1:].reset_index(drop=True).set_axis(names, axis=1)
    if separator != ",":
        found = [*found, f"{path} is separated by {SEPARATORS[separator]}"]
    return Sheet(table, found)


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(4)
            _check_kind(start, path)  # before an archive of gigabytes is read
            return start + file.read()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def _check_kind(start: bytes, path: Path) -> None:
    if kind := next((kind for magic, kind in _NO_TEXT.items() if start.startswith(magic)), None):
        raise DataError(f"{path} is {kind}, and no text; save it as CSV in UTF-8")


def _text(data: bytes, path: Path, encoding: str) -> tuple[str, list[str]]:
    _check_kind(data, path)
    marked = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    asked = None if encoding == "auto" else encoding
    name = marked or asked or "utf-8"
    try:
        text = data.decode(name)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path} is neither a folder nor a CSV in {name.upper()} (line {line} has a byte that is none); save it in "
            "UTF-8, or say what it is in, such as data.encoding: latin-1"
        ) from None
    return text, [f"{path} is in {name.upper()}"] if name not in {"utf-8", "utf-8-sig"} else []


def _check_conflicts(path: Path, text: str) -> None:
    """Refuse what a merge of git has left: its markers would be read as images."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith(("<<<<<<< ", ">>>>>>> ")):
            raise DataError(
                f"{path}: line {number} is `{line.strip()}`, a conflict of git; resolve it, and run `dvc repro`"
            )


def _said_separator(text: str) -> tuple[str | None, str]:
    """Return the separator that a first line `sep=;` says, as Excel writes it, and the text below that line."""
    first, _, rest = text.partition("\n")
    said = first.rstrip("\r").removeprefix("sep=")
    return (said, rest) if said != first.rstrip("\r") and said in SEPARATORS else (None, text)


def _separator(text: str) -> str:
    """Return the separator that divides the header into most columns; a comma where none does."""
    header = text.partition("\n")[0].rstrip("\r")

    def num_columns(mark: str) -> int:
        try:
            return len(next(csv.reader([header], delimiter=mark), []))
        except csv.Error:  # it has a carriage return inside, or a cell beyond the limit of the library
            return 0

    return max(SEPARATORS, key=num_columns)


def _from_lines(path: Path, text: str) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}: line {number} is no JSON ({error}); each line is an object") from None
        if not isinstance(row, dict):
            raise DataError(f'{path}: line {number} is no JSON object; write {{"file_name": ..., "label": ...}}')
        rows.append({str(key): cell(value) for key, value in row.items()})
    return pd.DataFrame(rows, dtype=object).fillna("")


def cell(value: object) -> str:
    """Return a value of JSON as the text of a cell; '' for null."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
