"""Pooled features: images through the whole frozen backbone, once a view."""

import numpy as np
from numpy.typing import NDArray

from thaw.images.pack import PackedImages
from thaw.images.views import num_distinct, still
from thaw.params import AugmentParams
from thaw.progress import progress
from thaw.training.boundary import Prefix
from thaw.training.head import FeatureSet

_BATCH = 32


def compute(prefix: Prefix, rows: NDArray[np.int64], view: int, *, label: str) -> NDArray[np.float32]:
    """Return the features [rows, features] of one view of each row."""
    return compute_all(prefix, rows, np.zeros(0, np.int64), view, label=label)[0]


def compute_all(
    prefix: Prefix, rows: NDArray[np.int64], chosen: NDArray[np.int64], view: int = 0, *, label: str
) -> list[NDArray[np.float32]]:
    """Return the features [rows, features] of one view of each row, and the prefix's further outputs of some rows.

    `chosen` has the places of the latter in `rows`, in ascending order.
    """
    starts = range(0, len(rows), _BATCH)
    parts: list[list[NDArray[np.float32]]] = []
    for start in progress(starts, total=len(starts), label=f"features: {label}"):
        batch = rows[start : start + _BATCH]
        features, *others = prefix(batch, np.full(len(batch), view))
        kept = chosen[(chosen >= start) & (chosen < start + _BATCH)] - start
        parts.append([features, *(value[kept] for value in others)])
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def compute_mirrored(
    prefix: Prefix, augment: AugmentParams, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the features of each row's image mirrored left to right, and those of it mirrored top to bottom."""

    def mirrored(flip: str) -> NDArray[np.float32]:
        only = still(augment).model_copy(update={"flip": flip})
        return compute(prefix.seen_as(only), rows, 1, label=f"mirrored, {flip}")

    return mirrored("horizontal"), mirrored("vertical")


def add_views(
    images: PackedImages, plain: FeatureSet, prefix: Prefix, rows: NDArray[np.int64], num_views: int
) -> FeatureSet:
    """Return the features of view 0 with those of the views up to `num_views` behind them."""
    others = [
        compute(prefix, rows, view, label=f"view {view}")
        for view in range(1, num_distinct(num_views, prefix.views.augment))
    ]
    return examples(images, rows, np.concatenate([plain.features, *others]))


def examples(images: PackedImages, rows: NDArray[np.int64], features: NDArray[np.float32]) -> FeatureSet:
    """Return features with the labels of their rows; `features` may hold several views, one after another."""
    repeats = len(features) // len(rows)
    confidence = images.samples["confidence"].to_numpy(np.float64)[rows]
    return FeatureSet(features, np.tile(images.labels(rows), repeats), np.tile(confidence, repeats))
