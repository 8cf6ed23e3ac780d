"""95 % intervals of every figure on the test set, exact where images are counted; groups of images stay together.

A figure that counts images (an accuracy, a recall, a precision, an F1) has the interval of a binomial proportion; the
rest (log loss, Brier, macro F1, areas) one from the figure with each unit left out in turn, corrected for skewness. A
figure of which so few images say nothing has none. A unit is a group of images, or an image of no group.
`python -m bench.null` measures how often each interval holds the truth.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from thaw.evaluation.bootstrap import LEVEL, unit_of
from thaw.evaluation.metrics import TOP_K, Table

Interval = tuple[float, float]

FEW_IMAGES = 40
FEW_OF_A_KIND = 5
"""With fewer images, or fewer right or wrong ones, Clopper and Pearson's interval is taken, elsewhere the mid-p one. At
rates from 0.5 to 1 the pair holds the truth in at least 93.4 % of samples of any size."""
FEWEST_WRONG = {"log_loss": 1, "brier": 1, "macro_f1": 3, "roc_auc": 3, "average_precision": 3}
"""Wrong answers from which on each interval held the truth in 93 % of simulated samples. Where no answer is wrong, the
mistakes that decide a log loss were not seen yet: the interval held it in 20 to 60 %."""
FEWEST_OF_A_CLASS = {"log_loss": 0, "brier": 0, "macro_f1": 5, "roc_auc": 5, "average_precision": 5}
"""Images of each class that occurs, likewise."""
_TAIL = (1 - LEVEL) / 2
_Z = float(special.ndtri(1 - _TAIL))
_CELLS = 1_000_000
"""Weights held at once (8 MB)."""


def metric_intervals(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    *,
    groups: Sequence[Any] | NDArray[Any] | None,
    draws: int,
    seed: int,
    of: Callable[[Table, NDArray[np.float64]], dict[str, NDArray[np.float64]]] = Table.metrics,
) -> dict[str, Interval]:
    """Return (low, high) of each metric `of` the table that the images tell enough of.

    labels [images], probabilities [images, classes], groups [images] as `unit_of` takes them. Units are left out one by
    one, or in `draws` parcels at random if there are more. ece has no interval: few images bias it upwards, by more
    than an interval spans, and that of the plain bootstrap held the truth in 0 to 60 % of simulated samples.
    Raises: DataError as `classification_metrics`, or if there is not one group entry per image.
    """
    table, units = Table.of(labels, probabilities), unit_of(groups, len(labels))
    found = _counted(table, units) if of is Table.metrics else {}
    wrong = units_with(table.predicted != labels, units)
    rarest = min(units_with(labels == index, units) for index in np.unique(labels))
    asked = [name for name in FEWEST_WRONG if wrong >= FEWEST_WRONG[name] and rarest >= FEWEST_OF_A_CLASS[name]]
    if not asked:
        return found
    every = of if {*asked} - {"log_loss", "brier"} else Table.calibration
    plain = every(table, np.ones((len(labels), 1)))
    for name, shares in shares_of(lambda weights: every(table, weights), units, draws, seed).items():
        if name in asked and (ends := skewed_interval(float(plain[name][0]), shares)) is not None:
            most = np.inf if name == "log_loss" else 2.0 if name == "brier" and table.num_classes > 2 else 1.0
            found[name] = (max(ends[0], 0.0), min(ends[1], most))
    return found


def _counted(table: Table, units: NDArray[np.int64]) -> dict[str, Interval]:
    right = table.predicted == table.labels
    own = [table.labels == index for index in np.unique(table.labels)]
    recalls, ends = zip(
        *((float(right[part].mean()), proportion(right[part], units[part])) for part in own), strict=True
    )
    found = {"accuracy": proportion(right, units), "balanced_accuracy": mean_interval(recalls, ends)}
    return found | {
        f"top_{k}_accuracy": proportion(table.ranks < k, units)
        for k, fewest in TOP_K.items()
        if table.num_classes >= fewest
    }


def class_intervals(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    *,
    groups: Sequence[Any] | NDArray[Any] | None,
) -> list[dict[str, Interval]]:
    """Return (low, high) of precision, recall and f1 of each class; one without an image or a guess lacks its own.

    F1 is 2 J / (1 + J), J being the right answers' share of the images that have this class as label or as answer.
    Raises: DataError as `metric_intervals`.
    """
    table, units = Table.of(labels, probabilities), unit_of(groups, len(labels))
    found = []
    for index in range(table.num_classes):
        own, guessed = labels == index, table.predicted == index
        ends = {
            name: proportion((own & guessed)[among], units[among])
            for name, among in (("precision", guessed), ("recall", own), ("f1", own | guessed))
            if among.any()
        }
        if "f1" in ends:
            low, high = ends["f1"]
            ends["f1"] = (2 * low / (1 + low), 2 * high / (1 + high))
        found.append(ends)
    return found


def proportion(right: NDArray[np.bool_], units: NDArray[np.int64]) -> Interval:
    """Return the interval of the share of True among images [images], at least one, drawn in these units [images].

    Images that come in groups count as fewer (Korn and Graubard 1998, Confidence Intervals for Proportions with Small
    Expected Number of Positive Counts Estimated from Survey Data).
    """
    number = effective_number(right.astype(np.float64), units)
    return proportion_interval(float(right.mean()) * number, number)


def proportion_interval(hits: float, number: float) -> Interval:
    """Return the interval of a binomial proportion from `hits` of `number` trials, which need not be whole.

    Clopper and Pearson's (1934) where `FEW_IMAGES` or `FEW_OF_A_KIND` holds, else the mid-p interval, whose mean
    coverage is 95 % (Agresti and Gottard 2007): half the probability of the outcome itself counts to each tail.
    """
    misses = number - hits
    share = 0.0 if number < FEW_IMAGES or min(hits, misses) < FEW_OF_A_KIND else 0.5

    def excess(rate: float, own: float) -> float:
        """Return the probability of more hits than these, and `own` times that of as many."""
        fewest = special.betainc(hits, misses + 1, rate) if hits > 0 else 1.0
        more = special.betainc(hits + 1, misses, rate) if misses > 0 else 0.0
        return float(more + own * (fewest - more))

    low = optimize.brentq(lambda rate: excess(rate, 1 - share) - _TAIL, 0, 1, xtol=1e-12) if hits > 0 else 0.0
    high = optimize.brentq(lambda rate: excess(rate, share) - (1 - _TAIL), 0, 1, xtol=1e-12) if misses > 0 else 1.0
    return float(low), float(high)


def effective_number(values: NDArray[np.float64], units: NDArray[np.int64]) -> float:
    """Return how many images drawn alone would tell as much of the mean of values [images] as these units do.

    Korn and Graubard (1998): the number of images over the design effect, times the squared ratio of Student's t for so
    many images and for so many units; not more than the images, and the number of units where all values agree.
    """
    index = np.unique(units, return_inverse=True)[1]
    images, number = len(values), int(index.max()) + 1
    if number == images:
        return float(images)
    if number == 1 or not np.ptp(values):
        return float(number)
    sums = np.bincount(index, weights=values - values.mean())
    spread = number / (number - 1) * float((sums**2).sum()) / images**2
    effect = spread / (float(values.var()) / (images - 1))
    students = special.stdtrit(images - 1, _TAIL) / special.stdtrit(number - 1, _TAIL)
    return float(np.clip(images / max(effect, 1e-12) * students**2, 1.0, images))


def mean_interval(values: Sequence[float], ends: Sequence[Interval]) -> Interval:
    """Return the interval of the mean of independent estimates from the interval of each.

    MOVER (Zou and Donner 2008, Construction of confidence limits about effect measures): the distances of the ends from
    the estimates add up as variances do.
    """
    low, high = np.array(ends).T
    below, above = (float(np.sqrt((distance**2).sum())) / len(values) for distance in (values - low, high - values))
    mean = float(np.mean(values))
    return mean - below, mean + above


def paired_proportion(right: NDArray[np.bool_], reference: NDArray[np.bool_], units: NDArray[np.int64]) -> Interval:
    """Return the interval of the difference of two shares of right answers to the same images [images].

    Bonett and Price (2012), Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on Paired
    Data: one image more is counted for each that only one of the two gets right. It lies wholly on one side of 0 where
    McNemar's exact p is below 0.05, but for rounding. Grouped images count as fewer, as in `proportion`.
    """
    number = effective_number(right.astype(np.float64) - reference, units)
    gained = (float((right & ~reference).mean()) * number + 1) / (number + 2)
    lost = (float((reference & ~right).mean()) * number + 1) / (number + 2)
    middle = gained - lost
    reach = _Z * float(np.sqrt((gained + lost - middle**2) / (number + 2)))
    return max(middle - reach, -1.0), min(middle + reach, 1.0)


def shares_of(
    figures: Callable[[NDArray[np.float64]], dict[str, NDArray[np.float64]]],
    units: NDArray[np.int64],
    most: int,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Return each unit's share in each of `figures` under weights [images, variants], [units]: the jackknife's values.

    A figure changes by share / (units - 1) when the unit is left out (Efron and Stein 1981); the mean share is 0. More
    than `most` units are put into that many parcels at random, which are left out instead. A figure that is not defined
    without one of them is absent.
    """
    parts: dict[str, list[NDArray[np.float64]]] = {}
    for weights in _without_each(units, most, seed):
        for name, values in figures(weights).items():
            parts.setdefault(name, []).append(values)
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    return {
        name: (len(values) - 1) * (values.mean() - values)
        for name, values in joined.items()
        if len(values) > 1 and np.isfinite(values).all()
    }


def _without_each(units: NDArray[np.int64], most: int, seed: int) -> Iterator[NDArray[np.float64]]:
    number = int(units.max()) + 1
    parcels = np.random.default_rng(seed).permutation(number) % most if number > most else np.arange(number)
    of_image, count = parcels[units], min(number, most)
    block = max(1, _CELLS // len(units))
    for start in range(0, count, block):
        yield (of_image[:, None] != np.arange(start, min(start + block, count))).astype(np.float64)


def skewed_interval(value: float, shares: NDArray[np.float64]) -> Interval | None:
    """Return the interval of a figure from the shares of its units [units]; None where all of them agree.

    Hall's transformation (1992, On the Removal of Skewness by Transformation) takes out the skewness of the mean share.
    The quantile is Student's t with as many degrees of freedom as the spread of the shares is worth (Satterthwaite
    1946): a few loud shares are worth few.
    """
    spread = float(shares.std())
    if not spread > np.finfo(np.float64).eps * (1 + abs(value)):
        return None
    number = len(shares)
    skew = float((shares**3).mean()) / spread**3 / number**0.5
    error, quantile = _error(shares), _quantile(shares)

    def undone(at: float) -> float:
        return float(3 * (np.cbrt(1 + skew * (at - skew / 6)) - 1) / skew) if abs(skew) > 1e-9 else at

    return value - error * undone(quantile), value - error * undone(-quantile)


def even_interval(value: float, shares: NDArray[np.float64]) -> Interval | None:
    """Return the interval of a difference of two models as `skewed_interval` does, without regard to skewness.

    Where two models are equally good the shares are as often above 0 as below; taking out the skewness that a sample
    happens to have made the interval too narrow in simulations (0.83 to 0.93 held the truth).
    """
    if not float(shares.std()) > np.finfo(np.float64).eps * (1 + abs(value)):
        return None
    reach = _quantile(shares) * _error(shares)
    return value - reach, value + reach


def _error(shares: NDArray[np.float64]) -> float:
    return float(shares.std(ddof=1) / np.sqrt(len(shares)))


def _quantile(shares: NDArray[np.float64]) -> float:
    number, squares = len(shares), shares**2
    equal = float(squares.sum() ** 2 / (squares**2).sum())
    freedom = 2 * number * equal / max(number - equal, 1e-9)
    return -float(special.stdtrit(min(max(freedom, 1.0), number - 1), _TAIL))


def units_with(images: NDArray[np.bool_], units: NDArray[np.int64]) -> int:
    """Return how many units have one of these images [images]."""
    return len(np.unique(units[images]))
