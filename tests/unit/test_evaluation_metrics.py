"""Metrics against scikit-learn and closed forms, and what a bootstrap draws."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn import metrics as oracle

from thaw.errors import DataError
from thaw.evaluation.bootstrap import bootstrap_weights, interval_of, unit_of
from thaw.evaluation.metrics import ECE_BINS, calibration_metrics, classification_metrics


def answers(images: int, classes: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=images)
    raw = random.random((images, classes)) + np.eye(classes)[labels] * 0.6
    return labels, raw / raw.sum(axis=1, keepdims=True)


def test_a_perfect_classifier_scores_one_everywhere() -> None:
    labels = np.array([0, 1, 2, 1])
    found = classification_metrics(labels, np.eye(3)[labels])
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "average_precision"):
        assert found[name] == 1
    assert found["ece"] == 0
    assert found["log_loss"] == pytest.approx(0, abs=1e-12)


def test_binary_scores_are_those_of_the_second_class() -> None:
    labels, probabilities = answers(50, 2, 3)
    found = classification_metrics(labels, probabilities)
    assert found["roc_auc"] == pytest.approx(oracle.roc_auc_score(labels, probabilities[:, 1]), abs=1e-12)
    expected = oracle.average_precision_score(labels, probabilities[:, 1])
    assert found["average_precision"] == pytest.approx(expected, abs=1e-12)


def test_a_constant_answer_has_half_the_area_and_the_base_rate_as_precision() -> None:
    labels = np.array([0, 0, 0, 1])
    found = classification_metrics(labels, np.full((4, 2), 0.5))
    assert found["roc_auc"] == 0.5
    assert found["average_precision"] == 0.25
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == 0.5


def test_a_class_absent_from_the_labels_leaves_the_means_to_the_others() -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]])
    found = classification_metrics(labels, probabilities)
    assert found["balanced_accuracy"] == pytest.approx(0.75)
    assert found["macro_f1"] == pytest.approx(oracle.f1_score(labels, probabilities.argmax(axis=1), average="macro"))
    areas = [oracle.roc_auc_score(labels == c, probabilities[:, c]) for c in (0, 1)]
    assert found["roc_auc"] == pytest.approx(np.mean(areas))


def test_what_a_single_class_leaves_undefined_is_absent_and_nothing_is_nan() -> None:
    labels = np.ones(5, dtype=np.int64)
    probabilities = np.tile([0.3, 0.7], (5, 1))
    found = classification_metrics(labels, probabilities)
    assert "roc_auc" not in found
    assert all(np.isfinite(value) for value in found.values())


def test_calibration_error_follows_its_formula() -> None:
    labels, probabilities = answers(400, 3, 5)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for low, high in pairwise(np.linspace(0, 1, ECE_BINS + 1)):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert classification_metrics(labels, probabilities)["ece"] == pytest.approx(expected, abs=1e-12)


def test_a_certain_mistake_has_a_finite_loss() -> None:
    found = classification_metrics(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert found["log_loss"] == pytest.approx(oracle.log_loss([0, 1], [[0.0, 1.0], [0.0, 1.0]]), abs=1e-9)


@pytest.mark.parametrize(
    ("labels", "probabilities", "words"),
    [
        ([], np.zeros((0, 2)), "no images"),
        ([2], [[0.5, 0.5]], "from 0 to 1"),
        ([-1], [[0.5, 0.5]], "from 0 to 1"),
        ([0], [[np.nan, 0.5]], "diverged"),
        ([0], [[0.5, 0.4]], "sum to 1"),
        ([0], [[1.5, -0.5]], "at least 0"),
        ([0], [[1.0]], "at least 2"),
        ([0, 1], [[0.5, 0.5]], "must be"),
    ],
)
def test_what_is_no_probability_is_refused_with_a_reason(labels: list[int], probabilities: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        classification_metrics(np.array(labels, dtype=np.int64), np.array(probabilities, dtype=np.float64))


def test_images_without_a_group_are_drawn_alone() -> None:
    assert unit_of(["a", "", "a", float("nan"), None, 7, 7.0], 7).tolist() == [0, 1, 0, 2, 3, 4, 4]
    with pytest.raises(DataError, match="1 groups for 2 images"):
        unit_of(["a"], 2)


def test_every_draw_takes_as_many_units_as_there_are() -> None:
    units = np.array([0, 0, 1, 2])
    weights = np.concatenate(list(bootstrap_weights(units, 50, 0)), axis=1)
    assert weights.shape == (4, 50)
    np.testing.assert_array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(weights[1:].sum(axis=0), np.full(50, 3))


def test_few_units_push_the_percentiles_outwards() -> None:
    means = np.linspace(-1, 1, 100_001)
    # Student's t with 9 degrees of freedom has 2.262 where the normal distribution has 1.960 (any table).
    for units, quantile in ((10, 2.2622 * (10 / 9) ** 0.5), (10**6, 1.96)):
        low, high = interval_of(means, units) or (0.0, 0.0)
        assert (high + 1) / 2 == pytest.approx(norm.cdf(quantile), abs=1e-4)
        assert low == pytest.approx(-high)
    assert interval_of(np.array([np.nan]), 5) is None
    assert interval_of(np.full(3, 0.5), 3) is None, "draws that all agree tell nothing"


def test_the_interval_of_a_mean_is_that_of_the_normal_theory_on_many_images() -> None:
    values = np.random.default_rng(1).normal(0.1, 1.0, size=2000)
    means = np.concatenate([values @ block / 2000 for block in bootstrap_weights(np.arange(2000), 2000, 0)])
    half = 1.96 * values.std() / np.sqrt(2000)
    assert interval_of(means, 2000) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_metrics_of_calibration_alone_are_the_same(classes: int) -> None:
    labels, probabilities = answers(40, classes, 5)
    every = classification_metrics(labels, probabilities)
    assert calibration_metrics(labels, probabilities) == {name: every[name] for name in ("log_loss", "brier", "ece")}
