"""Near copies: images that are one image but for a turn, a crop, a border, other light, a watermark or compression.

A distance alone cannot say so: cells of two wafers of one ingot are as alike as a photo and its thumbnail. So a pair
must be nearer than other images of the data set come to each other, by a factor. Copies are tied by the column `look`,
and what is tied shares split and fold.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thaw.config.schema import PrepareParams
from thaw.data import alignment, candidates
from thaw.data.alignment import Distances, Transforms
from thaw.data.candidates import Floats, Numbers, Pairs, reduced
from thaw.data.decoded import Decoded
from thaw.data.folds import places
from thaw.data.looks import SIDE_PX, Looks
from thaw.data.pair_memo import PairMemo
from thaw.data.spool import Spool
from thaw.data.units import connected, ties
from thaw.errors import DataError
from thaw.pipeline import scratch, tables

FILE = "near_copies.csv"
"""In data/prepared; where the stage stops, in the scratch folder."""

_LEAST_CORRELATION = 0.75  # at a glance; planted copies have 0.9, and a few 0.8
_COMPARED = 5  # pairs of an image that are compared: those that are the most alike at a glance
_OTHERS = 3  # the third nearest image is no copy, as a rule
_NEAREST_OTHERS = 1  # percent of the images whose third nearest image is nearer
# For each kind of details: the farthest that others count as, where they are far, and the part that a copy may have.
_FARTHEST = {"large": 0.012, "middle": 0.15, "fine": 0.39}
_NEARER = {"large": 0.28, "middle": 0.24, "fine": 0.46}  # a twentieth less than any pair of the 2,624 cells
_LOOKED_AT = 1.0  # times the distance of others, at half the size, within which a pair is looked at in full
_NEAREST_LOOKED_AT = 12.0  # the same for the nearest pair of an image
_READ_AT_ONCE = 512


@dataclass(frozen=True)
class Copies:
    """Pairs of near copies."""

    pairs: NDArray[np.int64]
    """[pairs, 2]: the rows of the two images, the smaller one first; in order."""
    distance: Floats
    """[pairs]: from 0, for the same image, to 1, for the farthest that still counts."""

    @property
    def rows(self) -> list[tuple[int, int]]:
        """The pairs as tuples."""
        return [(int(one), int(other)) for one, other in self.pairs]


Policy = Literal["group", "warn", "fail"]


def tied(usable: pd.DataFrame, kept: Decoded, policy: Policy) -> tuple[Copies, pd.DataFrame]:
    """Return the near copies among images, and the images with the column look. Raises: DataError as `tie` does."""
    copies = search(usable, kept, kept.folder)
    return copies, tie(usable, copies, policy)


def write(folder: Path, samples: pd.DataFrame, copies: Copies, settings: PrepareParams) -> list[str]:
    """Write near_copies.csv into a folder and return lines for the user. Raises: DataError as `check` does."""
    tables.write(folder / FILE, listed(samples, copies))
    return check(samples, copies, policy=settings.near_copies, max_leaks=settings.max_leaks)


def search(usable: pd.DataFrame, spool: Spool, folder: Path | None = None) -> Copies:
    """Return the near copies among images; `usable` has the columns sha256 and number (in the spool).

    One file stands for its exact copies. What was found of pairs in an earlier run is kept in `folder`.
    """
    rows = np.flatnonzero(~usable["sha256"].duplicated().to_numpy())
    numbers = usable["number"].to_numpy(np.int64)[rows]
    contents = usable["sha256"].to_numpy(object)[rows]
    order = np.argsort(contents.astype(str), kind="stable")
    memo = PairMemo(folder, contents.tolist())
    found = find(thumbnails(spool, numbers), order, lambda chosen: spool.looks(numbers[chosen]), memo)
    return Copies(rows[found.pairs], found.distance)


def thumbnails(spool: Spool, numbers: NDArray[np.int64]) -> Floats:
    """Return the looks of images in the spool as squares [images, 16, 16], a part of them in memory at a time."""
    parts = [numbers[at : at + _READ_AT_ONCE] for at in range(0, len(numbers), _READ_AT_ONCE)]
    return np.concatenate([reduced(spool.looks(part), candidates.THUMB_PX) for part in parts])


def tie(usable: pd.DataFrame, copies: Copies, policy: Policy) -> pd.DataFrame:
    """Return the images with the column look: near copies that are to stay together have one in common, others ''.

    A tie would be broken by splits that the user gave: images given to different splits, and what is tied to them by a
    group or an exact copy, are left apart. The nearest pairs are tied first.
    Raises: DataError if the policy is `fail` and there is a near copy.
    """
    if policy == "fail" and len(copies.pairs):
        _stop(usable, copies, "prepare.near_copies is fail; remove one of each pair, or set it to group")
    if policy != "group" or not len(copies.pairs):
        return usable.assign(look="")
    unit_of = {row: number for number, rows in enumerate(connected(len(usable), ties(usable))) for row in rows}
    strictest_last = sorted(enumerate(usable["split"]), key=lambda entry: ("", "train", "val", "test").index(entry[1]))
    given = {unit_of[row]: split for row, split in strictest_last if split}
    nearest = [copies.rows[place] for place in np.argsort(copies.distance, kind="stable")]
    root = {number: number for pair in nearest for number in (unit_of[pair[0]], unit_of[pair[1]])}

    def find_root(number: int) -> int:
        while root[number] != number:
            number = root[number] = root[root[number]]
        return number

    kept = []
    for one, other in nearest:
        ends = find_root(unit_of[one]), find_root(unit_of[other])
        if len({given[end] for end in ends if end in given}) < 2:
            kept.append((one, other))
            root[ends[1]] = ends[0]
            if ends[1] in given:
                given[ends[0]] = given[ends[1]]
    hashes, look = usable["sha256"].tolist(), [""] * len(usable)
    for rows in connected(len(usable), kept):
        for row in rows if len(rows) > 1 else []:
            look[row] = min(hashes[other] for other in rows)
    return usable.assign(look=look)


def check(samples: pd.DataFrame, copies: Copies, *, policy: Policy, max_leaks: float) -> list[str]:
    """Return lines for the user on the near copies of a data set; `samples` are rows of samples.csv.

    Raises: DataError if more than `max_leaks` (a fraction) of the held-out images have one on another side.
    """
    if not len(copies.pairs):
        return []
    labels, sides = samples["label"].tolist(), places(samples)
    groups = [rows for rows in connected(len(samples), copies.rows) if len(rows) > 1]
    two_labels = sum(len({labels[row] for row in rows}) > 1 for rows in groups)
    across = [pair for pair in copies.rows if sides[pair[0]] != sides[pair[1]]]
    held_out = [row for row, side in enumerate(sides) if side != "train"]
    leaking = {row for pair in across for row in pair if sides[row] != "train"}
    contradiction = f", {two_labels} with more than one label" if two_labels else ""
    number = f"{len(groups)} group{'s' * (len(groups) > 1)}"
    lines = [f"{number} of images that look the same{contradiction}; {FILE} lists their pairs ({len(copies.pairs):,})"]
    if across:
        one, other = (f"{samples['path'].iloc[row]} ({sides[row]})" for row in across[0])
        said = f"{len(leaking)} of {len(held_out)} held-out images have a near copy on another side ({one} and {other})"
        if policy == "group" and len(leaking) > max_leaks * len(held_out):
            _stop(samples, copies, f"{said}, more than prepare.max_leaks ({max_leaks:g}) allows; mend the given split")
        lines.append(f"{said}, so the figures are a little too good")
    return lines


def listed(samples: pd.DataFrame, copies: Copies) -> pd.DataFrame:
    """Return near_copies.csv: of each pair the paths, the labels, where both are (split or fold), and the distance."""
    one, other = (samples.iloc[copies.pairs[:, side]].reset_index(drop=True) for side in (0, 1))
    return pd.DataFrame({
        "path": one["path"], "other": other["path"], "label": one["label"], "other_label": other["label"],
        "place": places(one) if "fold" in samples else one["split"],
        "other_place": places(other) if "fold" in samples else other["split"],
        "distance": np.round(copies.distance.astype(np.float64), 3),
    })  # fmt: skip


def _stop(table: pd.DataFrame, copies: Copies, reason: str) -> None:
    """Raise a DataError with the reason, the number of pairs, the first of them, and the file that lists them."""
    path = scratch.folder() / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    tables.write(path, listed(table, copies))
    one, other = (table["path"].iloc[row] for row in copies.rows[0])
    said = f"{len(copies.pairs):,} pair{'s' * (len(copies.pairs) > 1)} of images look the same"
    raise DataError(f"{said} ({one} and {other} first; {path} lists them): {reason}")


def find(thumbs: Floats, order: Numbers, read: Callable[[Numbers], Looks], memo: PairMemo | None = None) -> Copies:
    """Return the pairs of images that are near copies of each other.

    `thumbs` are the looks [images, 16, 16], `read` returns the looks [looks, 128, 128] of some positions, and `order`
    are all positions in an order that does not depend on how the images are listed. What `memo` knows of pairs is not
    computed.
    """
    memo = memo or PairMemo(None, [f"{number:016x}" for number in range(len(thumbs))])
    pairs = candidates.find(thumbs, order, read)
    transforms, correlation = _glanced(pairs, read, memo)
    chosen = (correlation > _LEAST_CORRELATION) & _among_nearest(-correlation, pairs, _COMPARED)
    pairs, transforms = pairs[chosen], transforms[chosen]
    transforms, rough = _compared("half", pairs, transforms, read, SIDE_PX // 2, memo)
    parts = _parts(rough, pairs, len(thumbs))
    chosen = (parts < _LOOKED_AT) | ((parts < _NEAREST_LOOKED_AT) & _among_nearest(parts, pairs, 1))
    pairs = pairs[chosen]
    _, full = _compared("full", pairs, transforms[chosen], read, SIDE_PX, memo)
    parts = _parts(full, pairs, len(thumbs), _NEARER)
    near = parts < 1
    found = np.sort(np.stack([pairs.first[near], pairs.second[near]], axis=1), axis=1)
    place = np.lexsort(found.T[::-1])
    return Copies(found[place], parts[near][place])


def _glanced(pairs: Pairs, read: Callable[[Numbers], Looks], memo: PairMemo) -> tuple[Transforms, Floats]:
    """Return what `alignment.glance` does, of which it computes what is not known from an earlier run."""

    def compute(chosen: Numbers) -> Floats:
        transforms, correlation = alignment.glance(pairs[chosen], read)
        return np.column_stack([transforms, correlation])

    found = memo.values("glance", pairs, 5, compute)
    return found[:, :4], found[:, 4]


def _compared(
    name: str, pairs: Pairs, transforms: Transforms, read: Callable[[Numbers], Looks], side: int, memo: PairMemo
) -> tuple[Transforms, Distances]:
    """Return what `alignment.compare` does, of which it computes what is not known from an earlier run."""

    def compute(chosen: Numbers) -> Floats:
        better, distances = alignment.compare(pairs[chosen], transforms[chosen], read, side)
        return np.column_stack([better, distances.large, distances.middle, distances.fine])

    found = memo.values(name, pairs, 7, compute)
    return found[:, :4], Distances(*(np.ascontiguousarray(column) for column in found[:, 4:].T))


def _parts(distances: Distances, pairs: Pairs, num_images: int, factors: Mapping[str, float] | None = None) -> Floats:
    """Return the distance of each pair as a part of that of others, times a factor: the smallest of the kinds."""
    parts = []
    for kind, farthest in _FARTHEST.items():
        distance: Floats = getattr(distances, kind)
        others = min(_of_others(distance, pairs, num_images), farthest)
        parts.append(distance / np.float32(others * (factors[kind] if factors else 1)))
    smallest: Floats = np.min(parts, axis=0)
    return smallest


def _ranked(distance: Floats, pairs: Pairs) -> tuple[Numbers, Numbers, Numbers]:
    """Return the pairs of all images, those of an image together and the nearest first: image, rank from 0 on, pair."""
    image = np.concatenate([pairs.first, pairs.second])
    order = np.lexsort((np.tile(distance, 2), image))
    image = image[order]
    rank = np.arange(len(image)) - np.searchsorted(image, image)
    return image, rank, order % max(len(pairs), 1)


def _among_nearest(distance: Floats, pairs: Pairs, most: int) -> NDArray[np.bool_]:
    """Return which pairs are among the nearest of either of their images."""
    _, rank, pair = _ranked(distance, pairs)
    found = np.zeros(len(pairs), bool)
    found[pair[rank < most]] = True
    return found


def _of_others(distance: Floats, pairs: Pairs, num_images: int) -> float:
    """Return how near images come that are no copies: the first percentile of the distance of the third nearest."""
    image, rank, pair = _ranked(distance, pairs)
    third = np.ones(num_images, np.float32)
    third[image[rank == _OTHERS - 1]] = distance[pair[rank == _OTHERS - 1]]
    return max(float(np.percentile(third, _NEAREST_OTHERS)), 1e-6)
