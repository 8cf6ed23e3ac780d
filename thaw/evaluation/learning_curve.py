"""The learning curve of the frozen network: how good is a solved head on an eighth, a quarter, half and all images?

It costs three solves beside that of the head itself, on features that are there, and answers what more images would
bring: about as much as the last doubling did, or less, since such curves flatten (Hestness et al. 2017,
arXiv:1712.00409).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thaw.evaluation.intervals import paired_proportion
from thaw.head.examples import FeatureSet, log_losses, subsample
from thaw.head.features import Features
from thaw.head.linear import LinearFit, fit_linear

SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
FEWEST = 3
"""Units of each class that a share must leave, or it is passed over: fewer say nothing."""


def learning_curve(data: Features, heads: Sequence[LinearFit]) -> pd.DataFrame:
    """Return a row for each share of the training images that leaves enough of each class, the smallest first.

    `heads` are the heads on all of them: of each fold, or the one of all training images where there is one fold.

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
        images, right, losses, units = _answered(data, share, heads)
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


def _answered(
    data: Features, share: float, heads: Sequence[LinearFit]
) -> tuple[float, NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]]:
    """Return the images trained on, and whether the answer is right, loss and unit of each image validated on."""
    num_images = len(data.val_rows)
    right, losses, units = np.zeros(num_images, bool), np.zeros(num_images), np.zeros(num_images, np.int64)
    trained = 0
    for number, head in enumerate(heads):
        part, out = data.of_fold(number), data.val_folds == number
        chosen = _share_of(part.train, share, len(data.facts.classes))
        trained += int(chosen[: len(part.train_rows)].sum())
        fit = head if chosen.all() else _fit(part.train, np.flatnonzero(chosen), len(data.facts.classes), head.strength)
        count = len(part.val_rows)  # the plain view comes first
        labels, logits = part.val.labels[:count], fit.logits(part.val.features[:count])
        right[out], losses[out] = logits.argmax(axis=1) == labels, log_losses(logits, labels)
        units[out] = np.arange(count) if part.val.units is None else part.val.units[:count]
    return trained / data.num_folds, right, losses, np.unique(units, return_inverse=True)[1]


def _fit(train: FeatureSet, among: NDArray[np.int64], num_classes: int, strength: float) -> LinearFit:
    """Return the head of a share, at a strength chosen on it, or at that of the head of all where the share is large.

    Then both strengths are chosen on as many examples of the same kind (`subsample`).
    """
    if len(subsample(train.labels[among], num_classes, seed=0, purpose="strength")) == len(among):
        return fit_linear(train, num_classes, among=among)
    print(f"learning curve: {len(among)} examples at C {strength}, as on all of them", flush=True)
    return fit_linear(train, num_classes, strengths=(strength,), among=among)


def _share_of(train: FeatureSet, share: float, num_classes: int) -> NDArray[np.bool_]:
    """Return a mask of examples: of each class the first units by number, so that smaller shares lie in larger ones."""
    chosen = [own[: max(1, round(share * len(own)))] for own in _units_of(train, num_classes)]
    units = np.arange(len(train.labels)) if train.units is None else train.units
    return np.isin(units, np.concatenate(chosen))


def _units_of(train: FeatureSet, num_classes: int) -> list[NDArray[np.int64]]:
    units = np.arange(len(train.labels)) if train.units is None else train.units
    return [np.unique(units[train.labels == label]) for label in range(num_classes)]
