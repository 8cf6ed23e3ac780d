"""The split into test and development images, and of these into train and val, or into folds.

It is a function of each image's content (or its group) and the seed: what must stay together is a unit, and a unit's
place on the line from 0 to 1 is a hash. Test comes first, so that it depends on nothing that follows.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd

from thaw.data import balance
from thaw.data.balance import Part
from thaw.data.folds import assign_folds, number_of_folds, said_of_gaps
from thaw.data.units import Unit, place_of, units_of
from thaw.errors import DataError
from thaw.pipeline.data_facts import GivenSplitChanged, MissingClass, Move, Split, Unvalidated

SPLITS: tuple[Split, ...] = get_args(Split)
_MOST_SAID = 5


@dataclass(frozen=True)
class SplitNotes:
    """What is worth knowing about a split; the fields are those of audit.json."""

    num_folds: int
    moved_by_repair: list[Move]
    given_split_changed: list[GivenSplitChanged]
    missing: list[MissingClass]
    never_validated: list[Unvalidated]
    units_of_tied_groups: int
    lines: list[str]
    """What `prepare` prints."""


def assign(
    table: pd.DataFrame, *, seed: int, val_fraction: float, test_fraction: float, folds: int | Literal["auto"]
) -> tuple[list[str], list[int], SplitNotes]:
    """Return the split of each row, its fold, and what is worth knowing about both.

    With one fold, it is 0 for the images of val and -1 for those of train and test. With several, all images but those
    of test are in train, and the fold says when an image is validated on, from 0 on; -1 is never.

    `table` has the columns path, sha256, group, label and split, where '' is a group or split that is not given.
    Raises: DataError if a class cannot be trained on, if nothing is left for test or validation, if a group is given
    two splits, or if the images cannot be divided into that many folds.
    """
    units, unified = units_of(table)
    given = {unit.given for unit in units} - {None, "train"}
    movable = [unit for unit in units if unit.given not in given]
    for unit in units:
        unit.split = unit.given if unit.given in given and unit.given is not None else "train"
    # A given test (or val) is kept; what is missing comes off train, in the same proportion.
    test = 0.0 if "test" in given else test_fraction / (1 - val_fraction * ("val" in given))
    val = 0.0 if "val" in given else val_fraction / (1 - test_fraction * ("test" in given))
    if test:
        _hold_out("test", movable, Part(0, test, test), seed)
    development = [unit for unit in units if unit.split != "test"]
    num_folds, lines = number_of_folds(folds, development, val_is_given="val" in given)
    moves: list[Move] = []
    if num_folds > 1:
        for unit in development:
            unit.split = "train"
        moves = assign_folds(development, num_folds, seed)
        lines += said_of_gaps(development, num_folds)
    elif val:
        left = [unit for unit in movable if unit.split == "train"]
        _hold_out("val", left, Part(0, test + val, val / (1 - test)), seed)
    ends: dict[Split, float] = {"test": test, "val": test + val if num_folds == 1 else 0.0}
    moves = _moves(movable, ends, seed) + moves
    for unit in units:
        unit.fold = 0 if unit.split == "val" else unit.fold
    missing = _missing(units)
    splits, fold_of = [""] * len(table), [-1] * len(table)
    for unit in units:
        for row in unit.members:
            splits[row], fold_of[row] = unit.split, unit.fold
    groups = table["group"].tolist()
    num_tied = sum(len({groups[row] for row in unit.members} - {""}) > 1 for unit in units)
    unvalidated = [
        Unvalidated(unit=unit.key, images=unit.num_images, labels=unit.labels)
        for unit in development
        if num_folds > 1 and unit.fold < 0
    ]
    lines += _said_of_missing(units, missing)
    return splits, fold_of, SplitNotes(num_folds, moves, unified, missing, unvalidated, num_tied, lines)


def _hold_out(split: Split, units: Sequence[Unit], part: Part, seed: int) -> None:
    """Put units into a split; what stays for training can be divided once more where that split is test."""
    places = [place_of(unit.key, seed) for unit in units]
    keep = 2 if split == "test" else 1
    found = balance.divide(places, [unit.images for unit in units], [part], keep=keep)
    for unit, number in zip(units, found, strict=True):
        if number != balance.TRAINING:
            unit.split = split


def _moves(units: Sequence[Unit], ends: dict[Split, float], seed: int) -> list[Move]:
    """Return which units are in another split than the one that their places are in."""
    moves = []
    for unit in units:
        place = place_of(unit.key, seed)
        source = next((split for split, end in ends.items() if place < end), "train")
        if source != unit.split:
            moves.append(Move(unit=unit.key, images=unit.num_images, source=source, target=unit.split))
    return moves


def _missing(units: Sequence[Unit]) -> list[MissingClass]:
    """Return which class is never tested or never validated.

    Raises: DataError if a class is never trained on, or if none is tested or validated.
    """
    held: dict[Split, set[str]] = {
        "train": {label for unit in units if unit.split == "train" for label in unit.labels},
        "val": {label for unit in units if unit.fold >= 0 for label in unit.labels},
        "test": {label for unit in units if unit.split == "test" for label in unit.labels},
    }
    classes = sorted(set().union(*held.values()))
    if lost := sorted(set(classes) - held["train"]):
        what, it = (f"class {lost[0]!r} is", "it") if len(lost) == 1 else (f"classes {', '.join(lost)} are", "them")
        raise DataError(f"{what} not in the given train split; add images of {it} there, or remove {it}")
    for split in ("test", "val"):
        if not held[split]:
            raise DataError(
                f"no image is left for {split}: the classes have too few independent images (copies and groups count "
                "once); bring at least 5 of each class"
            )
    return [MissingClass(label=label, split=split) for label in classes for split in SPLITS if label not in held[split]]


def _said_of_missing(units: Sequence[Unit], missing: Sequence[MissingClass]) -> list[str]:
    """Return a line for each of the first classes that are never tested or never validated, and how many more are."""
    number = Counter(label for unit in units for label in unit.labels)
    untested = {gap.label for gap in missing if gap.split == "test"}
    lines = []
    for label in sorted({gap.label for gap in missing}):
        never = "tested; nothing can be said about it" if label in untested else "validated on"
        what = "image or group" if number[label] == 1 else "images or groups"
        lines.append(f"class {label!r} has {number[label]} independent {what}: it is trained on and never {never}")
    if more := len(lines[_MOST_SAID:]):
        lines[_MOST_SAID:] = [f"{more} more such classes are in audit.json, under missing"]
    return lines
