"""Fit the head that params.yaml asks for, solved, trained or grown, for each fold and for all."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from thaw.config.schema import HeadParams
from thaw.head.features import Features
from thaw.head.growing import Growth, grow, report_on
from thaw.head.linear import fit_linear, linear_module
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


def fit_head(params: HeadParams, data: Features, *, seed: int) -> Fitted:
    """Return the head for these features, and one for each fold; the features to train on may be overwritten.

    Raises: ParamsError if it cannot grow, TrainingError if it diverges or if a class has no training image.
    """
    folds: list[nn.Module] = []
    logits = np.zeros((len(data.val_rows), len(data.facts.classes)), np.float32)
    for number in range(data.num_folds if data.num_folds > 1 else 0):
        part = data.of_fold(number)
        folds.append(_fit(params, part, seed)[0])
        logits[data.val_folds == number] = part.val_answers(folds[-1])
    head, facts, curves, growth = _fit(params, data, seed)
    if not folds:
        logits = data.val_answers(head)
    if growth is not None:
        grown = report_on(growth, data.facts.classes, data.val_labels(), data.val_answers(growth.before), logits)
        facts = facts.model_copy(update={"grown_from": grown})
    elif facts.strength is not None:
        print(f"head: regularisation C {facts.strength}, largest weight {facts.largest_weight:.3g}")
    return Fitted(head, facts, curves, folds, logits)


def _fit(
    params: HeadParams, data: Features, seed: int
) -> tuple[nn.Module, HeadFacts, list[dict[str, float]], Growth | None]:
    """Return a head for the training images of these features, what is known of it, its curves, and how it grew."""
    facts = HeadFacts(kind=params.form, hidden=params.hidden, dropout=params.dropout)
    num_classes = len(data.facts.classes)
    if params.grow_from:
        growth = grow(params.grow_from, data, kind=params.form)
        return growth.head, facts, [], growth
    if params.form != "linear":
        head, curves = train_head(data.train, num_classes, params, seed=seed)
        return head, facts, curves, None
    fit = fit_linear(data.train, num_classes, overwrite=True)
    solved = {"strength": fit.strength, "largest_weight": fit.largest_weight}
    return linear_module(fit), facts.model_copy(update=solved), [], None
