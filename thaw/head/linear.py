"""The linear head, solved exactly: multinomial logistic regression, its regularisation chosen by cross-validation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from thaw.head.examples import Features, FeatureSet, check_every_class, inner_folds, log_losses, subsample
from thaw.head.solving import Point, Solver
from thaw.pipeline import timings

# Inverse regularisation strengths tried from strong to weak, each fit starting from the one before; on features of
# unit variance the best lay between 0.01 and 0.1 for every data set that we looked at.
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_PATIENCE = 2
_SLICE = 1024


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear head and the strength of its regularisation."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    strength: float

    @property
    def largest_weight(self) -> float:
        """Largest magnitude of a weight; a head that a phase starts from must not have huge ones."""
        return float(np.abs(self.weight).max())

    def logits(self, features: Features) -> NDArray[np.float64]:
        """Return logits [examples, classes] in float64, which the features become a slice at a time."""
        logits = np.empty((len(features), len(self.bias)))
        for start in range(0, len(features), _SLICE):
            part = slice(start, start + _SLICE)
            logits[part] = features[part] @ self.weight.T + self.bias
        return logits


@timings.counted("train")
def fit_linear(
    train: FeatureSet,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
    *,
    among: NDArray[np.int64] | None = None,
) -> LinearFit:
    """Return the multinomial logistic regression at the strength of its regularisation that `choose_strength` finds.

    Solved by L-BFGS on features centred and scaled by one common factor, which is then folded into the layer: a
    factor of its own for each feature fits slightly better and ruins the start of a phase (decision 0006). On as many
    threads as torch has, with the same digits on any number of them (decision 0053).

    An unsure label is a target of several classes, as in `soft_targets` without smoothing. With `among` the fit is to
    the examples at these positions, as to a copy of them.
    """
    check_every_class(train.labels if among is None else train.labels[among], num_classes)
    chosen = strengths[0] if len(strengths) == 1 else choose_strength(train, num_classes, strengths, among=among)
    return _Path(train, num_classes, among).fit(chosen)


def choose_strength(
    train: FeatureSet,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
    *,
    among: NDArray[np.int64] | None = None,
) -> float:
    """Return the strength with the lowest log loss on training images left out in turn, five times.

    On at most as many examples as `subsample` takes: a strength weighs the loss of each example, so that it means the
    same on more of them. A strength from the middle where there are too few images to leave any out.
    """
    positions = np.arange(len(train.labels)) if among is None else among
    few = train[positions[subsample(train.labels[positions], num_classes, seed=0, purpose="strength")]]
    masks = inner_folds(few, num_classes)
    parts = [(_Path(few, num_classes, np.flatnonzero(~left_out)), few[left_out]) for left_out in masks]
    best, lowest, worse = strengths[len(strengths) // 2], math.inf, 0
    for strength in strengths if parts else ():
        loss = sum(float(log_losses(path.fit(strength).logits(out.features), out.labels).sum()) for path, out in parts)
        best, lowest, worse = (strength, loss, 0) if loss < lowest else (best, lowest, worse + 1)
        if worse == _PATIENCE:
            break
    return best


class _Path:
    """Fits to the same examples, each starting from the one before: from strong regularisation to weak."""

    def __init__(self, train: FeatureSet, num_classes: int, among: NDArray[np.int64] | None = None) -> None:
        self._solver = Solver(train, num_classes, among)
        self._point = Point.zero(num_classes, train.features.shape[1])

    def fit(self, strength: float) -> LinearFit:
        self._point = self._solver.solve(strength, self._point)
        weight = self._point.weight / self._solver.loss.scale
        return LinearFit(weight, self._point.bias - weight @ self._solver.loss.centre, strength)


def linear_module(fit: LinearFit) -> nn.Linear:
    """Return a linear fit as a layer."""
    return linear_layer(fit.weight, fit.bias)


def linear_layer(weight: NDArray[np.float64], bias: NDArray[np.float64]) -> nn.Linear:
    """Return a layer, in eval mode, with weight [classes, features] and bias [classes], rounded to float32."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias).float()})
    return layer.eval()
