"""Did unfreezing help? Read off the test images, which no choice has seen: the change from the head to a phase.

The word follows from the 95 % interval of the change in `select.metric`, accuracy unless params.yaml says otherwise.
Wholly better: it helped. Wholly worse: it hurt. Else the images do not show it, whatever the figures look like.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from thaw.config.schema import Metric
from thaw.evaluation.bootstrap import LEVEL, unit_of
from thaw.evaluation.comparison import mcnemar_p
from thaw.evaluation.intervals import (
    FEWEST_OF_A_CLASS,
    FEWEST_WRONG,
    Interval,
    even_interval,
    mean_interval,
    paired_proportion,
    shares_of,
    units_with,
)
from thaw.evaluation.metrics import Table, calibration_metrics, classification_metrics
from thaw.pipeline.candidates import display_name
from thaw.pipeline.report_facts import Figures, Verdict, Word, interval

Probabilities = NDArray[np.float64]

POWER = 0.8
"""Chance that a test of the size named would show the change (Cohen 1988, section 2.4)."""
LOWER_IS_BETTER = {"log_loss"}
NAMES = {
    "accuracy": "accuracy",
    "log_loss": "log loss",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "roc_auc": "ROC AUC",
}
_KEPT: dict[int, tuple[Word, str]] = {
    1: ("helped", "Unfreezing helped on {images} test images"),
    0: ("kept", "{name} is kept; whether it helps is not shown by {images} test images"),
    -1: ("hurt", "Unfreezing hurt on {images} test images"),
}
"""Word and first words of the sentence by the side of 0 that the change is on, where the phase was chosen."""
_REJECTED: dict[int, tuple[Word, str]] = {
    1: ("better", "The head alone was kept; on {images} test images {name} would have been better"),
    0: ("not_shown", "The head alone was kept; {name} is not shown to differ from it by {images} test images"),
    -1: ("worse", "The head alone was kept; on {images} test images {name} would have been worse"),
}
"""Likewise, where the head was chosen instead of the phase."""


def change_of(
    labels: NDArray[np.int64],
    model: Probabilities,
    head: Probabilities,
    *,
    groups: Sequence[Any] | NDArray[Any] | None,
    metric: Metric,
    draws: int,
    seed: int,
) -> Figures:
    """Return what changes from the head's answers to the model's on the same images, model minus head.

    labels [images], model and head [images, classes], each calibrated by its own temperature. There are n (images), the
    change in accuracy, in log loss and in `metric` with the ends of their intervals, the images gained and lost (right
    by one of the two alone), mcnemar_p unless images come in groups, and images_needed: how many test images would show
    a change in `metric` of this size with a power of 80 %, absent where it is 0 or has no interval.
    Raises: DataError as `classification_metrics`.
    """
    units = unit_of(groups, len(labels))
    right, reference = model.argmax(axis=1) == labels, head.argmax(axis=1) == labels
    before, after = _values(labels, head, metric), _values(labels, model, metric)
    ends = {"accuracy": paired_proportion(right, reference, units)}
    if metric == "balanced_accuracy":
        ends[metric] = _balanced(labels, right, reference, units)
    ends |= _left_out(labels, model, head, units, ("log_loss", metric), draws, seed)
    change: Figures = {"n": len(labels)}
    for name in dict.fromkeys(("accuracy", "log_loss", metric)):
        if name in before and name in after:
            change[name] = after[name] - before[name]
            if name in ends:
                change[f"{name}_low"], change[f"{name}_high"] = ends[name]
    change |= {"gained": int((right & ~reference).sum()), "lost": int((reference & ~right).sum())}
    if int(units.max()) + 1 == len(labels):
        change["mcnemar_p"] = mcnemar_p(right, reference)
    if needed := images_needed(change, metric):
        change["images_needed"] = needed
    return change


def _values(labels: NDArray[np.int64], given: Probabilities, metric: Metric) -> dict[str, float]:
    """Return accuracy, log loss and `metric`, without ranking the images of each class where none asks for it."""
    if metric not in {"accuracy", "log_loss"}:
        return classification_metrics(labels, given)
    return calibration_metrics(labels, given) | {"accuracy": float((given.argmax(axis=1) == labels).mean())}


def _balanced(
    labels: NDArray[np.int64], right: NDArray[np.bool_], reference: NDArray[np.bool_], units: NDArray[np.int64]
) -> Interval:
    """Return the interval of the mean change in recall over the classes that occur."""
    own = [labels == index for index in np.unique(labels)]
    changes = [float(right[part].mean() - reference[part].mean()) for part in own]
    return mean_interval(changes, [paired_proportion(right[part], reference[part], units[part]) for part in own])


def _left_out(
    labels: NDArray[np.int64],
    model: Probabilities,
    head: Probabilities,
    units: NDArray[np.int64],
    asked: Sequence[str],
    draws: int,
    seed: int,
) -> dict[str, Interval]:
    """Return the interval of the change in each metric that is no count, where the images tell enough of it."""
    one, other = Table.of(labels, model), Table.of(labels, head)
    wrong = units_with((one.predicted != labels) | (other.predicted != labels), units)
    rarest = min(units_with(labels == index, units) for index in np.unique(labels))
    names = [n for n in asked if n in FEWEST_WRONG and wrong >= FEWEST_WRONG[n] and rarest >= FEWEST_OF_A_CLASS[n]]

    def differences(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        every = Table.calibration if names == ["log_loss"] else Table.metrics
        first, second = every(one, weights), every(other, weights)
        return {name: first[name] - second[name] for name in names}

    if not names:
        return {}
    plain = differences(np.ones((len(labels), 1)))
    found = {
        name: even_interval(float(plain[name][0]), shares)
        for name, shares in shares_of(differences, units, draws, seed).items()
    }
    return {name: ends for name, ends in found.items() if ends is not None}


def images_needed(change: Figures, metric: str) -> int | None:
    """Return how many test images would show a change of this size; None where it is 0 or has no interval.

    The standard error that the interval implies shrinks with the square root of the images.
    """
    ends, size = interval(change, metric), abs(change.get(metric, 0.0))
    if ends is None or size < 1e-12:
        return None
    quantile = float(special.ndtri((1 + LEVEL) / 2))
    error = (ends[1] - ends[0]) / (2 * quantile)
    return math.ceil(change["n"] * ((quantile + float(special.ndtri(POWER))) * error / size) ** 2)


def side_of(change: Figures, metric: str) -> int:
    """Return 1 where the interval of the change lies wholly on the better side of 0, -1 on the worse, else 0."""
    if (ends := interval(change, metric)) is None:
        return 0
    sign = -1 if metric in LOWER_IS_BETTER else 1
    return sign * (1 if ends[0] > 0 else -1 if ends[1] < 0 else 0)


def verdict_of(change: Figures, model: str, *, kept: bool, metric: Metric, accuracies: tuple[float, float]) -> Verdict:
    """Return the word for a phase held against the head, and the sentence that gives the figures.

    `kept` says whether the phase was chosen, or the head instead of it; `accuracies` are those of phase and head.
    """
    side, images, name = side_of(change, metric), change["n"], display_name(model)
    told = _told(change, name, metric, accuracies)
    if side == 0:
        told = f"{told}; {_needed(change, metric, kept=kept)}"
    word, opening = _KEPT[side] if kept else _REJECTED[side]
    return Verdict(
        word=word, model=model, metric=metric, sentence=f"{opening.format(name=name, images=images)}: {told}."
    )


def without_a_phase(images: int, accuracy: float, ends: Interval) -> Verdict:
    """Return what there is to say where no phase was trained."""
    told = f"the head alone answers {accuracy:.3f} of {images} test images correctly"
    return Verdict(
        word="no_phase", sentence=f"No phase was trained; {told} (95 % interval {ends[0]:.3f} to {ends[1]:.3f})."
    )


def _told(change: Figures, name: str, metric: Metric, accuracies: tuple[float, float]) -> str:
    right = f"{name} answers {accuracies[0]:.3f} correctly, the head alone {accuracies[1]:.3f}"
    parts = [_shift(change, key) for key in dict.fromkeys((metric, "accuracy", "log_loss")) if key in change]
    p_value = change.get("mcnemar_p")
    tested = "" if p_value is None else f", McNemar's p {'below 0.001' if p_value < 0.001 else f'{p_value:.3f}'}"
    differing = f"{change['gained']} images gained and {change['lost']} lost{tested}"
    return f"{right} ({differing}); {', '.join(parts)}"


def _shift(change: Figures, key: str) -> str:
    ends = interval(change, key)
    between = f"95 % interval {signed(ends[0])} to {signed(ends[1])}" if ends else "no interval from so few images"
    return f"{NAMES[key]} changes by {signed(change[key])} ({between})"


def _needed(change: Figures, metric: Metric, *, kept: bool) -> str:
    if interval(change, metric) is None:
        return f"{change['n']} images are too few for a verdict"
    size = change[metric] * (-1 if metric in LOWER_IS_BETTER else 1)
    if "images_needed" not in change:
        return "with no change there is nothing that more images would show"
    if kept and size < 0:
        return "with such a change no number of images would show that it helps"
    return f"about {_rounded(int(change['images_needed'])):,} test images would show a change of this size"


def _rounded(number: int) -> int:
    """Return a number rounded up to two digits: more would claim what an extrapolation does not know."""
    unit = int(10 ** max(len(str(number)) - 2, 0))
    return math.ceil(number / unit) * unit


def signed(value: float) -> str:
    """Return a change with its sign and three digits; 0 has no sign."""
    return f"{value:+.3f}" if round(value, 3) else "0.000"
