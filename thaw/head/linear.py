"""The linear head, solved exactly: multinomial logistic regression, its regularisation chosen by cross-validation."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import nn

from thaw.head.examples import Features, FeatureSet, check_every_class, inner_folds, log_losses, subsample
from thaw.pipeline import timings

# Inverse regularisation strengths tried from strong to weak, each fit starting from the one before; on features of
# unit variance the best lay between 0.01 and 0.1 for every data set that we looked at.
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_PATIENCE = 2
_SLICE = 1024
_TOLERANCE, _ITERATIONS = 1e-4, 300  # as many iterations near the optimum are enough

_Solve = Callable[[float], tuple[NDArray[np.float64], NDArray[np.float64]]]
"""From a strength to weight [classes, features] and bias [classes]; each call starts from the solution before."""


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
        slices = np.split(features, range(_SLICE, len(features), _SLICE))
        return np.concatenate([part @ self.weight.T for part in slices]) + self.bias


@timings.counted("train")
def fit_linear(
    train: FeatureSet, num_classes: int, strengths: Sequence[float] = STRENGTHS, *, overwrite: bool = False
) -> LinearFit:
    """Return the multinomial logistic regression at the strength of its regularisation that `choose_strength` finds.

    Solved by L-BFGS on features centred and scaled by one common factor, which is then folded into the layer: a
    factor of its own for each feature fits slightly better and ruins the start of a phase (decision 0006). On one
    thread: it is faster, and what is chosen does not depend on how many there are (docs/log.md).

    An unsure label is a target of several classes, as in `soft_targets` without smoothing.
    With `overwrite` the scaled features take the place of those in `train`, which memory need not hold twice then.
    """
    check_every_class(train.labels, num_classes)
    chosen = strengths[0] if len(strengths) == 1 else choose_strength(train, num_classes, strengths)
    path = _Path(train, num_classes, overwrite=overwrite)
    for strength in strengths:
        fit = path.fit(strength)
        if strength == chosen:
            break
    return fit


def choose_strength(train: FeatureSet, num_classes: int, strengths: Sequence[float] = STRENGTHS) -> float:
    """Return the strength with the lowest log loss on training images left out in turn, five times.

    On at most as many examples as `subsample` takes: a strength weighs the loss of each example, so that it means the
    same on more of them. A strength from the middle where there are too few images to leave any out.
    """
    few = train[subsample(train.labels, num_classes, seed=0, purpose="strength")]
    parts = [(_Path(few[~left_out], num_classes), few[left_out]) for left_out in inner_folds(few, num_classes)]
    best, lowest, worse = strengths[len(strengths) // 2], math.inf, 0
    for strength in strengths if parts else ():
        loss = sum(float(log_losses(path.fit(strength).logits(out.features), out.labels).sum()) for path, out in parts)
        best, lowest, worse = (strength, loss, 0) if loss < lowest else (best, lowest, worse + 1)
        if worse == _PATIENCE:
            break
    return best


class _Path:
    """Fits to the same examples, each starting from the one before: from strong regularisation to weak."""

    def __init__(self, train: FeatureSet, num_classes: int, *, overwrite: bool = False) -> None:
        self._centre = train.features.mean(axis=0, dtype=np.float64)
        self._scale = _spread(train.features, self._centre) or 1.0
        features = _scaled(train.features, self._centre, self._scale, overwrite=overwrite)
        scaled = replace(train, features=features)
        soft = (train.confidence < 1).any()
        self._solve = _soft_solver(scaled, num_classes) if soft else _hard_solver(scaled, num_classes)

    def fit(self, strength: float) -> LinearFit:
        with threadpool_limits(1, user_api="blas"):
            weight, bias = self._solve(strength)
        return LinearFit(weight / self._scale, bias - weight @ self._centre / self._scale, strength)


def linear_module(fit: LinearFit) -> nn.Linear:
    """Return a linear fit as a layer."""
    return linear_layer(fit.weight, fit.bias)


def linear_layer(weight: NDArray[np.float64], bias: NDArray[np.float64]) -> nn.Linear:
    """Return a layer, in eval mode, with weight [classes, features] and bias [classes], rounded to float32."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias).float()})
    return layer.eval()


def _scaled(features: Features, centre: NDArray[np.float64], scale: float, *, overwrite: bool = False) -> Features:
    values: Features = np.subtract(features, centre.astype(np.float32), out=features if overwrite else None)
    values /= np.float32(scale)
    return values


def _spread(features: Features, centre: NDArray[np.float64]) -> float:
    """Return the deviation of all features from their centres, a slice of them in memory at a time."""
    slices = (features[start : start + _SLICE] - centre for start in range(0, len(features), _SLICE))
    return float(np.sqrt(sum(float((values**2).sum()) for values in slices) / features.size))


def _hard_solver(train: FeatureSet, num_classes: int) -> _Solve:
    """Return scikit-learn's solver for labels that are all sure."""
    solver = LogisticRegression(warm_start=True, max_iter=_ITERATIONS, tol=_TOLERANCE)

    def solve(strength: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        solver.C = strength
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            solver.fit(train.features, train.labels, sample_weight=train.confidence)
        weight, bias = np.asarray(solver.coef_, np.float64), np.asarray(solver.intercept_, np.float64)
        if num_classes == 2:
            return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        return weight, bias

    return solve


def _soft_solver(train: FeatureSet, num_classes: int) -> _Solve:
    """Return a solver for unsure labels: scikit-learn's objective and settings of L-BFGS, which takes no soft targets.

    A row for each class that a label may mean, weighted, has the same optimum, and num_classes times the memory.
    """
    flat = np.zeros(num_classes * (train.features.shape[1] + 1))

    def solve(strength: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        nonlocal flat
        options = {"maxiter": _ITERATIONS, "gtol": _TOLERANCE, "ftol": 64 * np.finfo(np.float64).eps, "maxls": 50}
        cost = _soft_cost(train, num_classes, strength)
        flat = minimize(cost, flat, jac=True, method="L-BFGS-B", options=options).x
        solution = flat.reshape(num_classes, -1)
        return solution[:, :-1], solution[:, -1]

    return solve


def _soft_cost(
    train: FeatureSet, num_classes: int, strength: float
) -> Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]:
    """Return the function from weights and biases, flat, to the penalised mean log loss and its gradient."""
    features, labels, images = train.features, train.labels, np.arange(len(train.labels))
    rest = (1 - train.confidence) / (num_classes - 1)
    more = train.confidence - rest
    # Of two classes scikit-learn has the difference of the weights alone, whose square is twice that of both halves.
    penalty = (2 if num_classes == 2 else 1) / (strength * len(labels))

    def cost(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        solution = flat.reshape(num_classes, -1)
        weight, bias = solution[:, :-1], solution[:, -1]
        logits = features @ weight.T.astype(np.float32) + bias
        normaliser = logsumexp(logits, axis=1)
        losses = normaliser - rest * logits.sum(axis=1) - more * logits[images, labels]
        residual = np.exp(logits - normaliser[:, None]) - rest[:, None]
        residual[images, labels] -= more
        residual /= len(labels)
        gradient = residual.T.astype(np.float32) @ features + penalty * weight
        total = float(losses.mean() + penalty / 2 * (weight**2).sum())
        return total, np.column_stack([gradient, residual.sum(axis=0)]).ravel()

    return cost
