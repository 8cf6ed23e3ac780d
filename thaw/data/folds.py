"""The folds: parts of the development images (all but test) of which each is once validation and else training data.

A unit's place is a hash of its own, so that a fold depends neither on which images are in test nor on the fractions.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import pandas as pd

from thaw.data import balance
from thaw.data.balance import Part
from thaw.data.units import Unit, place_of
from thaw.errors import DataError
from thaw.pipeline.data_facts import Move, Place

MOST_FOR_FOLDS = 1000
"""Development images up to which `auto` takes folds: with more, one part for validation is enough to choose by."""
AUTO = 5
LEAST_TRAINED = 0.5
"""Share of what even folds would leave for training that every fold must leave."""
_FAR = 2
"""So many times an even fold is a unit that is named."""


def number_of_folds(
    asked: int | Literal["auto"], development: Sequence[Unit], *, val_is_given: bool
) -> tuple[int, list[str]]:
    """Return into how many folds the development units are divided, and lines for the user that say why.

    Raises: DataError if there are fewer units than folds, or one that leaves too little to train on.
    """
    free, num_images = _free(development), sum(unit.num_images for unit in development)
    num_free, images = len(free), f"{num_images:,} development images"
    if asked == 1 or not num_free:  # without a free unit there is nothing to validate on, which the split says
        return 1, [f"one part for validation, of {images} (select.folds)"]
    num_folds = AUTO if asked == "auto" else asked
    largest = max(free, key=lambda unit: (unit.num_images, unit.key))
    trained = num_images - largest.num_images
    too_large = trained < LEAST_TRAINED * num_images * (num_folds - 1) / num_folds
    if asked == "auto":
        reasons = {
            "val is given": val_is_given,
            f"folds are for up to {MOST_FOR_FOLDS:,}": num_images > MOST_FOR_FOLDS,
            f"only {num_free} of them are independent": num_free < AUTO,
            f"{largest.num_images} of them belong together": too_large,
        }
        if reason := next((text for text, holds in reasons.items() if holds), None):
            return 1, [f"one part for validation, of {images}, since {reason} (select.folds: auto)"]
    elif num_free < num_folds:
        raise DataError(
            f"params.yaml: select.folds is {num_folds}, but of {images} only {num_free} are independent and not alone "
            f"in their class (copies and groups count once); set it to {num_free} or less, or to auto"
        )
    elif too_large:
        raise DataError(
            f"{largest.num_images} of {images} belong together (unit {largest.key!r}), and the fold that validates on "
            f"them trains on {trained} only; divide the group, or set select.folds: 1 in params.yaml"
        )
    lines = [f"{num_folds} folds of {images} (select.folds{': auto' if asked == 'auto' else ''})"]
    if val_is_given:
        lines.append("the given val is divided among the folds, too, since select.folds asks for folds")
    if largest.num_images > _FAR * num_images / num_folds:
        lines.append(
            f"{largest.num_images} of {images} belong together (unit {largest.key!r}): the fold that validates on them "
            f"trains on {trained}; divide the group for even folds, or set select.folds: 1"
        )
    return num_folds, lines


def _free(units: Sequence[Unit]) -> list[Unit]:
    """Return the units that can be validated on: each of their classes has another unit to train on."""
    count = Counter(label for unit in units for label in unit.labels)
    return [unit for unit in units if all(count[label] > 1 for label in unit.labels)]


def said_of_gaps(development: Sequence[Unit], num_folds: int) -> list[str]:
    """Return a line for the user where a class is not in every fold, and one where a fold holds one class only."""
    held: list[set[str]] = [set() for _ in range(num_folds)]
    number: Counter[str] = Counter()
    for unit in development:
        if unit.fold >= 0:
            held[unit.fold].update(unit.labels)
            number.update(unit.labels)
    lines = []
    gaps = {label: sum(label not in labels for labels in held) for label in number}
    if partial := [label for label in sorted(number) if gaps[label]]:
        rarest = min(partial, key=lambda label: (number[label], label))
        others = f" (and {len(partial) - 1} more)" if len(partial) > 1 else ""
        fewer = min(number[label] for label in partial)
        advice = f"set select.folds to {fewer}" if 1 < fewer < num_folds else "bring more independent images"
        lines.append(
            f"class {rarest!r}{others} is not in each of the {num_folds} folds: {number[rarest]} independent images or "
            f"groups of it are validated on. Every training part has it; for it to be in every fold, {advice}"
        )
    if len(number) > 1 and (alone := sum(len(labels) == 1 for labels in held)):
        lines.append(f"{alone} of {num_folds} folds validate{'s' * (alone == 1)} on one class only")
    return lines


def assign_folds(development: Sequence[Unit], num_folds: int, seed: int) -> list[Move]:
    """Set the fold of each unit, -1 for one that always trains, and return which of them balance moved.

    Raises: DataError if a fold stays empty.
    """
    places = [place_of(f"fold:{unit.key}", seed) for unit in development]
    parts = [Part(n / num_folds, (n + 1) / num_folds, 1 / num_folds) for n in range(num_folds)]
    found = balance.divide(places, [unit.images for unit in development], parts, keep=1)
    if len(set(found) - {balance.TRAINING}) < num_folds:
        raise DataError(
            f"params.yaml: select.folds is {num_folds}, but the groups of the images fill fewer folds; set it lower"
        )
    for unit, fold in zip(development, found, strict=True):
        unit.fold = fold
    return [
        Move(unit=unit.key, images=unit.num_images, source=f"fold {before}", target=f"fold {unit.fold}")
        for unit, before in zip(development, balance.by_place(places, parts), strict=True)
        if unit.fold not in (before, balance.TRAINING)
    ]


def places(samples: pd.DataFrame) -> list[Place]:
    """Return where each row of samples.csv is looked at: in test, val, a fold such as `fold 2`, or only in training."""
    pairs = zip(samples["split"].tolist(), samples["fold"].tolist(), strict=True)
    return [f"fold {fold}" if split == "train" and fold >= 0 else split for split, fold in pairs]
