"""Percentile bootstrap intervals of every metric, over images or over groups of images that belong together."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thaw.errors import DataError
from thaw.evidence.metrics import Table

LEVEL = 0.95
_CELLS = 1_000_000
"""Weights held at once: a block of [images, draws] that stays near the processor's caches (8 MB)."""


def bootstrap_intervals(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    *,
    groups: Sequence[Any] | NDArray[Any] | None,
    draws: int,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """Return (low, high) of the 95 % percentile bootstrap interval of each metric (Efron and Tibshirani 1993, 13.3).

    labels [images], probabilities [images, classes]. groups [images] names what was sampled together (a patient, a
    video); whole groups are then drawn, and an empty or missing name is a group of its own. ece is biased upwards in
    small samples, and so is its interval. A metric that no draw defines is absent.
    Raises: DataError as `classification_metrics`, or if there is not one group entry an image.
    """
    table = Table.of(labels, probabilities)
    blocks = [table.metrics(weights) for weights in bootstrap_weights(unit_of(groups, len(labels)), draws, seed)]
    intervals = {}
    for name in blocks[0]:
        values = np.concatenate([block[name] for block in blocks])
        values = values[np.isfinite(values)]
        if len(values):
            low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            intervals[name] = (float(low), float(high))
    return intervals


def bootstrap_weights(units: NDArray[np.int64], draws: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield blocks [images, draws of the block]: how often each image was drawn; images of one unit come together."""
    random = np.random.default_rng(seed)
    num_units = int(units.max()) + 1
    block = max(1, min(draws, _CELLS // len(units)))
    for start in range(0, draws, block):
        width = min(block, draws - start)
        drawn = random.integers(num_units, size=(width, num_units)) * width + np.arange(width)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=num_units * width).reshape(num_units, width)
        yield counts.astype(np.float64)[units]


def unit_of(groups: Sequence[Any] | NDArray[Any] | None, images: int) -> NDArray[np.int64]:
    """Return the index of the unit that each image is drawn with: its group, or itself where it has none."""
    if groups is None:
        return np.arange(images, dtype=np.int64)
    if len(groups) != images:
        raise DataError(f"there are {len(groups)} groups for {images} images; give one group for each image")
    known: dict[object, int] = {}
    keys = [("alone", i) if pd.isna(name) or name == "" else name for i, name in enumerate(groups)]
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64)
