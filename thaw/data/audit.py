"""What there is to know about a data set before trusting a figure from it: counts, copies, contradictions."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from thaw.data import pixel_values
from thaw.data.folds import places
from thaw.data.pixel_values import Pixels, Ranges
from thaw.data.split import SPLITS, SplitNotes
from thaw.data.units import connected
from thaw.pipeline.data_facts import Audit, Conflict, Group, Listed, NearDuplicates, SplitCounts

Item = TypeVar("Item")

_MOST_LISTED = 100
_MOST_IN_A_GROUP = 10
# Values of mirror images differ in their last bits; nothing must be decided at a round number.
_MARGIN = 2.0012345  # grey levels; a flat area's rounding noise must not decide a bit
_HALF = 0.5012345
_HASH_DIGITS = 32


def appearance(image: Pixels) -> str:
    """Return what an image looks like, the same for its mirror images: a 128-bit hash and a thumbnail, as hex digits.

    The hash's bits say where brightness rises by more than a margin to the right and downwards, on a grid of 9 by 9
    smoothed values (after the difference hash of N. Krawetz, "Kind of like that", 2013); of the four mirror images that
    with the least hash is taken. The thumbnail has 16 by 16 grey levels.
    """
    # Not a matrix product: BLAS would start its own threads in every decoding process (44 s instead of 9 s of time).
    values = image.mean(axis=2, dtype=np.float32) if image.shape[2] > 1 else image[:, :, 0].astype("f4")
    grey = Image.fromarray(values if image.dtype == np.uint8 else values / np.float32(257))
    coarse, fine = (
        np.asarray(grey.resize((cells, cells), Image.Resampling.BILINEAR)).astype(np.float64) for cells in (9, 16)
    )
    fine = np.floor(fine + _HALF)
    mirrors = (np.s_[:, :], np.s_[::-1, :], np.s_[:, ::-1], np.s_[::-1, ::-1])
    seen: list[str] = [_bits(coarse[mirror]) + fine[mirror].astype(np.uint8).tobytes().hex() for mirror in mirrors]
    return min(seen)


def _bits(grid: NDArray[np.float64]) -> str:
    right = np.diff(grid[:8], axis=1) > _MARGIN
    down = np.diff(grid[:, :8], axis=0) > _MARGIN
    return np.packbits(np.concatenate([right.ravel(), down.ravel()])).tobytes().hex()


def label_conflicts(table: pd.DataFrame) -> list[Conflict]:
    """Return the images (by content) that are listed under more than one label, with their paths and labels."""
    found = []
    for sha256, rows in table[table["sha256"].duplicated(keep=False)].groupby("sha256", sort=True):
        if rows["label"].nunique() > 1:
            found.append(Conflict(sha256=str(sha256), paths=rows["path"].tolist(), labels=rows["label"].tolist()))
    return found


def summary(
    samples: pd.DataFrame,
    *,
    rejected: pd.DataFrame,
    conflicts: list[Conflict],
    split_notes: SplitNotes,
    channels: int,
    dtype: str,
    value_range: Ranges | None,
) -> Audit:
    """Return audit.json: `samples` has the columns of samples.csv, and perceptual_hash, animated, measured."""
    copies = [_shown(samples, rows) for rows in _same(samples["sha256"].tolist())]
    # One file stands for its exact copies: a near duplicate is another file that looks the same.
    near = near_duplicates(samples.drop_duplicates("sha256"))
    leaks = sum(len(group.splits) > 1 for group in near)
    return Audit(
        images=len(samples),
        channels=channels,
        dtype="uint16" if dtype == "uint16" else None,
        value_range=pixel_values.report(samples["measured"], value_range),
        folds=split_notes.num_folds,
        classes=_counts(samples, split_notes.num_folds),
        rejected=len(rejected),
        label_conflicts=_listed(conflicts),
        exact_duplicates=_listed(copies),
        near_duplicates=NearDuplicates(count=len(near), first=near[:_MOST_LISTED], groups_across_splits=leaks),
        first_frame_only=_listed(samples["path"][samples["animated"]].tolist()),
        moved_by_repair=_listed(split_notes.moved_by_repair),
        given_split_changed=_listed(split_notes.given_split_changed),
        missing=_listed(split_notes.missing),
        never_validated=_listed(split_notes.never_validated),
        units_of_tied_groups=split_notes.units_of_tied_groups,
    )


def _counts(samples: pd.DataFrame, num_folds: int) -> dict[str, SplitCounts]:
    """Return how many images of each class are in each split, and in each fold where there are several."""
    in_split = Counter(zip(samples["label"], samples["split"], strict=True))
    in_fold = Counter(zip(samples["label"], samples["fold"].tolist(), strict=True))
    return {
        label: SplitCounts(
            **{split: in_split[label, split] for split in SPLITS},
            folds=[in_fold[label, fold] for fold in range(num_folds)] if num_folds > 1 else None,
        )
        for label in sorted(set(samples["label"]))
    }


def near_duplicates(samples: pd.DataFrame) -> list[Group]:
    """Return groups of images that look alike: hashes within `_NEAR_BITS`, and thumbnails within `_NEAR_LEVELS`.

    Two hashes that near share one of `_NUM_BANDS` parts exactly (pigeonhole), so only images with an equal part are
    compared, each with a few neighbours in order of their hashes: n log n work, even if all look alike. The thumbnail
    tells apart what a hash cannot: solar cells without a defect differ in brightness and little else.
    """
    hashes = [int(text[:_HASH_DIGITS], 16) for text in samples["perceptual_hash"]]
    thumbs = [
        np.frombuffer(bytes.fromhex(text[_HASH_DIGITS:]), np.uint8).astype(int) for text in samples["perceptual_hash"]
    ]

    def alike(row: int, other: int) -> bool:
        near = (hashes[row] ^ hashes[other]).bit_count() <= _NEAR_BITS
        return near and bool(np.abs(thumbs[row] - thumbs[other]).max() <= _NEAR_LEVELS)

    groups = connected(len(hashes), (pair for pair in _candidates(hashes) if alike(*pair)))
    return [_shown(samples, rows) for rows in groups if len(rows) > 1]


_NEAR_BITS, _NUM_BANDS, _BAND_BITS, _NUM_NEIGHBOURS, _NEAR_LEVELS = 7, 8, 16, 8, 4


def _candidates(hashes: list[int]) -> Iterator[tuple[int, int]]:
    for band in range(_NUM_BANDS):
        keyed = sorted(
            (value >> band * _BAND_BITS & (1 << _BAND_BITS) - 1, value, row) for row, value in enumerate(hashes)
        )
        for place, (part, _, row) in enumerate(keyed):
            for other_part, _, other in keyed[place + 1 : place + 1 + _NUM_NEIGHBOURS]:
                if other_part != part:
                    break
                yield row, other


def _same(keys: Sequence[Hashable]) -> list[list[int]]:
    rows: dict[Hashable, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows[key].append(row)
    return [places for places in rows.values() if len(places) > 1]


def _shown(samples: pd.DataFrame, rows: list[int]) -> Group:
    """Return a group's size and splits, and its first images."""
    first = samples.iloc[rows[:_MOST_IN_A_GROUP]]
    splits = sorted(set(places(samples.iloc[rows])))
    return Group(images=len(rows), splits=splits, paths=first["path"].tolist(), labels=first["label"].tolist())


def _listed(items: list[Item]) -> Listed[Item]:
    """Return how many items there are and the first of them."""
    return Listed[Item](count=len(items), first=items[:_MOST_LISTED])
