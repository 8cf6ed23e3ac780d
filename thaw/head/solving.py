"""The solver of the linear head: the penalised log loss, summed in an order of its own, and L-BFGS to its optimum.

Examples are taken in blocks of a fixed size, each on one thread of BLAS, and what the blocks give is added in their
order. So the digits are the same however many threads there are (decision 0053). Features are not copied and targets
are not spread out over the classes: beside the features, memory holds the logits of a block for each thread and some
arrays of the size of the weights.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import OptimizeResult, minimize
from threadpoolctl import threadpool_limits

from thaw.errors import TrainingError
from thaw.head.examples import Features, FeatureSet
from thaw.progress import progress

Floats = NDArray[np.float64]
Found = TypeVar("Found")

BLOCK = 2048
"""Examples of a block; the last one may have fewer."""
TOLERANCE = 1e-4
"""Largest entry of the gradient at the end. Largest estimated distance of the loss from its optimum: in nats, or as a
fraction of a loss that is below 1."""
_ITERATIONS = 300  # as many iterations near the optimum are enough
# Bytes of centred features that are kept; more are centred anew for each sum, which makes it a twentieth slower.
_KEPT_BYTES = 2**26
_SHARED_PRODUCTS = 2**26  # of numbers in a block, from which threads share the blocks: a few milliseconds
# Features up to which their covariance and its Cholesky factor, one for each strength, cost less than they save: with
# few classes, and with many, of which sums over the examples cost more.
_MOST_FEATURES, _MOST_FEATURES_MANY = 2048, 4096
_FEATURES_A_CLASS = 4
_LEAST_VARIANCE = 1e-4  # of a direction, in the preconditioner: below it float32 sums say nothing
_LEAST_CURVATURE = 1e-3


@dataclass(frozen=True)
class Loss:
    """The mean log loss of all examples at a point, in nats, with its gradient."""

    value: float
    of_weight: Floats
    """[classes, features]"""
    of_bias: Floats
    """[classes]"""
    curvature: float
    """Mean of p (1 - p) over examples and classes: how curved the loss is along a class's logit."""


@dataclass(frozen=True)
class Point:
    """A head for features that are centred and of one scale."""

    weight: Floats
    """[classes, features]"""
    bias: Floats
    """[classes]"""
    curvature: float
    """As in `Loss`, there or near it."""

    @classmethod
    def zero(cls, num_classes: int, num_features: int) -> "Point":
        """Return the head that takes every class for as likely."""
        uniform = (1 - 1 / num_classes) / num_classes
        return cls(np.zeros((num_classes, num_features)), np.zeros(num_classes), uniform)


class LogLoss:
    """The mean log loss of examples, sure or not, as a function of a head on their features, centred and of one scale.

    An unsure label is a target of several classes, as in `soft_targets` without smoothing.
    """

    def __init__(self, train: FeatureSet, num_classes: int, among: NDArray[np.int64] | None = None) -> None:
        """Take all examples, or those at the positions `among`. Raises: TrainingError if a feature is not finite."""
        self._features, self._among = train.features, among
        self._labels = train.labels if among is None else train.labels[among]
        confidence = train.confidence if among is None else train.confidence[among]
        self._rest = (1 - confidence) / max(num_classes - 1, 1)
        self._more = confidence - self._rest
        self.num_examples, self.num_features, self.num_classes = len(confidence), train.features.shape[1], num_classes
        self._kept: list[Features] = []
        with self.threads() as in_order:
            sums = in_order(lambda block: self._part(block).sum(axis=0, dtype=np.float64), self._blocks)
            centre = sum(sums, np.zeros(self.num_features)) / self.num_examples
            if not np.isfinite(centre).all():
                raise TrainingError("the features of an image are not all finite numbers; take another backbone.source")
            self._centre: Features = centre.astype(np.float32)  # as the features are, from which it is taken
            squares = in_order(self._squares, self._blocks)
            self.scale = math.sqrt(sum(squares) / (self.num_examples * self.num_features)) or 1.0
        self.centre: Floats = self._centre.astype(np.float64)
        if 4 * self.num_examples * self.num_features <= _KEPT_BYTES:
            self._kept = [self._centred(block) for block in self._blocks]

    def threads(self) -> AbstractContextManager["_InOrder"]:
        """Return what works on the blocks, for `at` and `covariance`."""
        return _threads(BLOCK * self.num_features * self.num_classes)

    def at(self, weight: Floats, bias: Floats, in_order: "_InOrder") -> Loss:
        """Return the loss of a head: products within a block in float32, sums over blocks in float64."""
        rounded = (weight / self.scale).astype(np.float32), bias.astype(np.float32)
        value, certain = 0.0, 0.0
        of_weight, of_bias = np.zeros(weight.shape), np.zeros(bias.shape)
        for part in in_order(lambda block: self._of_block(block, *rounded), self._blocks):
            value, certain = value + part[0], certain + part[1]
            of_weight += part[2]
            of_bias += part[3]
        of_weight /= self.num_examples * self.scale
        curvature = max(1 - certain / self.num_examples, _LEAST_CURVATURE) / self.num_classes
        return Loss(value / self.num_examples, of_weight, of_bias / self.num_examples, curvature)

    def covariance(self, in_order: "_InOrder") -> Floats:
        """Return the covariance [features, features] of the centred features of one scale."""

        def product(block: slice) -> Features:
            part = self._centred(block)
            found: Features = part.T @ part
            return found

        total = np.zeros((self.num_features, self.num_features))
        for found in in_order(product, self._blocks):
            total += found
        total /= self.num_examples * self.scale**2
        return total

    @property
    def _blocks(self) -> list[slice]:
        return [slice(start, start + BLOCK) for start in range(0, self.num_examples, BLOCK)]

    def _centred(self, block: slice) -> Features:
        kept = self._kept
        centred: Features = kept[block.start // BLOCK] if kept else self._part(block) - self._centre
        return centred

    def _part(self, block: slice) -> Features:
        return self._features[block if self._among is None else self._among[block]]

    def _squares(self, block: slice) -> float:
        return float(np.square(self._centred(block), dtype=np.float64).sum())

    def _of_block(self, block: slice, weight: Features, bias: Features) -> tuple[float, float, Features, Floats]:
        """Return sums over a block: of losses, of squared probabilities, and of both gradients but for the scale."""
        features, labels = self._centred(block), self._labels[block]
        # The logits, then the probabilities, then what these differ from the targets by.
        values = _of_both(features @ ((weight[1] - weight[0]) / 2)).T if len(weight) == 2 else features @ weight.T
        images, rest, more = np.arange(len(labels)), self._rest[block], self._more[block]
        values += bias
        values -= values.max(axis=1, keepdims=True)
        meant = rest * values.sum(axis=1, dtype=np.float64) + more * values[images, labels]
        np.exp(values, out=values)
        totals = values.sum(axis=1, dtype=np.float64)
        values /= totals.astype(np.float32)[:, None]
        certain = float(np.dot(values.ravel(), values.ravel()))
        if rest.any():
            values -= rest.astype(np.float32)[:, None]
        values[images, labels] -= more.astype(np.float32)
        of_weight = _of_both(values[:, 1] @ features) if len(weight) == 2 else values.T @ features
        of_bias: Floats = values.sum(axis=0, dtype=np.float64)
        return float((np.log(totals) - meant).sum()), certain, of_weight, of_bias


def _of_both(second: Features) -> Features:
    """Return what two classes have, opposite numbers, from that of the second: one product in place of two."""
    return np.stack([-second, second])


class Solver:
    """Finds the heads of some examples at one strength of the regularisation after the other."""

    def __init__(self, train: FeatureSet, num_classes: int, among: NDArray[np.int64] | None = None) -> None:
        self.loss = LogLoss(train, num_classes, among)
        self._covariance: Floats | None = None

    def solve(self, strength: float, start: Point) -> Point:
        """Return the head with the lowest penalised loss, searched from `start`: scikit-learn's with C = strength.

        The search ends where no entry of the gradient is above `TOLERANCE`. Each of many classes has few of the
        examples, so that entries are small far from the optimum: with a preconditioner the loss must lie within
        `TOLERANCE` of it as well, by half the squared gradient in the preconditioner's coordinates (the Newton
        decrement, Boyd and Vandenberghe 2004, Convex Optimization, section 9.5.1).
        """
        loss = self.loss
        # Of two classes scikit-learn has the difference of weights alone, whose square is twice that of both halves.
        penalty = (2 if loss.num_classes == 2 else 1) / (strength * loss.num_examples)
        label = f"head: iterations at C {strength:g}, {loss.num_examples} examples"
        steps = progress(itertools.count(1), total=None, label=label)
        with loss.threads() as in_order:
            space = self._coordinates(start.curvature, penalty, in_order)
            last: dict[str, Any] = {}

            def cost(flat: Floats) -> tuple[float, Floats]:
                weight, bias = space.head_of(flat)
                found = loss.at(weight, bias, in_order)
                of_weight = found.of_weight + penalty * weight
                gradient = space.gradient(of_weight, found.of_bias)
                largest = max(np.abs(of_weight).max(), np.abs(found.of_bias).max())
                value = found.value + penalty / 2 * float(np.vdot(weight, weight))
                far = space.factor is not None and float(gradient @ gradient) / 2 > TOLERANCE * min(value, 1)
                last.update(settled=largest <= TOLERANCE and not far, curvature=found.curvature)
                return value, gradient

            def after_each_step(intermediate_result: OptimizeResult) -> None:  # noqa: ARG001, scipy asks for the name
                next(steps)
                if last["settled"]:
                    raise StopIteration

            options = {"maxiter": _ITERATIONS, "gtol": 0, "ftol": 64 * np.finfo(np.float64).eps, "maxls": 50}
            flat = minimize(
                cost, space.flat_of(start.weight, start.bias), jac=True, method="L-BFGS-B", options=options,
                callback=after_each_step,
            ).x  # fmt: skip
        steps.close()
        return Point(*space.head_of(flat), last["curvature"])

    def _coordinates(self, curvature: float, penalty: float, in_order: "_InOrder") -> "_Coordinates":
        """Return coordinates in which the penalised loss is about as curved in each direction, where that pays."""
        loss = self.loss
        most = min(_FEATURES_A_CLASS * loss.num_classes, _MOST_FEATURES_MANY)
        if loss.num_features > min(loss.num_examples, max(most, _MOST_FEATURES)):
            return _Coordinates(loss.num_classes, None, 1.0)
        if self._covariance is None:
            self._covariance = loss.covariance(in_order)
        hessian = curvature * self._covariance
        hessian[np.diag_indices_from(hessian)] += curvature * _LEAST_VARIANCE + penalty
        # It is symmetric, and its transpose is in the order that LAPACK works in.
        factor = cholesky(hessian.T, lower=True, overwrite_a=True, check_finite=False).astype(np.float32)
        return _Coordinates(loss.num_classes, factor, 1 / math.sqrt(curvature))


@dataclass(frozen=True)
class _Coordinates:
    """Coordinates of heads for the search: weights times the Cholesky factor of a class's own block of the Hessian."""

    num_classes: int
    factor: Features | None
    """Lower triangle [features, features], in float32 as sums over a block are; None: the weights themselves."""
    unit: float
    """The bias that is 1 in these coordinates."""

    def flat_of(self, weight: Floats, bias: Floats) -> Floats:
        """Return the coordinates of a head, flat."""
        inner = weight if self.factor is None else weight @ self.factor
        return np.column_stack([inner, bias / self.unit]).ravel()

    def head_of(self, flat: Floats) -> tuple[Floats, Floats]:
        """Return weight [classes, features] and bias [classes] of coordinates."""
        inner = flat.reshape(self.num_classes, -1)
        return self._solved(inner[:, :-1], "T"), inner[:, -1] * self.unit

    def gradient(self, of_weight: Floats, of_bias: Floats) -> Floats:
        """Return the gradient in these coordinates, flat."""
        return np.column_stack([self._solved(of_weight, "N"), of_bias * self.unit]).ravel()

    def _solved(self, rows: Floats, trans: str) -> Floats:
        if self.factor is None:
            return rows
        right = rows.T.astype(np.float32)
        solved = solve_triangular(self.factor, right, lower=True, trans=trans, overwrite_b=True, check_finite=False)
        return np.asarray(solved.T, np.float64)


_InOrder = Callable[[Callable[[slice], Any], list[slice]], Iterator[Any]]
"""From what is to be done with a block, and the blocks, to what each gives, in their order."""


@contextmanager
def _threads(num_products: int) -> Iterator[_InOrder]:
    """Yield a function that works on blocks, each on one thread of BLAS, with as many threads as torch has.

    With this one alone where a block takes few products of numbers: another takes as long to wake up.
    """
    num_threads = torch.get_num_threads() if num_products >= _SHARED_PRODUCTS else 1
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(num_threads) as pool:

        def in_order(work: Callable[[slice], Found], blocks: list[slice]) -> Iterator[Found]:
            if num_threads == 1:
                yield from map(work, blocks)
                return
            ahead: deque[Future[Found]] = deque()  # no more, since each result is as large as the weights
            for block in blocks:
                ahead.append(pool.submit(work, block))
                if len(ahead) > num_threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

        yield in_order
