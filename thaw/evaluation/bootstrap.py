"""Bootstrap intervals of every metric, over images or over groups of images that belong together."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from thaw.errors import DataError
from thaw.evaluation.metrics import Table

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
    of: Callable[[Table, NDArray[np.float64]], dict[str, NDArray[np.float64]]] = Table.metrics,
) -> dict[str, tuple[float, float]]:
    """Return (low, high) of the 95 % bootstrap interval of each metric `of` the table, by `interval_of`.

    labels [images], probabilities [images, classes]. groups [images] names what was sampled together (a patient, a
    video); whole groups are then drawn, and an empty or missing name is a group of its own. In simulations the
    intervals held the truth in 95 % of the runs, that of average_precision on 300 images in 92 %. ece is biased
    upwards in small samples, and so is its interval. A metric that no draw defines is absent.
    Raises: DataError as `classification_metrics`, or if there is not one group entry per image.
    """
    table, units = Table.of(labels, probabilities), unit_of(groups, len(labels))
    num_units = int(units.max()) + 1
    found = _joined(of(table, weights) for weights in bootstrap_weights(units, draws, seed))
    return {
        name: interval for name, values in found.items() if (interval := interval_of(values, num_units)) is not None
    }


def class_intervals(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    *,
    groups: Sequence[Any] | NDArray[Any] | None,
    draws: int,
    seed: int,
) -> list[dict[str, tuple[float, float]]]:
    """Return (low, high) of precision, recall and f1 of each class, as `bootstrap_intervals` does for the whole.

    A draw in which a class has no image, or no guess, says nothing of its recall, or precision, and is passed over.
    Raises: DataError as `bootstrap_intervals`.
    """
    table, units = Table.of(labels, probabilities), unit_of(groups, len(labels))
    num_units = int(units.max()) + 1
    found = _joined(table.class_metrics(weights) for weights in bootstrap_weights(units, draws, seed))
    return [
        {
            name: interval
            for name, values in found.items()
            if (interval := interval_of(values[index], num_units)) is not None
        }
        for index in range(table.num_classes)
    ]


def _joined(blocks: Iterable[dict[str, NDArray[np.float64]]]) -> dict[str, NDArray[np.float64]]:
    """Return the values of all draws, which come in blocks along their last axis."""
    parts = list(blocks)
    return {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}


def interval_of(values: NDArray[np.float64], num_units: int) -> tuple[float, float] | None:
    """Return the ends of the 95 % interval of a metric from its bootstrap draws [draws]; None if none defines it.

    Percentiles further out than 2.5 and 97.5 make up for what the plain ones lack (Hesterberg 2015, What Teachers
    Should Know About the Bootstrap, on narrowness bias): draws from n units vary by (n - 1) / n too little, and few
    units call for the quantiles of Student's t. With 150 units they are 2.4 and 97.6, with 10 units 0.9 and 99.1.
    """
    defined = values[np.isfinite(values)]
    if not len(defined):
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
