"""Classification metrics from labels and probabilities, for one sample or for many bootstrap draws at once.

Every metric is written once, over weighted images: the plain value is the one with all weights 1, a bootstrap draw
weighs each image by how often it was drawn. The values agree with scikit-learn's, which the tests use as the oracle;
its functions take one draw at a time and would need minutes for 2000 draws.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.errors import DataError

ECE_BINS = 15
"""Guo et al. 2017, On Calibration of Modern Neural Networks, section 4: M = 15 in all of its tables."""

TOP_K = {3: 6, 5: 20}
"""k of the top-k accuracies, and the classes from which on each is worth stating."""

_SUM_TOLERANCE = 1e-6
_LOG_FLOOR = float(np.finfo(np.float64).eps)


def classification_metrics(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> dict[str, float]:
    """Return accuracy, balanced_accuracy, macro_f1, log_loss, brier, ece, roc_auc and average_precision.

    labels [images] hold class indices, probabilities [images, classes] sum to 1 in each row. balanced_accuracy is the
    mean recall of the classes that occur in the labels; macro_f1 the mean over those that occur in labels or
    predictions; log_loss is in nats. ece is the expected calibration error over 15 equal-width bins B of the top
    confidence, sum over B of |B|/n * |accuracy(B) - confidence(B)| (Guo et al. 2017, equation 3). brier is the mean
    squared distance between the probabilities and the answer (Brier 1950), 0 to 2, and half of it for two classes, as
    is customary. roc_auc and average_precision are those of the second class of two, else the mean of one-versus-rest.
    From 6 classes on there is top_3_accuracy, from 20 on top_5_accuracy; of equal probabilities the higher class
    counts as the more likely there, as in scikit-learn. A metric that the labels leave undefined (roc_auc with a
    single class) is absent.
    Raises: DataError for no images, labels outside the classes, and rows that are no probabilities.
    """
    values = Table.of(labels, probabilities).metrics(np.ones((len(labels), 1)))
    return {name: float(value[0]) for name, value in values.items() if np.isfinite(value[0])}


def calibration_metrics(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> dict[str, float]:
    """Return log_loss, brier and ece alone, as `classification_metrics` does. Raises: DataError as that."""
    values = Table.of(labels, probabilities).calibration(np.ones((len(labels), 1)))
    return {name: float(value[0]) for name, value in values.items()}


def class_metrics(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> list[dict[str, float]]:
    """Return support, precision, recall and f1 of each class, in the order of the classes.

    support counts the images of the class. What is undefined is absent: the precision of a class that is never
    predicted, the recall of one that has no image, the f1 of one that is neither.
    Raises: DataError as `classification_metrics`.
    """
    values = Table.of(labels, probabilities).class_metrics(np.ones((len(labels), 1)))
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    return [
        {"support": int(count)}
        | {name: float(value[index, 0]) for name, value in values.items() if np.isfinite(value[index, 0])}
        for index, count in enumerate(counts)
    ]


def check(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> None:
    """Return nothing. Raises: DataError if these are not the labels and probabilities of at least one image."""
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise DataError(
            f"labels have shape {labels.shape} and probabilities {probabilities.shape}; "
            "they must be [images] and [images, classes]"
        )
    if not len(labels):
        raise DataError("there are no images to evaluate; raise prepare.test_fraction or prepare.val_fraction")
    num_classes = probabilities.shape[1]
    if num_classes < 2:
        raise DataError(f"there are {num_classes} classes; a classifier needs at least 2")
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise DataError(f"a label is {outside[0]}; it must be a class index from 0 to {num_classes - 1}")
    valid = (probabilities >= 0).all(axis=1) & (np.abs(probabilities.sum(axis=1) - 1) <= _SUM_TOLERANCE)
    if not valid.all():
        row = int(np.flatnonzero(~valid)[0])
        raise DataError(
            f"row {row} of the probabilities is {probabilities[row, :8].tolist()} with sum {probabilities[row].sum()}; "
            "each must be at least 0 and a row must sum to 1 (NaN means that the model diverged: lower its lr)"
        )


@dataclass(frozen=True)
class _Ranking:
    """One class against the rest, its images in the order of falling score; what ties needs no second look."""

    order: NDArray[np.int64]
    """All images, best score first."""
    positives: NDArray[np.int64]
    """Positions in `order` of the images of this class."""
    tie_start: NDArray[np.int64]
    tie_end: NDArray[np.int64]
    """For each positive: the first position of its group of equal scores, and the one after its last."""
    before: NDArray[np.int64]
    within: NDArray[np.int64]
    """For each positive: the number of positives above its group, and up to the end of its group."""

    @classmethod
    def of(cls, scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> "_Ranking":
        order = np.argsort(-scores, kind="stable")
        ranked = -scores[order]
        positives = np.flatnonzero(positive[order])
        start = np.searchsorted(ranked, ranked[positives], side="left")
        end = np.searchsorted(ranked, ranked[positives], side="right")
        before, within = np.searchsorted(positives, start), np.searchsorted(positives, end)
        return cls(order, positives, start, end, before, within)

    def areas(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the area under ROC and the average precision [draws]; NaN where a draw leaves them undefined.

        The first is the probability that a positive outranks a negative, ties counting half (Hanley and McNeil 1982);
        the second is the sum over thresholds of precision times the gain in recall, as scikit-learn defines it.
        """
        ordered = weights[self.order]
        own = ordered[self.positives]
        all_above, own_above = _cumulated(ordered), _cumulated(own)
        total, total_own = all_above[-1], own_above[-1]
        hits, seen = own_above[self.within], all_above[self.tie_end]
        misses = (seen - hits) + (all_above[self.tie_start] - own_above[self.before])
        rest = total - total_own
        with np.errstate(divide="ignore", invalid="ignore"):
            area = 1 - (own * misses).sum(axis=0) / (2 * total_own * rest)
            precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
            return area, (own * precision).sum(axis=0) / total_own


@dataclass(frozen=True)
class Table:
    """Labels and probabilities, prepared once so that any weighting of the images is cheap to evaluate."""

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    predicted: NDArray[np.int64]
    losses: NDArray[np.float64]
    squares: NDArray[np.float64]
    """Squared distance of each image's probabilities from its answer, the Brier score's share."""
    ranks: NDArray[np.int64]
    """How many classes each image's own stands behind."""
    bins: NDArray[np.int64]
    """The calibration bin of each image's top confidence."""
    gaps: NDArray[np.float64]
    """Correct (0 or 1) minus confidence, per image."""
    num_classes: int

    @classmethod
    def of(cls, labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> "Table":
        """Return the prepared table. Raises: DataError as `check`."""
        check(labels, probabilities)
        images, num_classes = probabilities.shape
        predicted = probabilities.argmax(axis=1)
        own = probabilities[np.arange(images), labels]
        confidence = probabilities.max(axis=1)
        losses = -np.log(np.clip(own, _LOG_FLOOR, 1 - _LOG_FLOOR))
        squares = ((probabilities - np.eye(num_classes)[labels]) ** 2).sum(axis=1) / (2 if num_classes == 2 else 1)
        ahead = (probabilities == own[:, None]) & (np.arange(num_classes) > labels[:, None])
        ranks = ((probabilities > own[:, None]) | ahead).sum(axis=1)
        bins, gaps = bins_of(confidence), (predicted == labels) - confidence
        return cls(labels, probabilities, predicted, losses, squares, ranks, bins, gaps, num_classes)

    @cached_property
    def rankings(self) -> list[_Ranking]:
        """One of each class that occurs, or of the second of two; made when first needed."""
        scored = [1] if self.num_classes == 2 else [c for c in range(self.num_classes) if (self.labels == c).any()]
        return [_Ranking.of(self.probabilities[:, c], self.labels == c) for c in scored]

    def metrics(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return every metric [draws] under weights [images, draws]; NaN where a draw leaves one undefined."""
        total = weights.sum(axis=0)
        support, guesses, hits = self._counts(weights)
        areas = [ranking.areas(weights) for ranking in self.rankings]
        return {
            "accuracy": hits.sum(axis=0) / total,
            "balanced_accuracy": _mean_where(_ratio(hits, support), support > 0),
            "macro_f1": _mean_where(_ratio(2 * hits, support + guesses), support + guesses > 0),
            **self.calibration(weights),
            "roc_auc": _mean_defined([area for area, _ in areas]),
            "average_precision": _mean_defined([precision for _, precision in areas]),
        } | {
            f"top_{k}_accuracy": weighted_sum((self.ranks < k).astype(np.float64), weights) / total
            for k, fewest in TOP_K.items()
            if self.num_classes >= fewest
        }

    def calibration(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return log_loss, brier and ece [draws] under weights [images, draws], which a temperature changes most."""
        total = weights.sum(axis=0)
        miss = _class_sums(self.bins, self.gaps[:, None] * weights, ECE_BINS)
        return {
            "log_loss": weighted_sum(self.losses, weights) / total,
            "brier": weighted_sum(self.squares, weights) / total,
            "ece": np.abs(miss).sum(axis=0) / total,
        }

    def class_metrics(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return precision, recall and f1 [classes, draws] under weights [images, draws]; NaN where undefined."""
        support, guesses, hits = self._counts(weights)
        with np.errstate(invalid="ignore"):
            return {"precision": hits / guesses, "recall": hits / support, "f1": 2 * hits / (support + guesses)}

    def _counts(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Return the weight of each class's images, of its guesses, and of its right guesses, each [classes, draws]."""
        correct = self.predicted == self.labels
        support = _class_sums(self.labels, weights, self.num_classes)
        guesses = _class_sums(self.predicted, weights, self.num_classes)
        return support, guesses, _class_sums(self.labels[correct], weights[correct], self.num_classes)


def weighted_sum(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of values [images] under each column of weights [images, draws].

    Without BLAS, whose order of addition, and so the last bits, depends on the number of threads.
    """
    sums: NDArray[np.float64] = np.einsum("i,id->d", values, weights, optimize=False)
    return sums


def bins_of(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bin of each confidence; bin m covers (m/15, (m+1)/15], as Guo et al. 2017 cut them."""
    return np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)


def _cumulated(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = np.zeros((len(weights) + 1, weights.shape[1]))
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums


def _class_sums(members: NDArray[np.int64], weights: NDArray[np.float64], num_classes: int) -> NDArray[np.float64]:
    """Return the summed weights of each class's images, [classes, draws]."""
    sums = np.zeros((num_classes, weights.shape[1]))
    order = np.argsort(members, kind="stable")
    present, starts = np.unique(members[order], return_index=True)
    if len(present):
        sums[present] = np.add.reduceat(weights[order], starts, axis=0)
    return sums


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    quotient: NDArray[np.float64] = np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole > 0)
    return quotient


def _mean_where(values: NDArray[np.float64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = (values * counted).sum(axis=0) / counted.sum(axis=0)
    return mean


def _mean_defined(values: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    stacked = np.stack(values)
    defined = np.isfinite(stacked)
    counts = defined.sum(axis=0)
    sums = np.where(defined, stacked, 0.0).sum(axis=0)
    means: NDArray[np.float64] = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return means
