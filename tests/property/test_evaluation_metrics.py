"""Properties of metrics and comparisons on arbitrary answers."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as oracle

from thaw.evaluation.bootstrap import bootstrap_weights
from thaw.evaluation.calibration import fit_temperature, probabilities, sample_losses, uncalibrated
from thaw.evaluation.comparison import Candidate, choose
from thaw.evaluation.intervals import class_intervals
from thaw.evaluation.metrics import TOP_K, Table, class_metrics, classification_metrics

NAMES = ("precision", "recall", "f1", "support")


@st.composite
def answers(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels and probabilities with many ties, and at times with classes that do not occur."""
    classes = draw(st.integers(2, 5) | st.sampled_from([6, 7, 20]))
    images = draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    raw = random.integers(1, draw(st.integers(2, 9)), size=(images, classes)).astype(np.float64)
    return random.integers(classes, size=images), raw / raw.sum(axis=1, keepdims=True)


@settings(max_examples=60, deadline=None)
@given(answers())
def test_every_metric_agrees_with_scikit_learn(case: tuple[NDArray[np.int64], NDArray[np.float64]]) -> None:
    labels, probabilities = case
    found = classification_metrics(labels, probabilities)
    num_classes, predicted = probabilities.shape[1], probabilities.argmax(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of predicted classes that the labels lack
        expected = {
            "accuracy": oracle.accuracy_score(labels, predicted),
            "balanced_accuracy": oracle.balanced_accuracy_score(labels, predicted),
            "macro_f1": oracle.f1_score(labels, predicted, average="macro"),
            "log_loss": oracle.log_loss(labels, probabilities, labels=range(num_classes)),
            "brier": oracle.brier_score_loss(labels, probabilities, labels=range(num_classes)),
        }
        for k in (k for k, fewest in TOP_K.items() if num_classes >= fewest):
            expected[f"top_{k}_accuracy"] = oracle.top_k_accuracy_score(
                labels, probabilities, k=k, labels=range(num_classes)
            )
    scored = [1] if num_classes == 2 else range(num_classes)
    mixed = [c for c in scored if 0 < (labels == c).sum() < len(labels)]
    occurring = [c for c in scored if (labels == c).any()]
    if mixed:
        expected["roc_auc"] = np.mean([oracle.roc_auc_score(labels == c, probabilities[:, c]) for c in mixed])
    if occurring:
        precisions = [oracle.average_precision_score(labels == c, probabilities[:, c]) for c in occurring]
        expected["average_precision"] = np.mean(precisions)
    assert set(found) == {*expected, "ece"}
    for name, value in expected.items():
        assert abs(found[name] - value) < 1e-9, name
    assert 0 <= found["ece"] <= 1


@settings(max_examples=60, deadline=None)
@given(answers())
def test_the_metrics_of_each_class_agree_with_scikit_learn(case: tuple[NDArray[np.int64], NDArray[np.float64]]) -> None:
    labels, probabilities = case
    num_classes = probabilities.shape[1]
    expected = oracle.precision_recall_fscore_support(
        labels, probabilities.argmax(axis=1), labels=range(num_classes), zero_division=np.nan
    )
    found = class_metrics(labels, probabilities)
    for index in range(num_classes):
        values = {name: column[index] for name, column in zip(NAMES, expected, strict=True)}
        assert found[index] == pytest.approx({name: v for name, v in values.items() if np.isfinite(v)}, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(answers(), st.integers(0, 1000))
def test_a_weighted_draw_equals_the_metrics_of_the_repeated_images(
    case: tuple[NDArray[np.int64], NDArray[np.float64]], seed: int
) -> None:
    labels, probabilities = case
    weights = next(bootstrap_weights(np.arange(len(labels)), 3, seed))
    weighted = Table.of(labels, probabilities).metrics(weights)
    for draw in range(3):
        repeated = np.repeat(np.arange(len(labels)), weights[:, draw].astype(np.int64))
        plain = classification_metrics(labels[repeated], probabilities[repeated])
        for name, values in weighted.items():
            if name in plain:
                assert abs(values[draw] - plain[name]) < 1e-9, name
            else:
                assert not np.isfinite(values[draw]), name


@settings(max_examples=30, deadline=None)
@given(answers(), st.floats(0.5, 0.99))
def test_a_copy_of_the_head_never_takes_over(
    case: tuple[NDArray[np.int64], NDArray[np.float64]], min_win_rate: float
) -> None:
    labels, probabilities = case
    logits = np.log(probabilities)
    phases = [Candidate("head", None, logits), Candidate("top", "head", logits.copy())]
    head, top = choose(phases, labels, min_win_rate=min_win_rate, draws=100, seed=0)
    assert head.replaced_best
    assert not top.replaced_best
    assert top.against_best is not None
    assert top.against_best.difference == 0


@settings(max_examples=100, deadline=None)
@given(answers(), st.floats(0.01, 100.0))
def test_a_fitted_temperature_never_raises_the_loss_that_it_was_fitted_on(
    case: tuple[NDArray[np.int64], NDArray[np.float64]], loudness: float
) -> None:
    labels, chances = case
    logits = np.log(chances) * loudness
    fitted = sample_losses(logits, labels, fit_temperature(logits, labels)).sum()
    assert fitted <= sample_losses(logits, labels).sum()


@settings(max_examples=30, deadline=None)
@given(answers(), st.floats(0.05, 20.0))
def test_a_temperature_can_be_taken_back(
    case: tuple[NDArray[np.int64], NDArray[np.float64]], temperature: float
) -> None:
    logits = np.log(case[1])
    back = uncalibrated(probabilities(logits, temperature), temperature)
    np.testing.assert_allclose(back, probabilities(logits), rtol=1e-9)


@settings(max_examples=50, deadline=None)
@given(answers())
def test_the_interval_of_a_class_s_figure_holds_it_and_has_a_width(
    case: tuple[NDArray[np.int64], NDArray[np.float64]],
) -> None:
    labels, chances = case
    for figures, intervals in zip(
        class_metrics(labels, chances), class_intervals(labels, chances, groups=None), strict=True
    ):
        assert set(intervals) == set(figures) - {"support"}
        for name, (low, high) in intervals.items():
            assert 0 <= low <= figures[name] <= high <= 1
            assert high - low > 1e-4
