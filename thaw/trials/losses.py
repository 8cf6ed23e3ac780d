"""The paired losses that a sweep prunes trials on: one for each parcel of images of each fold of each phase."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from thaw.config.schema import Metric
from thaw.evaluation.comparison import COSTS, PARTS, cross_fitted
from thaw.evaluation.metrics import Table
from thaw.pipeline.trial import NUM_PARCELS, parcels
from thaw.trials.answers import Answers

_MOST_FOLDS = 20

Losses = dict[int, float]
"""By step: a number for each parcel, fold and phase that is the same one in every trial."""


def of_file(path: Path, phase: int, fold: int, metric: Metric) -> Losses:
    """Return the losses of a fold that a running trial has told (`pipeline.trial.tell`)."""
    told = load_file(path)
    return _losses(told["logits"], told["labels"], told["parcels"], phase, fold, metric)


def of_answers(answers: Answers, phase: int, metric: Metric) -> Losses:
    """Return the losses of all folds of a phase: the same as a trial told of each when it was trained."""
    place = parcels(answers.images.ids, answers.images.groups)
    found = Losses()
    for fold in np.unique(answers.folds):
        here = answers.folds == fold
        found |= _losses(answers.logits[here], answers.labels[here], place[here], phase, int(fold), metric)
    return found


def _losses(
    logits: NDArray[np.floating],
    labels: NDArray[np.int64],
    place: NDArray[np.int64],
    phase: int,
    fold: int,
    metric: Metric,
) -> Losses:
    """Return the cost (`comparison.COSTS`) of each parcel, its temperature fitted on others of the same fold."""
    table = Table.of(labels, cross_fitted(logits, labels, place % PARTS))
    present = np.unique(place)
    costs = COSTS[metric](table, (place[:, None] == present).astype(np.float64))
    first = (phase * _MOST_FOLDS + fold) * NUM_PARCELS
    return {first + int(number): float(cost) for number, cost in zip(present, costs, strict=True) if np.isfinite(cost)}


def numbered(phases: Sequence[str]) -> Mapping[str, int]:
    """Return the number of each phase in the steps of its losses."""
    return {name: number for number, name in enumerate(phases)}
