"""What there is to know about a data set before trusting a figure from it: counts, copies, contradictions."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_MOST_LISTED = 100
_MARGIN = 2.0  # grey levels; a flat area's rounding noise must not decide a bit


def difference_hash(image: NDArray[np.uint8]) -> str:
    """Return a 128-bit perceptual hash, 32 hex digits, that the image's mirror images share.

    Bits say where brightness rises by more than a margin to the right and downwards, on a grid of 9 by 9 mean values
    (after the difference hash of N. Krawetz, "Kind of like that", 2013); of the four mirror images the least is taken.
    """
    height, width, channels = image.shape
    grey = image[:, :, 0].astype(np.float64)
    for channel in range(1, channels):
        grey += image[:, :, channel]
    # Whole numbers throughout, so that a mirror image gives exactly the mirrored grid.
    grid = _shares(height) @ grey @ _shares(width).T / (height * width * channels)
    return min(_bits(mirrored) for mirrored in (grid, grid[::-1], grid[:, ::-1], grid[::-1, ::-1]))


@cache
def _shares(length: int) -> NDArray[np.float64]:
    """Return how much of each of `length` pixels lies in each of 9 equal cells, in ninths; shape [9, length]."""
    ninths = np.repeat(np.arange(length), 9).reshape(9, length)
    return np.stack([np.bincount(cell, minlength=length) for cell in ninths]).astype(np.float64)


def _bits(grid: NDArray[np.float64]) -> str:
    right = np.diff(grid[:8], axis=1) > _MARGIN
    down = np.diff(grid[:, :8], axis=0) > _MARGIN
    return np.packbits(np.concatenate([right.ravel(), down.ravel()])).tobytes().hex()


def label_conflicts(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the images (by content) that are listed under more than one label, with their paths and labels."""
    found = []
    for sha256, rows in table[table["sha256"].duplicated(keep=False)].groupby("sha256", sort=True):
        if rows["label"].nunique() > 1:
            found.append({"sha256": sha256, "paths": rows["path"].tolist(), "labels": rows["label"].tolist()})
    return found


def summary(
    samples: pd.DataFrame,
    *,
    rejected: pd.DataFrame,
    conflicts: list[dict[str, Any]],
    split_notes: dict[str, Any],
    channels: int,
) -> dict[str, Any]:
    """Return audit.json: `samples` has the columns of samples.csv, and `looks` (difference hash) and `animated`."""
    copies = [_shown(samples, rows) for rows in _same(samples["sha256"].tolist())]
    # One file stands for its exact copies: a near duplicate is another file that looks the same.
    near = near_duplicates(samples.drop_duplicates("sha256"))
    leaks = sum(len(set(group["splits"])) > 1 for group in near)
    counts = samples.groupby(["label", "split"]).size()
    labels = sorted(set(samples["label"]))
    return {
        "images": len(samples),
        "channels": channels,
        "classes": {
            label: {split: int(counts.get((label, split), 0)) for split in ("train", "val", "test")} for label in labels
        },
        "rejected": len(rejected),
        "label_conflicts": _listed(conflicts),
        "exact_duplicates": _listed(copies),
        "near_duplicates": _listed(near) | {"groups_across_splits": leaks},
        "first_frame_only": _listed(samples["path"][samples["animated"]].tolist()),
        **{name: _listed(note) if isinstance(note, list) else note for name, note in split_notes.items()},
    }


def near_duplicates(samples: pd.DataFrame) -> list[dict[str, Any]]:
    """Return groups of images whose difference hashes differ in at most `_NEAR_BITS` of 128 bits.

    Two hashes that near share one of `_NUM_BANDS` parts of the hash exactly (pigeonhole), so only images with an equal
    part are compared, each with a few neighbours in order of their hashes: n log n work, even if all look alike.
    """
    hashes = [int(text, 16) for text in samples["looks"]]
    parent = list(range(len(hashes)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for band in range(_NUM_BANDS):
        part = [value >> band * _BAND_BITS & (1 << _BAND_BITS) - 1 for value in hashes]
        order = sorted(range(len(hashes)), key=lambda row: (part[row], hashes[row]))
        for place, row in enumerate(order):
            for other in order[place + 1 : place + 1 + _NUM_NEIGHBOURS]:
                if part[other] != part[row]:
                    break
                if (hashes[row] ^ hashes[other]).bit_count() <= _NEAR_BITS:
                    parent[root(other)] = root(row)
    return [_shown(samples, rows) for rows in _same([root(row) for row in range(len(hashes))])]


_NEAR_BITS, _NUM_BANDS, _BAND_BITS, _NUM_NEIGHBOURS = 7, 8, 16, 8


def _same(keys: Sequence[Hashable]) -> list[list[int]]:
    rows: dict[Hashable, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows[key].append(row)
    return [places for places in rows.values() if len(places) > 1]


def _shown(samples: pd.DataFrame, rows: list[int]) -> dict[str, Any]:
    return {f"{column}s": samples[column].iloc[rows].tolist() for column in ("path", "label", "split")}


def _listed(items: Iterable[Any]) -> dict[str, Any]:
    """Return how many items there are and the first of them, so that audit.json stays readable."""
    items = list(items)
    return {"count": len(items), "first": items[:_MOST_LISTED]}
