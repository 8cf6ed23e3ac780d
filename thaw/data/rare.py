"""Classes of so few images that they cannot be trained on, validated on and tested: what becomes of them."""

import dataclasses
from collections import Counter

import pandas as pd

from thaw.data.catalog import Catalog
from thaw.data.units import units_of
from thaw.errors import DataError

ENOUGH = 3
"""Independent images (a group and exact copies count once) of a class that can be in train, val and test."""
_MERGE = "merge:"


def settle(found: Catalog, policy: str) -> Catalog:
    """Return the catalog as `data.rare` says.

    `error` refuses rare classes, `drop` leaves their images out, `merge:NAME` makes them one class, and `train-only`
    leaves them as they are: the split keeps a class that is too small in training.
    Raises: DataError with all rare classes in one line if that is an error, or if fewer than two classes are left.
    """
    table = found.usable
    units, _ = units_of(table)
    independent = Counter(label for unit in units for label in unit.labels)
    rare = sorted(label for label in set(table["label"]) if independent[label] < ENOUGH)
    if not rare or policy == "train-only":
        return found
    shown = ", ".join(f"{label} ({independent[label]})" for label in rare)
    said = f"{len(rare)} class{'es have' if len(rare) > 1 else ' has'} fewer than {ENOUGH} independent images: {shown}"
    if policy == "error":
        raise DataError(
            f"{said}; bring more, or set data.rare to train-only (trained on, never tested), drop, or merge:NAME (one "
            "class)"
        )
    rows = table["label"].isin(rare)
    if policy == "drop":
        reason = f"its class has fewer than {ENOUGH} independent images (data.rare: drop)"
        aside = pd.DataFrame({"path": table["path"][rows], "reason": reason}, dtype=object)
        rejected = pd.concat([found.rejected, aside]).sort_values("path", ignore_index=True)
        usable, line = table[~rows].reset_index(drop=True), f"{said}; they are left out (data.rare: drop)"
    else:
        name = policy.removeprefix(_MERGE)
        usable = table.assign(label=table["label"].mask(rows, name))
        rejected, line = found.rejected, f"{said}; they are one class, {name} (data.rare: {policy})"
    if usable["label"].nunique() < 2:
        raise DataError(f"{line}; that leaves fewer than two classes")
    return dataclasses.replace(found, usable=usable, rejected=rejected, notes=[*found.notes, line])
