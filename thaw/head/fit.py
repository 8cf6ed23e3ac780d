"""Fit the head that params.yaml asks for: solved, trained, or grown from that of another model."""

from dataclasses import dataclass

from torch import nn

from thaw.config.schema import HeadParams
from thaw.head.features import Features
from thaw.head.growing import grow
from thaw.head.linear import fit_linear, linear_module
from thaw.head.trained import train_head
from thaw.pipeline.facts import HeadFacts


@dataclass(frozen=True)
class Fitted:
    """A fitted head, what model.json says of it, and a row for each epoch if it took any."""

    head: nn.Module
    facts: HeadFacts
    curves: list[dict[str, float]]


def fit_head(params: HeadParams, data: Features, *, seed: int) -> Fitted:
    """Return the head for these features; those of the training images may be overwritten.

    Raises: ParamsError if it cannot grow, TrainingError if it diverges.
    """
    asked = HeadFacts(kind=params.form, hidden=params.hidden, dropout=params.dropout)
    num_classes = len(data.facts.classes)
    if params.grow_from:
        head, grown = grow(params.grow_from, data, kind=params.form)
        return Fitted(head, asked.model_copy(update={"grown_from": grown}), [])
    if params.form != "linear":
        head, curves = train_head(data.train, data.val, num_classes, params, seed=seed)
        return Fitted(head, asked, curves)
    fit = fit_linear(data.train, data.val, num_classes, overwrite=True)
    print(f"head: regularisation C {fit.strength}, largest weight {fit.largest_weight:.3g}")
    solved = {"strength": fit.strength, "largest_weight": fit.largest_weight}
    return Fitted(linear_module(fit), asked.model_copy(update=solved), [])
