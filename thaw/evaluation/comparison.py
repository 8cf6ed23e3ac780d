"""Which candidate is to be kept? Paired comparisons on answers for images that none of them has seen.

Every candidate answers at a temperature that was fitted on other images (cross-fitted): left as it is, a phase with an
accuracy of 0.98 can have a larger loss than a head with 0.88 only because its few mistakes are loud, and a temperature
that was fitted on the same images flatters. What is compared is a cost, the smaller the better: that of the metric that
the user wants to be best (docs/decisions/0031-what-the-choice-is-made-on.md).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special  # scipy.stats would take half a second more to import

from thaw.evaluation.bootstrap import bootstrap_weights, interval_of, unit_of
from thaw.evaluation.calibration import fit_temperature, probabilities, sample_losses
from thaw.evaluation.metrics import Table, check, weighted_sum
from thaw.pipeline.report_facts import Comparison

Floats = NDArray[np.float64]
PARTS = 5
"""Into how many parts the images of a single fold are divided, so that temperatures are fitted on others there too."""


def _mean_of(cost: Callable[[Table], Floats]) -> Callable[[Table, Floats], Floats]:
    return lambda table, weights: weighted_sum(cost(table), weights) / weights.sum(axis=0)


def _lack_of(name: str) -> Callable[[Table, Floats], Floats]:
    return lambda table, weights: 1 - table.metrics(weights)[name]


COSTS: Mapping[str, Callable[[Table, Floats], Floats]] = {
    "accuracy": _mean_of(lambda table: (table.predicted != table.labels) + table.squares),
    "log_loss": _mean_of(lambda table: table.losses),
    "balanced_accuracy": _lack_of("balanced_accuracy"),
    "macro_f1": _lack_of("macro_f1"),
    "roc_auc": _lack_of("roc_auc"),
}
"""By what `select.metric` wants to be best: from the answers and weights [images, draws] to costs [draws]."""


@dataclass(frozen=True)
class Candidate:
    """A trained model's answers on the validation images."""

    name: str
    start: str | None
    """The phase that it started from; None for the head."""
    logits: NDArray[np.floating]
    """[images, classes], the images in the same order for every candidate."""


@dataclass(frozen=True)
class Result:
    """How a candidate did, and what it was compared with."""

    name: str
    start: str | None
    accuracy: float
    log_loss: float
    """Nats, as the model stands."""
    temperature: float
    """Fitted on all of the answers: what is shipped."""
    calibrated_log_loss: float
    """Nats, each image's at a temperature that was fitted on others."""
    cost: float
    """What is compared, the smaller the better."""
    against_head: Comparison | None
    """Against the first candidate; None for itself."""
    against_start: Comparison | None
    against_best: Comparison | None
    """Against the best candidate so far when its turn came; None for the first."""
    replaced_best: bool
    """It became the best so far."""


def mcnemar_p(correct: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """Return the two-sided exact p of McNemar's test on paired answers [images]; 1 where they never differ.

    Given the images that only one of the two gets right, either is as likely to be the one: a binomial test with 1/2.
    """
    gained, lost = int((correct & ~reference).sum()), int((~correct & reference).sum())
    return min(1.0, 2 * float(special.bdtr(min(gained, lost), gained + lost, 0.5)))  # with 1/2 both tails are the same


def cross_fitted(
    logits: NDArray[np.floating], labels: NDArray[np.int64], parts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return probabilities [images, classes], those of each part at the temperature that fits all others best."""
    found = probabilities(logits)
    for part in np.unique(parts):
        here = parts == part
        if not here.all():
            found[here] = probabilities(logits[here], fit_temperature(logits[~here], labels[~here]))
    return found


def parts_of(folds: NDArray[np.int64], units: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each image's part, between which temperatures are cross-fitted: its fold, or a share of the only one."""
    return folds if folds.any() else units % PARTS


@dataclass(frozen=True)
class _Scored:
    """A candidate's answers, at cross-fitted temperatures."""

    candidate: Candidate
    table: Table

    @property
    def correct(self) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = self.table.predicted == self.table.labels
        return right

    def against(
        self,
        reference: "_Scored | None",
        *,
        cost: Callable[[Table, Floats], Floats],
        units: NDArray[np.int64],
        draws: int,
        seed: int,
    ) -> Comparison | None:
        """Return how this candidate compares with another; equal is not better."""
        if reference is None:
            return None
        ones = np.ones((len(units), 1))
        blocks = bootstrap_weights(units, draws, seed)
        differences = np.concatenate([cost(self.table, block) - cost(reference.table, block) for block in blocks])
        defined = differences[np.isfinite(differences)]
        low, high = interval_of(defined, int(units.max()) + 1) or (None, None)
        return Comparison(
            reference=reference.candidate.name,
            difference=float(cost(self.table, ones)[0] - cost(reference.table, ones)[0]),
            low=low,
            high=high,
            win_rate=float((defined < 0).mean()) if len(defined) else 0.0,
            mcnemar_p=mcnemar_p(self.correct, reference.correct),
        )


def choose(
    candidates: Sequence[Candidate],
    labels: NDArray[np.int64],
    *,
    min_win_rate: float,
    draws: int,
    seed: int,
    metric: str = "accuracy",
    folds: NDArray[np.int64] | None = None,
    groups: Sequence[Any] | NDArray[Any] | None = None,
) -> list[Result]:
    """Return a result for each candidate, in order; the last that `replaced_best` is the one to keep.

    The first candidate is the one to beat. Each next one replaces the best so far only if its cost is the smaller in at
    least `min_win_rate` (0.5 to 1) of the paired bootstrap draws; equal is not better. A phase is held against the best
    so far and not against its start, so it may follow a rejected phase and still win. folds [images] says which answers
    come from one model; groups [images] are drawn whole, as in `bootstrap_weights`.
    Raises: DataError if the labels or a candidate's answers are not those of the same, at least one, images.
    """
    units = unit_of(groups, len(labels))
    parts = parts_of(np.zeros(len(labels), np.int64) if folds is None else folds, units)
    against = partial(_Scored.against, cost=COSTS[metric], units=units, draws=draws, seed=seed)
    scored: dict[str, _Scored] = {}
    results: list[Result] = []
    best: _Scored | None = None
    for candidate in candidates:
        check(labels, probabilities(candidate.logits))
        table = Table.of(labels, cross_fitted(candidate.logits, labels, parts))
        own = scored[candidate.name] = _Scored(candidate, table)
        against_best = against(own, best)
        replaced_best = against_best is None or against_best.win_rate >= min_win_rate
        results.append(
            Result(
                name=candidate.name,
                start=candidate.start,
                accuracy=float(own.correct.mean()),
                log_loss=float(sample_losses(candidate.logits, labels).mean()),
                temperature=fit_temperature(candidate.logits, labels),
                calibrated_log_loss=float(table.losses.mean()),
                cost=float(COSTS[metric](table, np.ones((len(labels), 1)))[0]),
                against_head=against(own, scored[candidates[0].name] if candidate is not candidates[0] else None),
                against_start=against(own, scored[candidate.start] if candidate.start else None),
                against_best=against_best,
                replaced_best=replaced_best,
            )
        )
        best = own if replaced_best else best
    return results
