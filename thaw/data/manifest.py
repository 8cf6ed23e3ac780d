"""A table of images: a CSV, or a file with a JSON object a line, with the columns path and label at least.

split, group and confidence are optional. Columns of other names are mapped by `data.columns`; the file_name of a
metadata.csv or .jsonl, as Hugging Face has them, is the path.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from thaw.config.schema import DataParams
from thaw.data import columns, dialect, named_files, targets
from thaw.data.dialect import Sheet
from thaw.data.places import Folder, Place
from thaw.errors import DataError

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""The splits by the names that folders and cells give them, in any case."""
_MORE_SPLITS = {"training": "train", "tr": "train", "dev": "val", "testing": "test", "tst": "test"}
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_FLAGGED = {"isvalid": "val", "isval": "val", "valid": "val", "validation": "val", "istest": "test", "test": "test"}


@dataclass(frozen=True)
class Manifest:
    """The images that a table names."""

    table: pd.DataFrame
    """Columns path (relative, with forward slashes), label, split and group ('' where none is given), confidence;
    sorted by path."""
    notes: list[str]
    """What was found or decided, a line each."""


def read(path: Path, root: Path, data: DataParams) -> Manifest:
    """Return the images that a table names by paths relative to `root`.

    Raises: DataError if it is no such table, if a column is missing or would be ignored although it looks like one that
    matters, if a cell cannot be taken, if a path leads out of `root`, or if the labels ask for more than one class an
    image.
    """
    return of_cells(dialect.read(path, data.encoding), path, Folder(root), data)


def of_cells(sheet: Sheet, path: Path, place: Place, data: DataParams) -> Manifest:
    """Return the images that the cells of a table name by paths relative to a place.

    `path` is that of the table, for messages. Raises: DataError as `read`.
    """
    cells = sheet.table
    asked: dict[str, str] = {str(ours): theirs for ours, theirs in data.columns.items()}
    if path.stem == "metadata" and "file_name" in cells and "path" not in cells:
        asked.setdefault("path", "file_name")
    names = [str(name) for name in cells.columns]
    if "label" not in names and "label" not in asked:
        _check_one_hot(cells, path)
    used, unused = columns.assign(names, asked, data.ignore_columns, path)
    if cells.empty:
        raise DataError(f"{path} lists no images; it needs a row for each")
    for ours in ("path", "label", "split"):
        if ours in used and (empty := int((cells[used[ours]].str.strip() == "").sum())):
            way_out = "remove these rows" if ours in columns.NEEDED else "leave the column out"
            raise DataError(f"{path}: {used[ours]} is empty in {empty} rows; fill it in, or {way_out}")
    paths, changes = named_files.resolve(cells[used["path"]].tolist(), place, path)
    table = pd.DataFrame({"path": paths, "label": cells[used["label"]]}, dtype=object)
    if twice := sorted(set(table["path"][table["path"].duplicated()])):
        more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
        raise DataError(f"{path} lists {twice[0]!r}{more} twice or more; keep one row for each image")
    table["split"] = _splits(cells[used["split"]], used["split"], path) if "split" in used else ""
    table["group"] = cells[used["group"]] if "group" in used else ""
    confidence = used.get("confidence")
    table["confidence"] = [_confidence(text, path) for text in cells[confidence]] if confidence is not None else 1.0
    said = targets.check(table["label"].tolist(), path) if data.task == "auto" else []
    table = table.astype(dict.fromkeys(columns.COLUMNS[:4], object))  # texts, as pandas has them from folders too
    return Manifest(table.sort_values("path", ignore_index=True), [*sheet.notes, *unused, *changes, *said])


def _check_one_hot(cells: pd.DataFrame, path: Path) -> None:
    found, one_each = targets.one_hot(cells)
    if not found:
        return
    shown = f"{path} has no column label; {', '.join(found)} hold 0 and 1"
    if one_each:
        raise DataError(f"{shown}, with one 1 a row: write the name of that column into a column label")
    raise DataError(f"{shown}: several classes an image. Thaw trains one class an image and no multi-label targets yet")


def _splits(cells: "pd.Series[str]", name: str, path: Path) -> Sequence[str]:
    """Return the split of each row, from words or, in a column such as is_valid, from yes and no."""
    texts = cells.str.strip().str.casefold()
    flagged = _FLAGGED.get("".join(letter for letter in name.casefold() if letter.isalnum()))
    if flagged and texts.isin(_FLAGS).all():
        return [flagged if _FLAGS[text] else "train" for text in texts]
    words = SPLITS | _MORE_SPLITS
    if unknown := next((cell for cell, text in zip(cells, texts, strict=True) if text not in words), None):
        raise DataError(f"{path}: split is {unknown!r}; it must be one of {', '.join(words)}")
    return [words[text] for text in texts]


def _confidence(text: str, path: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise DataError(f"{path}: confidence is {text!r}; it must be a number above 0 and at most 1")
    return value
