"""The learning curve of the frozen network: how good is a solved head on an eighth, a quarter, half and all images?

It costs a few solves on features that are there, and answers what more images would bring: about as much as the last
doubling did, or less, since such curves flatten (Hestness et al. 2017, arXiv:1712.00409).
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thaw.evaluation.intervals import paired_proportion
from thaw.head.examples import FeatureSet, log_losses
from thaw.head.features import Features
from thaw.head.linear import fit_linear

SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
FEWEST = 3
"""Units of each class that a share must leave, or it is passed over: fewer say nothing."""


def learning_curve(data: Features) -> pd.DataFrame:
    """Return a row for each share of the training images that leaves enough of each class, the smallest first.

    Columns: images (trained on, the mean over folds), accuracy and log_loss (nats) on the images that are validated on,
    each answered on its plain view by heads that have not seen it; gain, the accuracy above that of the row before, and
    the ends of its 95 % interval, gain_low and gain_high. No row where the classes are too small.
    """
    shares = [share for share in SHARES if share == 1 or _leaves_enough(data, share)]
    if len(shares) < 2:
        return pd.DataFrame()
    rows: list[dict[str, float]] = []
    before: NDArray[np.bool_] | None = None
    for share in shares:
        images, right, losses, units = _answered(data, share)
        row = {"images": images, "accuracy": float(right.mean()), "log_loss": float(losses.mean())}
        if before is not None:
            low, high = paired_proportion(right, before, units)
            row |= {"gain": float(right.mean() - before.mean()), "gain_low": low, "gain_high": high}
        rows.append(row)
        before = right
    return pd.DataFrame(rows)


def _leaves_enough(data: Features, share: float) -> bool:
    num_classes = len(data.facts.classes)
    parts = (data.of_fold(number).train for number in range(data.num_folds))
    return all(min(len(own) for own in _units_of(part, num_classes)) * share >= FEWEST for part in parts)


def _answered(data: Features, share: float) -> tuple[float, NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]]:
    """Return the images trained on, and whether the answer is right, loss and unit of each image validated on."""
    num_images = len(data.val_rows)
    right, losses, units = np.zeros(num_images, bool), np.zeros(num_images), np.zeros(num_images, np.int64)
    trained = 0
    for number in range(data.num_folds):
        part, out = data.of_fold(number), data.val_folds == number
        chosen = _share_of(part.train, share, len(data.facts.classes))
        trained += int(chosen[: len(part.train_rows)].sum())
        fit = fit_linear(part.train[chosen], len(data.facts.classes))
        count = len(part.val_rows)  # the plain view comes first
        labels, logits = part.val.labels[:count], fit.logits(part.val.features[:count])
        right[out], losses[out] = logits.argmax(axis=1) == labels, log_losses(logits, labels)
        units[out] = np.arange(count) if part.val.units is None else part.val.units[:count]
    return trained / data.num_folds, right, losses, np.unique(units, return_inverse=True)[1]


def _share_of(train: FeatureSet, share: float, num_classes: int) -> NDArray[np.bool_]:
    """Return a mask of examples: of each class the first units by number, so that smaller shares lie in larger ones."""
    chosen = [own[: max(1, round(share * len(own)))] for own in _units_of(train, num_classes)]
    units = np.arange(len(train.labels)) if train.units is None else train.units
    return np.isin(units, np.concatenate(chosen))


def _units_of(train: FeatureSet, num_classes: int) -> list[NDArray[np.int64]]:
    units = np.arange(len(train.labels)) if train.units is None else train.units
    return [np.unique(units[train.labels == label]) for label in range(num_classes)]
