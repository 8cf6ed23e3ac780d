"""The solver of the linear head: the same digits on any number of threads, its optimum, its memory, its progress."""

import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from tests.unit.test_head import blobs
from thaw import progress
from thaw.errors import TrainingError
from thaw.head import linear, solving
from thaw.head.examples import FeatureSet, cross_entropy, soft_targets
from thaw.head.linear import fit_linear
from thaw.head.solving import BLOCK, TOLERANCE, LogLoss, Point, Solver


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def some_unsure(train: FeatureSet) -> FeatureSet:
    return replace(train, confidence=np.linspace(0.4, 1.0, len(train.labels)))


def loss_at(loss: LogLoss, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> solving.Loss:
    with loss.threads() as in_order:
        return loss.at(weight, bias, in_order)


@pytest.mark.parametrize("sure", [True, False])
@pytest.mark.parametrize(("num_classes", "num_features"), [(2, 300), (40, 50)])  # without a preconditioner and with one
def test_the_fit_is_the_same_to_the_last_digit_on_one_thread_two_and_four(
    num_classes: int, num_features: int, sure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solving, "_SHARED_PRODUCTS", 0)
    train = blobs(5 * BLOCK + 77, num_classes, spread=4, num_features=num_features)
    train = train if sure else some_unsure(train)
    fits = []
    for number in (1, 2, 4):
        with threads(number):
            fits.append(fit_linear(train, num_classes, strengths=(0.001, 0.01)))
    for other in fits[1:]:
        np.testing.assert_array_equal(fits[0].weight, other.weight)
        np.testing.assert_array_equal(fits[0].bias, other.bias)
        assert fits[0].strength == other.strength


def test_as_many_blocks_are_worked_on_at_once_as_there_are_threads() -> None:
    barrier = threading.Barrier(3, timeout=20)
    with threads(3), solving._threads(solving._SHARED_PRODUCTS) as in_order:
        list(in_order(lambda _: barrier.wait(), [slice(start, start + 10) for start in range(0, 60, 10)]))


@pytest.mark.parametrize("num_classes", [2, 7])
def test_the_loss_is_torchs_and_its_gradient_is_torchs_own(num_classes: int) -> None:
    train = some_unsure(blobs(BLOCK + 50, num_classes, spread=2))
    loss = LogLoss(train, num_classes)
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(num_classes, 6)), random.normal(size=num_classes)
    scaled = (train.features.astype(np.float64) - loss.centre) / loss.scale
    assert (scaled**2).mean() == pytest.approx(1)
    head = [torch.from_numpy(value).requires_grad_() for value in (weight, bias)]
    logits = torch.from_numpy(scaled) @ head[0].T + head[1]
    expected = torch.nn.functional.cross_entropy(
        logits, soft_targets(train.labels, train.confidence, num_classes).double()
    )
    expected.backward()  # type: ignore[no-untyped-call]
    found = loss_at(loss, weight, bias)
    assert found.value == pytest.approx(float(expected.detach()), rel=1e-6)
    for ours, theirs in zip((found.of_weight, found.of_bias), head, strict=True):
        assert theirs.grad is not None
        np.testing.assert_allclose(ours, theirs.grad.numpy(), atol=1e-6)
    probabilities = torch.softmax(logits, dim=1).detach()
    assert found.curvature == pytest.approx(float((probabilities * (1 - probabilities)).mean()), rel=1e-4)


def many_classes() -> FeatureSet:
    """Return 60 classes that overlap, in 64 features of which a few vary most, as those of networks do."""
    train = blobs(2400, 60, spread=1.5, num_features=64)
    return replace(train, features=(train.features - 10) * np.arange(1, 65, dtype=np.float32) ** -1.2)


@pytest.mark.parametrize("strength", [0.001, 0.1, 1.0])
def test_of_many_classes_the_loss_ends_as_near_to_its_optimum_as_is_said(strength: float) -> None:
    train = many_classes()
    solver = Solver(train, 60)
    loss = solver.loss

    def penalised(weight: NDArray[np.float64], bias: NDArray[np.float64]) -> float:
        squares = float((weight**2).sum())
        return loss_at(loss, weight, bias).value + squares / (2 * strength * len(train.labels))

    ours = solver.solve(strength, Point.zero(60, 64))
    scaled = (train.features.astype(np.float64) - loss.centre) / loss.scale
    exact = LogisticRegression(C=strength, tol=1e-9, max_iter=20_000).fit(scaled, train.labels)
    gap = penalised(ours.weight, ours.bias) - penalised(exact.coef_, exact.intercept_)
    assert -1e-6 < gap < 3 * TOLERANCE


def test_a_preconditioner_saves_most_sums_over_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    train, sums = many_classes(), list[int]()
    at = LogLoss.at

    def counted(self: LogLoss, *given: Any) -> solving.Loss:
        sums[-1] += 1
        return at(self, *given)

    monkeypatch.setattr(LogLoss, "at", counted)
    losses = []
    for most in (solving._MOST_FEATURES, 0):
        monkeypatch.setattr(solving, "_MOST_FEATURES", most)
        monkeypatch.setattr(solving, "_MOST_FEATURES_MANY", most)
        sums.append(0)
        losses.append(cross_entropy(fit_linear(train, 60, strengths=(1.0,)).logits(train.features), train.labels))
    assert sums[0] < sums[1] / 2
    assert losses[0] < losses[1] + TOLERANCE


def test_all_examples_are_solved_at_the_chosen_strength_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    train = blobs(6000, 3, spread=4, num_features=20)
    solved = list[tuple[int, float]]()
    solve = Solver.solve

    def noted(self: Solver, strength: float, start: Point) -> Point:
        solved.append((self.loss.num_examples, strength))
        return solve(self, strength, start)

    monkeypatch.setattr(Solver, "solve", noted)
    fit = fit_linear(train, 3)
    assert solved[-1] == (6000, fit.strength)
    assert {count for count, _ in solved[:-1]} == {4000}, "four parts of five of the 5,000 that choose"


@pytest.mark.parametrize("sure", [True, False])
def test_memory_holds_neither_the_features_again_nor_targets_of_every_class(
    sure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solving, "_KEPT_BYTES", 0)
    monkeypatch.setattr(solving, "BLOCK", 256)
    train = blobs(40_000, 50, num_features=60)
    train = train if sure else some_unsure(train)
    monkeypatch.setattr(linear, "subsample", lambda labels, *_, **__: np.arange(0, len(labels), 100))
    with threads(1):
        tracemalloc.start()
        fit_linear(train, 50, strengths=(0.1,))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    examples = 8 * 4 * len(train.labels)  # labels, confidences and what follows from these
    heads = 40 * 8 * 50 * 61  # L-BFGS keeps ten pairs of points and gradients
    blocks = 8 * 4 * 256 * (50 + 2 * 60)
    assert peak < examples + heads + blocks < train.features.nbytes / 2 + heads


def test_features_that_are_centred_once_and_for_each_sum_give_the_same_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    train = blobs(BLOCK + 9, 4)
    kept = fit_linear(train, 4, strengths=(0.1,))
    monkeypatch.setattr(solving, "_KEPT_BYTES", 0)
    np.testing.assert_array_equal(fit_linear(train, 4, strengths=(0.1,)).weight, kept.weight)


@pytest.mark.parametrize("kept_bytes", [0, 2**26])
def test_a_fit_to_some_examples_is_bit_for_bit_that_to_a_copy_of_them(
    kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solving, "_KEPT_BYTES", kept_bytes)
    monkeypatch.setattr(linear, "subsample", lambda labels, *_, **__: np.arange(min(len(labels), 150)))
    train = some_unsure(blobs(500, 4, spread=3))
    for among in (np.arange(50, 350), np.arange(100, 200)):  # more than decide, and fewer
        here, copied = fit_linear(train, 4, among=among), fit_linear(train[among], 4)
        assert here.strength == copied.strength
        np.testing.assert_array_equal(here.weight, copied.weight)
        np.testing.assert_array_equal(here.bias, copied.bias)


def test_features_are_left_as_they_are() -> None:
    train = blobs(90, 3)
    before = train.features.copy()
    fit_linear(train, 3)
    np.testing.assert_array_equal(train.features, before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_feature_that_is_not_finite_is_an_error(value: float) -> None:
    train = blobs(40, 2)
    train.features[7, 3] = value
    with pytest.raises(TrainingError, match="features of an image are not all finite numbers; take another"):
        fit_linear(train, 2)


def test_progress_is_told_by_iterations(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_LINE_INTERVAL_S", 0.0)
    fit_linear(blobs(300, 3, spread=4), 3, strengths=(0.03,))
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert lines[0].startswith("head: iterations at C 0.03, 300 examples: 1 (")
