"""`thaw labels export`: the labels of a data set in a CSV of their own, which git keeps, beside images that DVC keeps.

Two branches that relabel different images then merge, and a change of a label is a line of a diff.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from thaw.config.reader import load_params
from thaw.config.schema import DataParams
from thaw.data import listing
from thaw.errors import DataError, RunError
from thaw.names import few
from thaw.pipeline.artifacts import write_text
from thaw.project import files
from thaw.project.params_text import with_value

DEFAULT = "labels.csv"
"""The name that the rule in .gitattributes is for."""
_KEY = "data.labels"


def export(root: Path, output: Path | None) -> Iterator[str]:
    """Write the labels of a project's images, and yield what was done, a line each.

    The first time, the labels of `data.raw` (class folders, or its manifest) are written, and params.yaml names the
    file. From then on the file decides: its rows stay, and images in class folders that have none get one.

    Raises: DataError if the labels cannot be known; RunError if a file is in the way or cannot be written.
    """
    data = load_params(root / files.PARAMS).data
    if data.label_file is None or not Path(root, data.label_file).is_file():
        yield from _create(root, data, (output or Path(data.label_file or DEFAULT)).as_posix())
    elif output is not None and output.as_posix() != data.label_file:
        raise RunError(f"{_KEY} is {data.label_file}; leave --output out, or rename the file and set {_KEY} first")
    else:
        yield from _add(root, data, data.label_file)


def _create(root: Path, data: DataParams, name: str) -> Iterator[str]:
    raw = root / data.raw
    if listing.says_its_labels(raw):
        raise DataError(
            f"data.raw is {data.raw}, which has its labels within; set data.raw to the images' folder and {_KEY} to a "
            "CSV, with paths relative to that folder"
        )
    if (root / name).exists():
        raise RunError(f"{name} is there already; give another --output, or set {_KEY} to {name} if it has the labels")
    params = with_value((root / files.PARAMS).read_text(encoding="utf-8"), _KEY, name)
    table = listing.read(raw).table
    _write(root / name, table_text(table))
    _write(root / files.PARAMS, params)
    yield f"{name}: {len(table)} images of {table['label'].nunique()} classes; {files.PARAMS}: {_KEY} is {name}"
    if (inside := listing.table_of(raw)) is not None:
        yield f"remove {data.raw}/{inside.name}, which says the same, and run `dvc add {data.raw}`"
    yield f"next: `git add {name} {files.PARAMS}`; a new image needs a row, which `thaw labels export` adds"


def _add(root: Path, data: DataParams, name: str) -> Iterator[str]:
    """Add a row for each image in a class folder that has none, and name the rows that have no image."""
    raw = root / data.raw
    present, (columns, rows) = listing.files_below(raw), _read(root / name)
    named = {row["path"] for row in rows}
    new, gone = sorted(present - named), sorted(named - present)
    if loose := [path for path in new if "/" not in path]:
        raise DataError(f"{data.raw} has files in no class folder ({few(loose)}); write their rows into {name}")
    if new:
        found = listing.read(raw).table.set_index("path", drop=False).loc[new]
        if "split" in columns and not found["split"].all():
            raise DataError(f"{name} has a column split, which folders do not tell; write the rows of {few(new)}")
        ordered = [row["path"] for row in rows] == sorted(named)
        rows += [{column: str(row.get(column, "")) for column in columns} for row in _records(found)]
        _write(root / name, _text(columns, sorted(rows, key=lambda row: row["path"]) if ordered else rows))
    yield f"{name}: {len(new)} rows added, {len(rows) - len(new)} left as they were"
    if gone:
        yield f"{name} has rows of {len(gone)} images that {data.raw} lacks ({few(gone)}); `dvc pull`, or remove them"


def _telling(table: pd.DataFrame) -> list[str]:
    """Return the columns that say something: path, label, and those with other values than their defaults."""
    default = {"split": "", "group": "", "confidence": 1.0}
    return ["path", "label", *(column for column, value in default.items() if (table[column] != value).any())]


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(column): value for column, value in row.items()} for row in table.to_dict("records")]


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and rows of a CSV of labels as they stand. Raises: DataError if it is none."""
    listing.read_table(path, path.parent)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames or ()), list(reader)


def table_text(table: pd.DataFrame) -> str:
    """Return the table of a listing as a CSV, with the columns that say something."""
    return _text(_telling(table), _records(table))


def _text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from None
