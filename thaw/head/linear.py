"""The linear head, solved exactly: multinomial logistic regression, its regularisation chosen on validation."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import nn

from thaw.head.examples import Features, FeatureSet, Labels, check_every_class, cross_entropy
from thaw.pipeline import timings

# Inverse regularisation strengths tried from strong to weak, each fit starting from the one before; on features of
# unit variance the best lay between 0.01 and 0.1 for every data set that we looked at.
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_PATIENCE = 2
_SLICE = 1024


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear head and what the choice of its regularisation rests on."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    strength: float
    val_loss: float

    @property
    def largest_weight(self) -> float:
        """Largest magnitude of a weight; a head that a phase starts from must not have huge ones."""
        return float(np.abs(self.weight).max())


@timings.counted("train")
def fit_linear(
    train: FeatureSet,
    val: FeatureSet,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
    *,
    overwrite: bool = False,
) -> LinearFit:
    """Return the multinomial logistic regression whose regularisation has the lowest validation loss.

    Solved by L-BFGS on features centred and scaled by one common factor, which is then folded into the layer: a
    factor of its own for each feature fits slightly better and ruins the start of a phase (decision 0006). On one
    thread: it is faster, and what is chosen does not depend on how many there are (docs/log.md).

    With `overwrite` the scaled features take the place of those in `train`, which memory need not hold twice then.
    """
    centre = train.features.mean(axis=0, dtype=np.float64)
    scale = _spread(train.features, centre) or 1.0
    features, labels, weights = _soften(train, num_classes)
    check_every_class(labels, num_classes)
    solver = LogisticRegression(warm_start=True, max_iter=300, tol=1e-4)
    scaled = _scaled(features, centre, scale, overwrite=overwrite or features is not train.features)
    scaled_val = _scaled(val.features, centre, scale)
    best: LinearFit | None = None
    worse = 0
    for strength in strengths:
        solver.C = strength
        with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
            warnings.simplefilter("ignore", ConvergenceWarning)  # 300 iterations near the optimum are enough
            solver.fit(scaled, labels, sample_weight=weights)
        weight, bias = _all_classes(solver, num_classes)
        loss = cross_entropy(_logits(scaled_val, weight, bias), val.labels)
        if best is None or loss < best.val_loss:
            best, worse = LinearFit(weight / scale, bias - weight @ centre / scale, strength, loss), 0
        else:
            worse += 1
        if worse == _PATIENCE:
            break
    assert best is not None
    return best


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


def _logits(features: Features, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return logits [examples, classes] in float64, which the features become a slice at a time."""
    slices = np.split(features, range(_SLICE, len(features), _SLICE))
    return np.concatenate([part @ weight.T for part in slices]) + bias


def _spread(features: Features, centre: NDArray[np.float64]) -> float:
    """Return the deviation of all features from their centres, a slice of them in memory at a time."""
    slices = (features[start : start + _SLICE] - centre for start in range(0, len(features), _SLICE))
    return float(np.sqrt(sum(float((values**2).sum()) for values in slices) / features.size))


def _soften(train: FeatureSet, num_classes: int) -> tuple[Features, Labels, NDArray[np.float64]]:
    """Return examples with weights that stand for soft targets: an unsure label also counts for the other classes."""
    unsure = np.flatnonzero(train.confidence < 1)
    if not len(unsure):
        return train.features, train.labels, train.confidence
    features, labels, weights = [train.features], [train.labels], [train.confidence]
    for other in range(1, num_classes):
        features.append(train.features[unsure])
        labels.append((train.labels[unsure] + other) % num_classes)
        weights.append((1 - train.confidence[unsure]) / (num_classes - 1))
    return np.concatenate(features), np.concatenate(labels), np.concatenate(weights)


def _all_classes(solver: LogisticRegression, num_classes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weight [classes, features] and bias [classes] of a fit, with one row a class also for two classes."""
    weight, bias = np.asarray(solver.coef_, np.float64), np.asarray(solver.intercept_, np.float64)
    if num_classes == 2:
        return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias
