"""The CSV tables that stages write and read: what is text is read back as text, whatever it looks like.

A class may be called `007`, `0.10`, `1e5`, `NA` or `True`; a reader that guesses types would make a number, nothing or
a truth value of it. So the columns that hold text are listed here, and all others hold numbers. People open these
tables in spreadsheets, too, where a class called `=1+1` would be a formula: such a cell has a quote before it in the
file.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from thaw.errors import ArtifactError
from thaw.names import QUOTE, as_cell, from_cell
from thaw.pipeline import artifacts

TEXT = frozenset(
    {"id", "path", "label", "split", "group", "sha256", "look", "reason", "other", "other_label",
     "place", "other_place", "predicted", "head_predicted", "actual", "series",
     "phase", "block"}
)  # fmt: skip
"""Columns of text in the tables of data/prepared, predictions.csv and reports/plots; curves.csv has none."""


def read(path: Path) -> pd.DataFrame:
    """Return a table that `write` wrote: text as it was, '' where there is none; numbers, NaN where there is none.

    Raises: ArtifactError if a column that must hold numbers holds something else, OSError or ValueError if the file
    cannot be read.
    """
    names = pd.read_csv(path, nrows=0, encoding="utf-8").columns
    no_number: dict[Any, list[str]] = {name: [""] for name in names if name not in TEXT}
    table = pd.read_csv(
        path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=no_number, encoding="utf-8"
    )
    if wrong := _texts(table) - TEXT:
        raise ArtifactError(f"{path}: column {min(wrong)!r} holds something else than numbers; run `dvc repro`")
    for name in TEXT.intersection(table.columns):
        if table[name].str.startswith(QUOTE).any():  # few columns have such a cell, and a million cells take a second
            table[name] = [from_cell(cell) for cell in table[name]]
    return table


def write(path: Path, table: pd.DataFrame, *, float_format: str | None = None) -> None:
    """Write a table as CSV (UTF-8) in one step; without a format, with floats that read back as they were."""
    assert _texts(table) <= TEXT, f"{_texts(table) - TEXT} must be listed as text, or `read` refuses the table"
    # pandas would open the path itself: an out may be a hard link into DVC's cache, which that would alter.
    quoted = {
        name: [as_cell(cell) if isinstance(cell, str) else cell for cell in table[name]] for name in _texts(table)
    }
    table = table.assign(**quoted)
    artifacts.write_text(path, table.to_csv(index=False, float_format=float_format, lineterminator="\n"))


def _texts(table: pd.DataFrame) -> set[str]:
    """Return the columns in which any cell holds text."""
    others = [name for name in table.columns if not is_numeric_dtype(table[name])]
    return {str(name) for name in others if any(isinstance(value, str) for value in table[name])}
