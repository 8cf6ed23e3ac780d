"""Bootstrap draws of images, or of groups of images that belong together, and the interval that they imply."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from thaw.errors import DataError

LEVEL = 0.95
_CELLS = 1_000_000
"""Weights held at once: a block of [images, draws] that stays near the processor's caches (8 MB)."""


def interval_of(values: NDArray[np.float64], num_units: int) -> tuple[float, float] | None:
    """Return the ends of the 95 % interval of a metric from its bootstrap draws [draws].

    None if no draw defines it, or if all agree: that says how few images there are, and nothing of the truth.

    Percentiles further out than 2.5 and 97.5 make up for what the plain ones lack (Hesterberg 2015, What Teachers
    Should Know About the Bootstrap, on narrowness bias): draws from n units vary by (n - 1) / n too little, and few
    units call for the quantiles of Student's t. With 150 units they are 2.4 and 97.6, with 10 units 0.9 and 99.1.
    """
    defined = values[np.isfinite(values)]
    if not len(defined) or not np.ptp(defined):
        return None
    tail = (1 - LEVEL) / 2
    if num_units > 1:
        tail = float(special.ndtr(special.stdtrit(num_units - 1, tail) * (num_units / (num_units - 1)) ** 0.5))
    low, high = np.quantile(defined, [tail, 1 - tail], method="weibull")
    return float(low), float(high)


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
