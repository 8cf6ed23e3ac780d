"""Which images must stay together: all of a group, all copies of an image, exact or near, and groups that share one."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from thaw.errors import DataError
from thaw.pipeline.data_facts import GivenSplitChanged, Split


@dataclass
class Unit:
    """Images that must share a split and a fold."""

    key: str
    """The group's name, or the SHA-256 of an image that has none; the smallest, where several are tied together."""
    images: tuple[tuple[str, int], ...]
    """How many images of which class, in order of the classes."""
    given: Split | None = None
    """The split that the user gave it, if any."""
    members: list[int] = field(default_factory=list)
    """Rows of the table."""
    split: Split = "train"
    fold: int = -1

    @property
    def labels(self) -> list[str]:
        """The classes of its images, in order."""
        return [label for label, _ in self.images]

    @property
    def num_images(self) -> int:
        """How many images it holds, of all classes."""
        return sum(number for _, number in self.images)


def place_of(key: str, seed: int) -> float:
    """Return a unit's place in [0, 1): the first 64 bits of SHA-256 of `seed:key`, as a fraction."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big") / 2**64


def units_of(table: pd.DataFrame) -> tuple[list[Unit], list[GivenSplitChanged]]:
    """Return the units in order of their keys, and the given splits that had to be unified for exact copies.

    `table` has the columns path, sha256, group, label and split, where '' is a group or split that is not given, and
    may have look, which near copies share.
    Raises: DataError if a group is given two splits.
    """
    _check_groups(table)
    strictest: tuple[Split, ...] = ("test", "val", "train")
    units: list[Unit] = []
    changed: list[GivenSplitChanged] = []
    paths, labels, splits = (table[name].tolist() for name in ("path", "label", "split"))
    for key, rows in sorted(_tied(table).items()):
        wanted = {splits[row] for row in rows}
        # Copies in two given splits are a leak: all go to the one that is held out most.
        split = next((name for name in strictest if name in wanted), None)
        changed += [
            GivenSplitChanged(path=paths[row], given=splits[row], now=split)
            for row in rows
            if split is not None and splits[row] != split
        ]
        units.append(Unit(key, tuple(sorted(Counter(labels[row] for row in rows).items())), split, rows))
    return units, changed


def _check_groups(table: pd.DataFrame) -> None:
    for group, splits in table[(table["group"] != "") & (table["split"] != "")].groupby("group")["split"]:
        if splits.nunique() > 1:
            raise DataError(
                f"group {group!r} is given to {' and '.join(sorted(set(splits)))}; a group must stay in one split"
            )


def _tied(table: pd.DataFrame) -> dict[str, list[int]]:
    """Return the rows of each unit under its key: rows are tied by an equal group, an equal hash or an equal look."""
    groups, hashes = table["group"].tolist(), table["sha256"].tolist()
    units = connected(len(groups), ties(table))
    return {min({groups[row] for row in rows} - {""} or {hashes[row] for row in rows}): rows for rows in units}


def ties(table: pd.DataFrame) -> list[tuple[int, int]]:
    """Return pairs of rows that are tied by an equal group, hash or, where there is that column, look."""
    first: dict[tuple[str, str], int] = {}
    return [
        (row, first.setdefault((name, value), row))
        for name in ("sha256", "group", "look")
        if name in table
        for row, value in enumerate(table[name].tolist())
        if value
    ]


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


def unit_numbers(samples: pd.DataFrame) -> NDArray[np.int64]:
    """Return the number of each row's unit, for rows of samples.csv (group, sha256 and look).

    Units are numbered in the order of the hashes of their keys, which has nothing to do with classes or files.
    """
    tied = _tied(samples)
    numbers = np.zeros(len(samples), np.int64)
    for number, (_, rows) in enumerate(sorted(tied.items(), key=lambda unit: place_of(unit[0], 0))):
        numbers[rows] = number
    return numbers
