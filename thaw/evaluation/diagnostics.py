"""What looks wrong in a trained head or phase: what it is, the figures that show it, and what to do.

All of it is read off the curves of training, the answers on validation, and heads tried on earlier blocks. Every
threshold is relative to what guessing costs: the log loss of equal odds, ln(classes).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thaw.evaluation.calibration import fit_temperature, sample_losses
from thaw.evaluation.comparison import mcnemar_p
from thaw.pipeline.facts import EarlierLayers, Finding

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
_ERRORS_OF_THREE = 2.4
"""Standard errors that the best of three differences must exceed (Bonferroni: 2.5 % in all)."""
_ERRORS = 2.0
"""Standard errors that a difference must exceed before it counts."""
_LEVEL = 0.05


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
    """What heads on earlier blocks are worth beside one on the last (head/earlier.py), where that was found out."""

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
    """Compare validation with training at the epoch that was kept, else at the last one."""
    trained = _trained(run)
    if trained.empty:
        return None
    losses = sample_losses(run.logits, run.labels)
    margin = max(GAP * run.guessing, _ERRORS * float(losses.std()) / math.sqrt(len(losses)))
    best = run.curves.iloc[int(run.curves["val_loss"].argmin())]
    last = trained.iloc[-1]
    advice = "unfreeze less, train for fewer epochs, or give it more views, augmentation, weight_decay or images"
    if best["val_loss"] - best["train_loss"] > margin:
        evidence = (
            f"at epoch {best['epoch']:.0f}, which was kept, the validation loss is {best['val_loss']:.3g} and the "
            f"training loss {best['train_loss']:.3g}"
        )
        return Finding(kind="overfits", where=run.where, evidence=evidence, advice=advice)
    if last["val_loss"] - max(last["train_loss"], best["val_loss"]) > margin:
        evidence = (
            f"by epoch {last['epoch']:.0f} the training loss was down to {last['train_loss']:.3g} and the validation "
            f"loss up from {best['val_loss']:.3g} to {last['val_loss']:.3g}; epoch {best['epoch']:.0f} was kept"
        )
        return Finding(kind="overfits", where=run.where, evidence=evidence, advice=advice)
    return None


def _majority(run: TrainingRun) -> Finding | None:
    """Hold the head against an answer that is always the commonest class, and against the classes' frequencies."""
    counts = np.bincount(run.labels, minlength=run.logits.shape[1])
    correct, always = run.logits.argmax(axis=1) == run.labels, run.labels == counts.argmax()
    temperature = fit_temperature(run.logits, run.labels)
    gained = -np.log(counts[run.labels] / counts.sum()) - sample_losses(run.logits, run.labels, temperature)
    sure_of_accuracy = correct.mean() > always.mean() and mcnemar_p(correct, always) < _LEVEL
    sure_of_loss = gained.mean() > _ERRORS * gained.std() / math.sqrt(len(gained))
    if sure_of_accuracy or (len(gained) > 1 and sure_of_loss):
        return None
    return Finding(
        kind="no_better_than_majority",
        where=run.where,
        evidence=(
            f"the validation accuracy is {correct.mean():.3f}, that of always answering the commonest class "
            f"{always.mean():.3f} on {len(correct)} images, and the log loss is no better than that of the classes' "
            "shares"
        ),
        advice=(
            "look at some images and their labels; then unfreeze more (depth: all), or try another backbone or input_px"
        ),
    )


def _earlier(run: TrainingRun) -> Finding | None:
    """Look for a block before the last that a head on the frozen network would surely do better on."""
    if run.layers is None:
        return None
    last, earlier = run.layers.last, run.layers.earlier
    name = min(earlier, key=lambda block: earlier[block].log_loss)
    best = earlier[name]
    if -best.difference <= max(EARLIER * run.guessing, _ERRORS_OF_THREE * best.standard_error):
        return None
    return Finding(
        kind="earlier_layers_do_better",
        where=run.where,
        evidence=(
            f"on {run.layers.images} training images a head on block {name} reaches a validation log loss of "
            f"{best.log_loss:.3g} and an accuracy of {best.accuracy:.3f}, one on the last block, {last.block}, "
            f"{last.log_loss:.3g} and {last.accuracy:.3f}: these images are far from those of the pretraining"
        ),
        advice=(
            "let the head see the blocks before (backbone.taps: [all]) or end the network there (backbone.keep: "
            f"{name}), unfreeze that deep, or try another backbone"
        ),
    )


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
