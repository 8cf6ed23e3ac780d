"""Is one model better than another on the same images? Paired tests, and the walk through the phases.

The measure is the log loss after each candidate's own temperature was fitted on the validation set. The loss sees more
than the accuracy does (on 200 images one standard error of an accuracy is two to three points), so it decides between
models sooner. Left as it is, it would punish overconfidence above all: a phase with an accuracy of 0.98 can have a
larger loss than a head with 0.88 only because its few mistakes are loud. One fitted number mends that, costs every
candidate the same single degree of freedom, and is shipped with the winner.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from thaw.evaluation.bootstrap import bootstrap_weights, interval_of, unit_of
from thaw.evaluation.calibration import fit_temperature, probabilities, sample_losses
from thaw.evaluation.metrics import check, weighted_sum
from thaw.pipeline.facts import Comparison


@dataclass(frozen=True)
class Candidate:
    """A trained model's answers on the validation images."""

    name: str
    start: str | None
    """The phase that it started from; None for the head."""
    logits: NDArray[np.floating]
    """[images, classes], the images in the same order for every candidate."""


@dataclass(frozen=True)
class Verdict:
    """One candidate's result, and what it was compared with."""

    name: str
    start: str | None
    accuracy: float
    log_loss: float
    """Nats, as the model stands."""
    temperature: float
    calibrated_log_loss: float
    """Nats, with the temperature applied; what is compared."""
    against_head: Comparison | None
    """Against the first candidate; None for itself."""
    against_start: Comparison | None
    against_best: Comparison | None
    """Against the best candidate so far when its turn came; None for the first."""
    replaced_best: bool
    """It became the best so far."""


def paired_bootstrap(
    losses: NDArray[np.float64], reference: NDArray[np.float64], *, units: NDArray[np.int64], draws: int, seed: int
) -> tuple[float, float, float, float]:
    """Return the mean difference losses - reference, its 95 % interval (low, high), and the share of draws below 0.

    losses and reference [images] are paired; units [images] are those of `unit_of`, and are drawn whole.
    """
    paired = losses - reference
    blocks = bootstrap_weights(units, draws, seed)
    means = np.concatenate([weighted_sum(paired, block) / block.sum(axis=0) for block in blocks])
    low, high = interval_of(means, int(units.max()) + 1) or (math.nan, math.nan)
    return float(paired.mean()), low, high, float((means < 0).mean())


def mcnemar_p(correct: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """Return the two-sided exact p of McNemar's test on paired answers [images]; 1 where they never differ.

    Given the images that only one of the two gets right, either is as likely to be the one: a binomial test with 1/2.
    """
    gained, lost = int((correct & ~reference).sum()), int((~correct & reference).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


@dataclass(frozen=True)
class _Scored:
    """A candidate's answers image by image, at the temperature that fits them best."""

    candidate: Candidate
    temperature: float
    losses: NDArray[np.float64]
    correct: NDArray[np.bool_]

    @classmethod
    def of(cls, candidate: Candidate, labels: NDArray[np.int64]) -> "_Scored":
        check(labels, probabilities(candidate.logits))
        temperature = fit_temperature(candidate.logits, labels)
        losses = sample_losses(candidate.logits, labels, temperature)
        return cls(candidate, temperature, losses, candidate.logits.argmax(axis=1) == labels)

    def against(
        self, reference: "_Scored | None", *, units: NDArray[np.int64], draws: int, seed: int
    ) -> Comparison | None:
        if reference is None:
            return None
        difference, low, high, win_rate = paired_bootstrap(
            self.losses, reference.losses, units=units, draws=draws, seed=seed
        )
        return Comparison(
            reference=reference.candidate.name,
            difference=difference,
            low=low,
            high=high,
            win_rate=win_rate,
            mcnemar_p=mcnemar_p(self.correct, reference.correct),
        )


def choose(
    candidates: Sequence[Candidate],
    labels: NDArray[np.int64],
    *,
    min_win_rate: float,
    draws: int,
    seed: int,
    groups: Sequence[Any] | NDArray[Any] | None = None,
) -> list[Verdict]:
    """Return a verdict for each candidate, in order; the last that `replaced_best` is the one to keep.

    The first candidate is the one to beat. Each next one replaces the best so far only if its calibrated loss is the
    smaller in at least `min_win_rate` (0.5 to 1) of the paired bootstrap draws; equal is not better. A phase is held
    against the best so far and not against its start, so it may follow a rejected phase and still win. groups [images]
    are drawn whole, as in `bootstrap_intervals`.
    Raises: DataError if the labels or a candidate's answers are not those of the same, at least one, images.
    """
    against = partial(_Scored.against, units=unit_of(groups, len(labels)), draws=draws, seed=seed)
    scored: dict[str, _Scored] = {}
    verdicts: list[Verdict] = []
    first: _Scored | None = None
    best: _Scored | None = None
    for candidate in candidates:
        own = scored[candidate.name] = _Scored.of(candidate, labels)
        against_best = against(own, best)
        replaced_best = against_best is None or against_best.win_rate >= min_win_rate
        verdicts.append(
            Verdict(
                name=candidate.name,
                start=candidate.start,
                accuracy=float(own.correct.mean()),
                log_loss=float(sample_losses(candidate.logits, labels).mean()),
                temperature=own.temperature,
                calibrated_log_loss=float(own.losses.mean()),
                against_head=against(own, first),
                against_start=against(own, scored[candidate.start] if candidate.start else None),
                against_best=against_best,
                replaced_best=replaced_best,
            )
        )
        first, best = first or own, own if replaced_best else best
    return verdicts
