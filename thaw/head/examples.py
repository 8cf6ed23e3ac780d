"""Examples that a head learns from: features with labels, the targets that these become, and losses."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thaw import memory
from thaw.augment.draws import representatives
from thaw.errors import TrainingError

Features = NDArray[np.float32]
Labels = NDArray[np.int64]

_ENOUGH, _ENOUGH_A_CLASS = 5_000, 20


NUM_INNER_FOLDS = 5
"""Parts into which training images are divided where something is chosen on them."""


@dataclass(frozen=True)
class FeatureSet:
    """Features [examples, features] with their labels [examples] and how sure the label is, above 0 up to 1."""

    features: Features
    labels: Labels
    confidence: NDArray[np.float64]
    units: NDArray[np.int64] | None = None
    """[examples], the same number for what must not be divided: views and copies of an image, images of a group. None:
    each example stands for itself."""

    def __getitem__(self, chosen: NDArray[Any]) -> Self:
        """Return some of the examples, by their positions or by a mask, in memory where they were mapped."""
        features = self.features[chosen]
        memory.drop_pages([self.features])
        return replace(
            self,
            features=features,
            labels=self.labels[chosen],
            confidence=self.confidence[chosen],
            units=None if self.units is None else self.units[chosen],
        )


def inner_folds(train: FeatureSet, num_classes: int) -> list[NDArray[np.bool_]]:
    """Return masks [examples] of the parts on which something is chosen in turn, after training on the others.

    Units are dealt out class by class, so every class is spread as evenly as its units allow. A unit without which a
    class would be missing elsewhere is in no part. The list is empty where there is nothing to divide.
    """
    labels = train.labels
    units = np.arange(len(labels)) if train.units is None else train.units
    numbers, first = np.unique(units, return_index=True)
    of_class = labels[first]
    part = np.full(len(numbers), -1)
    dealt = 0
    for label in range(num_classes):
        own = np.flatnonzero(of_class == label)
        if len(own) > 1:
            part[own] = (dealt + np.arange(len(own))) % NUM_INNER_FOLDS
            dealt += len(own)
    of_example = part[np.searchsorted(numbers, units)]
    masks = [of_example == number for number in range(NUM_INNER_FOLDS)]
    return [mask for mask in masks if mask.any() and set(labels[mask].tolist()) <= set(labels[~mask].tolist())]


def check_every_class(labels: Labels, num_classes: int) -> None:
    """Raises: TrainingError if a class has no training image."""
    if absent := sorted(set(range(num_classes)) - set(labels.tolist())):
        raise TrainingError(
            f"{len(absent)} of {num_classes} classes have no training image (number {absent[0] + 1} of classes.json is "
            "the first); add images of it, or remove it"
        )


def subsample(labels: Labels, num_classes: int, *, seed: int, purpose: str) -> NDArray[np.int64]:
    """Return the positions of as many examples as a head needs that only decides or starts something.

    That is all of them up to 5,000, or 20 a class; the head that answers is fitted on all of them in any case.
    """
    return representatives(labels, max(_ENOUGH, _ENOUGH_A_CLASS * num_classes), seed=seed, purpose=purpose)


def soft_targets(labels: Labels, confidence: NDArray[np.float64], num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Return target probabilities [examples, classes]: the label with its confidence, the rest shared evenly.

    Label smoothing then moves a share of all of it to the uniform distribution (Szegedy et al. 2016,
    arXiv:1512.00567, section 7).
    """
    rest = (1 - confidence) / max(num_classes - 1, 1)
    targets = np.repeat(rest[:, None], num_classes, axis=1)
    targets[np.arange(len(labels)), labels] = confidence
    return torch.from_numpy((1 - smoothing) * targets + smoothing / num_classes).float()


def cross_entropy(logits: NDArray[np.float64], labels: Labels) -> float:
    """Return the mean log loss of logits [examples, classes], in nats."""
    return float(log_losses(logits, labels).mean())


def log_losses(logits: NDArray[np.float64], labels: Labels) -> NDArray[np.float64]:
    """Return the log loss of each example, in nats, from logits [examples, classes]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    meant = shifted[np.arange(len(labels)), labels]
    losses: NDArray[np.float64] = np.log(np.exp(shifted, out=shifted).sum(axis=1)) - meant
    return losses
