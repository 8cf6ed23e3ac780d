"""Fit the head that params.yaml asks for, solved, trained or grown, for each fold and for all."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import nn

from thaw.config.schema import HeadParams
from thaw.head.features import Features
from thaw.head.growing import Growth, grow, report_on
from thaw.head.linear import LinearFit, fit_linear, linear_module
from thaw.head.trained import train_head
from thaw.pipeline.model_facts import HeadFacts


@dataclass(frozen=True)
class Fitted:
    """The head that is kept and what model.json says of it, the heads of the folds, and their answers."""

    head: nn.Module
    """Of all development images; where there is one fold, of its training images."""
    facts: HeadFacts
    curves: list[dict[str, float]]
    """A row for each epoch if it took any."""
    folds: list[nn.Module]
    """Empty where there is one fold."""
    val_logits: NDArray[np.float32]
    """[images, classes] of the images that are validated on, each from a head that has not seen it."""
    answering: list[LinearFit]
    """The solved heads that gave these: of each fold, or the one that is kept. Empty where none was solved."""


def fit_head(params: HeadParams, data: Features, *, seed: int) -> Fitted:
    """Return the head for these features, and one for each fold.

    Raises: ParamsError if it cannot grow, TrainingError if it diverges or if a class has no training image.
    """
    folds = [_fit(params, data.of_fold(number), seed) for number in range(data.num_folds if data.num_folds > 1 else 0)]
    whole = _fit(params, data, seed)
    logits = np.zeros((len(data.val_rows), len(data.facts.classes)), np.float32)
    for number, fitted in enumerate(folds or [whole]):
        logits[data.val_folds == number] = data.of_fold(number).val_answers(fitted.head)
    facts, growth = whole.facts, whole.growth
    if growth is not None:
        grown = report_on(growth, data.facts.classes, data.val_labels(), data.val_answers(growth.before), logits)
        facts = facts.model_copy(update={"grown_from": grown})
    elif facts.strength is not None:
        print(f"head: regularisation C {facts.strength}, largest weight {facts.largest_weight:.3g}")
    answering = [fitted.solved for fitted in folds or [whole] if fitted.solved is not None]
    return Fitted(whole.head, facts, whole.curves, [fitted.head for fitted in folds], logits, answering)


@dataclass(frozen=True)
class _Fit:
    """A head for the training images of some features, what is known of it, and how it came about."""

    head: nn.Module
    facts: HeadFacts
    curves: list[dict[str, float]] = field(default_factory=list)
    growth: Growth | None = None
    solved: LinearFit | None = None


def _fit(params: HeadParams, data: Features, seed: int) -> _Fit:
    facts = HeadFacts(kind=params.form, hidden=params.hidden, dropout=params.dropout)
    num_classes = len(data.facts.classes)
    if params.grow_from:
        growth = grow(params.grow_from, data, kind=params.form)
        return _Fit(growth.head, facts, growth=growth)
    if params.form != "linear":
        head, curves = train_head(data.train, num_classes, params, seed=seed)
        return _Fit(head, facts, curves)
    fit = fit_linear(data.train, num_classes)
    known = {"strength": fit.strength, "largest_weight": fit.largest_weight}
    return _Fit(linear_module(fit), facts.model_copy(update=known), solved=fit)
