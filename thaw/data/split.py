"""The split into train, val and test: a pure function of each image's content (or its group) and the seed.

What must stay together is a *unit*: all images of a group, all exact copies of an image, and groups that share a copy.
A unit's place on the line from 0 to 1 is a hash, so adding images never moves an old unit, unless the new image ties
two groups together or a class was so small that it had to be repaired.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import get_args

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from thaw.errors import DataError
from thaw.pipeline.facts import GivenSplitChanged, MissingClass, Move, Split

SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass
class Unit:
    """Images that must share a split."""

    key: str
    """The group's name, or the SHA-256 of an image that has none; the smallest, where several are tied together."""
    place: float
    """Where the hash of seed and key falls, in [0, 1)."""
    allowed: frozenset[Split]
    """Splits that the unit may be in: one, where the user has given it."""
    labels: frozenset[str]
    members: list[int] = field(default_factory=list)
    split: Split = "train"


@dataclass(frozen=True)
class SplitNotes:
    """What is worth knowing about a split; the fields are those of audit.json."""

    moved_by_repair: list[Move]
    given_split_changed: list[GivenSplitChanged]
    missing: list[MissingClass]
    units_of_tied_groups: int


def place_of(key: str, seed: int) -> float:
    """Return a unit's place in [0, 1): the first 64 bits of SHA-256 of `seed:key`, as a fraction."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big") / 2**64


def assign(
    table: pd.DataFrame, *, seed: int, val_fraction: float, test_fraction: float
) -> tuple[list[str], SplitNotes]:
    """Return the split of each row, and what is worth knowing about it (for audit.json).

    `table` has the columns sha256, group, label and split, the last two '' where nothing is given.
    Raises: DataError if a class cannot be in every split, or a group is given two splits.
    """
    _check_groups(table)
    given = set(table["split"]) - {""}
    shares: dict[Split, float] = {"test": test_fraction, "val": val_fraction}
    if given - {"train"}:  # the given test (or val) is kept; what is missing comes off train, in the same proportion
        rest = 1 - sum(shares[split] for split in given - {"train"})
        shares = {split: share / rest for split, share in shares.items() if split not in given}
    units, unified = _units(table, given, seed)
    for unit in units:
        unit.split = _by_place(unit.place, shares) if "train" in unit.allowed else next(iter(unit.allowed))
    moves = repair(units)
    missing = _missing(units)
    splits = [""] * len(table)
    for unit in units:
        for row in unit.members:
            splits[row] = unit.split
    groups = table["group"].tolist()
    num_tied = sum(len({groups[row] for row in unit.members} - {""}) > 1 for unit in units)
    return splits, SplitNotes(moves, unified, missing, num_tied)


def _missing(units: Iterable[Unit]) -> list[MissingClass]:
    """Return which class is in none of the images of which split; it can only be so where the user gave the split."""
    present = {(label, unit.split) for unit in units for label in unit.labels}
    classes = sorted({label for label, _ in present})
    missing = [
        MissingClass(label=label, split=split) for label in classes for split in SPLITS if (label, split) not in present
    ]
    for gap in missing:
        if gap.split == "train":
            raise DataError(f"class {gap.label!r} is not in the given train split; add images of it, or remove it")
    return missing


def _by_place(place: float, shares: Mapping[Split, float]) -> Split:
    edge = 0.0
    for split, share in shares.items():
        edge += share
        if place < edge:
            return split
    return "train"


def _units(table: pd.DataFrame, given: set[str], seed: int) -> tuple[list[Unit], list[GivenSplitChanged]]:
    """Return the units in order of their keys, and the given splits that had to be unified for exact copies."""
    from_train = frozenset(split for split in SPLITS if split == "train" or split not in given)
    strictest: tuple[Split, ...] = ("test", "val", "train")
    units: list[Unit] = []
    changed: list[GivenSplitChanged] = []
    paths, labels, splits = (table[name].tolist() for name in ("path", "label", "split"))
    for key, rows in sorted(_tied(table["group"].tolist(), table["sha256"].tolist()).items()):
        wanted = {splits[row] for row in rows}
        # Copies in two given splits are a leak: all go to the one that is held out most.
        split = next((name for name in strictest if name in wanted), None)
        changed += [
            GivenSplitChanged(path=paths[row], given=splits[row], now=split)
            for row in rows
            if split is not None and splits[row] != split
        ]
        allowed = frozenset(SPLITS) if split is None else from_train if split == "train" else frozenset({split})
        units.append(Unit(key, place_of(key, seed), allowed, frozenset(labels[row] for row in rows), rows))
    return units, changed


def _check_groups(table: pd.DataFrame) -> None:
    for group, splits in table[(table["group"] != "") & (table["split"] != "")].groupby("group")["split"]:
        if splits.nunique() > 1:
            raise DataError(
                f"group {group!r} is given to {' and '.join(sorted(set(splits)))}; a group must stay in one split"
            )


def _tied(groups: list[str], hashes: list[str]) -> dict[str, list[int]]:
    """Return the rows of each unit under its key: rows are tied by an equal group or an equal hash."""
    first: dict[tuple[str, str], int] = {}
    ties = [(row, first.setdefault(("sha256", sha256), row)) for row, sha256 in enumerate(hashes)]
    ties += [(row, first.setdefault(("group", group), row)) for row, group in enumerate(groups) if group]
    units = connected(len(groups), ties)
    return {min({groups[row] for row in rows} - {""} or {hashes[row] for row in rows}): rows for rows in units}


def connected(num_rows: int, ties: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return the rows in sets, each in order, where tied rows share a set, as do all that are tied to one.

    The sets are in the order of their first rows; a row without a tie is a set of its own.
    """
    ends = np.array(list(ties), dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(ends.shape[1]), ends), shape=(num_rows, num_rows))
    members: dict[int, list[int]] = defaultdict(list)
    for row, component in enumerate(connected_components(graph, directed=False)[1].tolist() if num_rows else []):
        members[component].append(row)
    return list(members.values())


def repair(units: list[Unit]) -> list[Move]:
    """Move whole units until every class is in every split that it can be in, and return the moves.

    Each move fills a gap and opens none; it is the fewest moves where a unit holds one class, since each then fills one
    gap. Of several candidates the one that fills most gaps goes, then the smallest, then the first by place.
    Raises: DataError naming a class that is in too few units.
    """
    movable = [unit for unit in units if len(unit.allowed) > 1]
    targets = {split for unit in movable for split in unit.allowed}
    counts = Counter((label, unit.split) for unit in units for label in unit.labels)
    gaps = {(label, split) for unit in movable for label in unit.labels for split in targets} - set(counts)

    def rank(number: int, split: Split) -> _Rank:
        unit = movable[number]
        filled = sum((label, split) in gaps for label in unit.labels)
        return -filled, len(unit.members), unit.place, split, number

    # Gaps are filled and none is opened, so a rank can only fall: it is looked at anew when its turn comes.
    queue = [move for number, unit in enumerate(movable) for split in unit.allowed if (move := rank(number, split))[0]]
    heapify(queue)
    stuck: dict[tuple[str, str], list[_Rank]] = defaultdict(list)
    moves: list[Move] = []
    while gaps:
        if not queue:
            raise DataError(_too_small(min(gaps), units))
        move = heappop(queue)
        *_, split, number = move
        unit = movable[number]
        if (now := rank(number, split)) != move:
            if now[0]:
                heappush(queue, now)
            continue
        if alone := [(label, unit.split) for label in unit.labels if counts[label, unit.split] == 1]:
            stuck[alone[0]].append(move)  # it cannot leave until another unit of this class comes to its split
            continue
        moves.append(Move(unit=unit.key, images=len(unit.members), source=unit.split, target=split))
        for label in unit.labels:
            counts[label, unit.split] -= 1
            counts[label, split] += 1
            gaps.discard((label, split))
            for freed in stuck.pop((label, split), []):
                heappush(queue, freed)
        unit.split = split
    return moves


_Rank = tuple[int, int, float, Split, int]
"""What decides between moves: less the gaps that it fills, images, place, the split to go to, the unit's number."""


def _too_small(gap: tuple[str, str], units: Iterable[Unit]) -> str:
    label, split = gap
    num_units = sum(label in unit.labels for unit in units)
    return (
        f"class {label!r} cannot be in train, val and test: it has {num_units} independent "
        f"{'image or group' if num_units == 1 else 'images or groups'} (copies and groups count once), none of which "
        f"can go to {split}; add images of it, split its groups, or remove the class"
    )
