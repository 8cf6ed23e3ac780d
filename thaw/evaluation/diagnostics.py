"""What looks wrong in a trained head or phase: what it is, the figures that show it, and what to do.

All of it is read off the curves of training, the answers on validation, and heads tried on earlier blocks. Every
threshold is relative to what guessing costs: the log loss of equal odds, ln(classes).

A finding says what the images show. Where the figures look like one and the images are too few to show it, or where
neither it nor its contrary is shown, the finding is `cannot_tell`. Training losses are over the same images in every
epoch, so no chance of drawing images is in them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from thaw.evaluation.calibration import fit_temperature, sample_losses
from thaw.evaluation.intervals import paired_proportion
from thaw.pipeline.model_facts import EarlierLayers
from thaw.pipeline.report_facts import Finding

DIVERGED = 1.5
"""Times the loss of guessing: a network that knows nothing and says so is at 1, so this one is loud and wrong."""
STUCK = 0.02
"""Share by which the training loss must fall after the first epoch; views and batches alone move it by about 1 %."""
SOLVED = 0.05
"""Times the loss of guessing: a loss below it has nowhere left to fall."""
UNMOVED = 1e-3
"""Relative range of the validation loss over the epochs in which nothing has changed but rounding."""
LOST_RATE = 6e-8
"""Half the spacing of float32 at 1. A step of AdamW is about as large as the rate (Kingma and Ba 2015, section 2.1), so
what is below this is rounded away."""
GAP = 0.2
"""Times the loss of guessing: a validation loss this far above the training loss is overfitting, if it is no chance."""
EARLIER = 0.02
"""Times the loss of guessing: what the head must gain from an earlier block."""
NEGLIGIBLE = 0.1
"""Share of the loss of answering the classes' shares: a head that surely gains less than this knows next to nothing."""
FEWEST = 20
"""Images from which on a standard error of losses is taken for what it is."""
_TAIL = 0.025
"""One-sided: the chance at which a difference that is none is taken for one; of the best of three a third of it."""


@dataclass(frozen=True)
class TrainingRun:
    """How the head or a phase was trained, and what it answers on validation."""

    where: str
    curves: pd.DataFrame
    """A row for each epoch, 0 being the start: epoch, train_loss, val_loss, lr:BLOCK; empty for a head that was
    solved."""
    logits: NDArray[np.floating]
    """[images, classes]"""
    labels: NDArray[np.int64]
    layers: EarlierLayers | None = None
    """What heads on earlier blocks are worth beside one on the last (head/earlier_layers.py), if tried."""

    @property
    def guessing(self) -> float:
        """The log loss of equal odds, in nats."""
        return math.log(self.logits.shape[1])


def findings_of(runs: Sequence[TrainingRun]) -> list[Finding]:
    """Return the findings of a run, the head's first."""
    found: list[Finding | None] = []
    for number, run in enumerate(runs):
        found += [_majority(run), _earlier(run)] if number == 0 else []
        found += [_diverges(run) or _unmoved(run) or _stuck(run) or _overfits(run)]
    return [finding for finding in found if finding is not None]


def _diverges(run: TrainingRun) -> Finding | None:
    trained = _trained(run)
    if trained.empty:
        return None
    limit, start = DIVERGED * run.guessing, float(run.curves["val_loss"].iloc[0])
    first, train, val = (float(value) for value in (*trained["train_loss"].iloc[[0, -1]], trained["val_loss"].iloc[-1]))
    worse_than_before = train > DIVERGED * first or (val > limit and (val > start or len(trained) == 1))
    if not (train > limit and worse_than_before):
        return None
    return Finding(
        kind="diverges",
        where=run.where,
        evidence=(
            f"the training loss ends at {train:.3g} and the validation loss at {val:.3g}, where guessing costs "
            f"{run.guessing:.3g}"
        ),
        advice=f"lower its lr tenfold{_peak_words(run)}, give it a longer warmup, or unfreeze less",
    )


def _unmoved(run: TrainingRun) -> Finding | None:
    trained = _trained(run)
    if trained.empty or _peak(run) >= LOST_RATE:
        return None
    evidence = f"its rate is {_peak(run):.2g} at most, and a step below {LOST_RATE:.0e} is lost in rounding"
    return Finding(
        kind="rate_too_low", where=run.where, evidence=evidence, advice="raise its lr; 1e-4 to 1e-3 is usual for AdamW"
    )


def _stuck(run: TrainingRun) -> Finding | None:
    trained = _trained(run)
    if len(trained) < 2:
        return None
    first, later = trained["train_loss"].iloc[0], trained["train_loss"].iloc[1:].min()
    if later < (1 - STUCK) * first or min(first, run.curves["val_loss"].min()) < SOLVED * run.guessing:
        return None
    evidence = f"the training loss was {first:.4g} in the first epoch and {later:.4g} at best after it"
    if np.ptp(trained["val_loss"]) < UNMOVED * trained["val_loss"].mean():
        advice = f"raise its lr{_peak_words(run)}: its steps are too small to change an answer"
        return Finding(kind="rate_too_low", where=run.where, evidence=evidence, advice=advice)
    advice = f"try ten times and a tenth of its lr{_peak_words(run)}, or unfreeze more; else look at the labels"
    return Finding(kind="stuck", where=run.where, evidence=evidence, advice=advice)


def _overfits(run: TrainingRun) -> Finding | None:
    """Compare validation with training after the last epoch, which is what a phase offers."""
    trained = _trained(run)
    if trained.empty:
        return None
    best, last = run.curves.iloc[int(run.curves["val_loss"].argmin())], trained.iloc[-1]
    gap = last["val_loss"] - last["train_loss"]
    if gap <= GAP * run.guessing:
        return None
    evidence = (
        f"after epoch {last['epoch']:.0f}, the last, the validation loss is {last['val_loss']:.3g} and the training "
        f"loss {last['train_loss']:.3g}"
    )
    if best["val_loss"] < last["val_loss"]:
        evidence += f"; after epoch {best['epoch']:.0f} the validation loss was {best['val_loss']:.3g}"
    losses = sample_losses(run.logits, run.labels)
    if len(losses) < FEWEST or gap <= _reach(float(losses.std(ddof=1)) / math.sqrt(len(losses)), len(losses)):
        return _cannot_tell(run, "it overfits", evidence)
    advice = "unfreeze less, train for fewer epochs, or give it more views, augmentation, weight_decay or images"
    return Finding(kind="overfits", where=run.where, evidence=evidence, advice=advice)


def _majority(run: TrainingRun) -> Finding | None:
    """Hold the head against an answer that is always the commonest class, and against the classes' frequencies.

    It is better where its accuracy or its log loss surely is, and no better where its accuracy is not higher and its
    loss surely gains less than `NEGLIGIBLE`; the loss is at a temperature that was fitted to the same images, which
    speaks for the head.
    """
    counts, images = np.bincount(run.labels, minlength=run.logits.shape[1]), len(run.labels)
    correct, always = run.logits.argmax(axis=1) == run.labels, run.labels == counts.argmax()
    if paired_proportion(correct, always, np.arange(images))[0] > 0:
        return None
    temperature = fit_temperature(run.logits, run.labels)
    shares = -np.log(counts[run.labels] / counts.sum())
    gained = shares - sample_losses(run.logits, run.labels, temperature)
    reach = _reach(float(gained.std(ddof=1)) / math.sqrt(images), images) if images >= FEWEST else math.inf
    if gained.mean() > reach:
        return None
    evidence = (
        f"the validation accuracy is {correct.mean():.3f}, that of always answering the commonest class "
        f"{always.mean():.3f} on {images} images, and the log loss is {shares.mean() - gained.mean():.3g}, that of "
        f"answering the classes' shares {shares.mean():.3g}"
    )
    if correct.mean() > always.mean() or gained.mean() + reach > NEGLIGIBLE * shares.mean():
        return _cannot_tell(run, "it is better than the majority class", evidence)
    return Finding(
        kind="no_better_than_majority",
        where=run.where,
        evidence=evidence,
        advice=(
            "look at some images and their labels; then unfreeze more (depth: all), or try another backbone or input_px"
        ),
    )


def _earlier(run: TrainingRun) -> Finding | None:
    """Look for a block before the last that a head on the frozen network would surely do better on."""
    if run.layers is None:
        return None
    last, earlier, images = run.layers.last, run.layers.earlier, len(run.labels)
    name = min(earlier, key=lambda block: earlier[block].log_loss)
    best = earlier[name]
    if -best.difference <= EARLIER * run.guessing:
        return None
    evidence = (
        f"on {run.layers.images} training images a head on block {name} reaches a validation log loss of "
        f"{best.log_loss:.3g} and an accuracy of {best.accuracy:.3f}, one on the last block, {last.block}, "
        f"{last.log_loss:.3g} and {last.accuracy:.3f}"
    )
    if images < FEWEST or -best.difference <= _reach(best.standard_error, images, of=len(earlier)):
        return _cannot_tell(run, "an earlier block serves the head better", evidence)
    return Finding(
        kind="earlier_layers_do_better",
        where=run.where,
        evidence=f"{evidence}: these images are far from those of the pretraining",
        advice=(
            "let the head see the blocks before (backbone.taps: [all]) or end the network there (backbone.keep: "
            f"{name}), unfreeze that deep, or try another backbone"
        ),
    )


def _cannot_tell(run: TrainingRun, what: str, evidence: str) -> Finding:
    return Finding(
        kind="cannot_tell",
        where=run.where,
        evidence=f"whether {what} cannot be told from {len(run.labels)} images: {evidence}",
        advice="more images would tell, or folds (select.folds) where only a part of them is validated on",
    )


def _reach(standard_error: float, images: int, of: int = 1) -> float:
    """Return what the largest `of` so many differences must exceed before it counts (Student's t, Bonferroni)."""
    return standard_error * float(-special.stdtrit(images - 1, _TAIL / of))


def _trained(run: TrainingRun) -> pd.DataFrame:
    """Return the epochs with a training loss."""
    if not {"train_loss", "val_loss"} <= set(run.curves.columns):
        return pd.DataFrame()
    return run.curves.dropna(subset=["train_loss", "val_loss"])


def _peak(run: TrainingRun) -> float:
    """Return the highest learning rate of any block in any epoch; infinite where the curves hold none."""
    rates = run.curves.filter(regex="^lr:").to_numpy(dtype=np.float64)
    return float(np.nanmax(rates)) if np.isfinite(rates).any() else math.inf


def _peak_words(run: TrainingRun) -> str:
    return f" (an epoch's mean was up to {_peak(run):.2g})" if math.isfinite(_peak(run)) else ""
