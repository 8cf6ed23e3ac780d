"""What kind of answer the labels of a table ask for: one class an image, or something that Thaw does not train yet."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from thaw.errors import DataError

_MARKS = (";", "|", ",")
_SHARED = 0.8  # share of the names in joined labels that stand in another label, too
_YES_NO = {"0", "1", "0.0", "1.0", "true", "false"}
_YES = {"1", "1.0", "true"}
_FEW_A_VALUE = 5
_MANY_VALUES = 50
_OVERRIDE = "if each value is a class of its own, set data.task: single-label"


def check(labels: Sequence[str], source: Path) -> list[str]:
    """Return what is worth saying of the labels. Raises: DataError if they are several a row, or numbers to predict."""
    counts = Counter(labels)
    if joined := _joined(counts):
        mark, example = joined
        raise DataError(
            f"{source}: labels such as {example!r} name several classes with {mark!r} between them. Thaw trains one "
            f"class an image and no multi-label targets yet; give each image its one label, or {_OVERRIDE}"
        )
    numbers = [_number(text) for text in counts]
    if not numbers or None in numbers:
        return []
    values = [value for value in numbers if value is not None]
    low, high, some = min(values), max(values), ", ".join(list(counts)[:3])
    whole = all(value == int(value) for value in values)
    rare = sorted(counts.values())[len(counts) // 2] < _FEW_A_VALUE
    if len(counts) > _MANY_VALUES or (rare and len(counts) > _FEW_A_VALUE):
        raise DataError(
            f"{source}: the labels are {len(counts)} different numbers from {low:g} to {high:g} ({some}, ...). Thaw "
            f"trains classes and no numbers (regression) yet; put them into classes, such as ranges, or {_OVERRIDE}"
        )
    if whole and len(counts) > 2:
        said = f"{source}: the labels are whole numbers from {low:g} to {high:g}"
        return [f"{said}: they are trained as {len(counts)} classes without an order"]
    return []


def one_hot(table: pd.DataFrame) -> tuple[list[str], bool]:
    """Return the columns that hold nothing but 0 and 1, if there are two or more, and whether each row has one 1."""
    lowered = {str(name): table[name].str.strip().str.casefold() for name in table.columns}
    found = [name for name, cells in lowered.items() if len(cells) and cells.isin(_YES_NO).all()]
    if len(found) < 2:
        return [], False
    ones = pd.DataFrame({name: lowered[name].isin(_YES) for name in found}).sum(axis=1)
    return found, bool((ones == 1).all())


def _joined(counts: Counter[str]) -> tuple[str, str] | None:
    """Return the mark that joins several classes in one label, and such a label.

    Names that stand in one label only are no sign of that: `Paris, France` and `Lyon, France` share a country.
    """
    for mark in _MARKS:
        parts = {label: [part.strip() for part in label.split(mark)] for label in counts}
        joined = [label for label, names in parts.items() if len(names) > 1 and all(names)]
        if not joined:
            continue
        seen = Counter(name for names in parts.values() for name in set(names))
        names = {name for label in joined for name in parts[label]}
        if sum(seen[name] > 1 for name in names) >= _SHARED * len(names):
            return mark, joined[0]
    return None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value - value == 0 else None  # neither NaN nor infinite
