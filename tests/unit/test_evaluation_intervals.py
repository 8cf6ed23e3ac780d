"""Intervals at the edge and away from it: against scipy, closed forms, and the truth in simulations."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, binomtest, t

from thaw.errors import DataError
from thaw.evaluation.intervals import (
    class_intervals,
    effective_number,
    even_interval,
    mean_interval,
    metric_intervals,
    paired_proportion,
    proportion,
    proportion_interval,
    shares_of,
    skewed_interval,
)
from thaw.evaluation.metrics import Table, class_metrics, classification_metrics


def answers(images: int, classes: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=images)
    raw = random.random((images, classes)) + np.eye(classes)[labels] * 0.6
    return labels, raw / raw.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("right", "images", "low"), [(36, 36, 0.903), (1, 1, 0.025), (2, 2, 0.158), (5, 5, 0.478)])
def test_all_right_is_no_certainty(right: int, images: int, low: float) -> None:
    found = proportion(np.arange(images) < right, np.arange(images))
    assert found == pytest.approx((low, 1.0), abs=5e-4)
    assert proportion(np.arange(images) >= right, np.arange(images)) == pytest.approx((0.0, 1 - low), abs=5e-4)


@pytest.mark.parametrize(("right", "images"), [(0, 3), (1, 7), (20, 39), (197, 200), (3, 500)])
def test_few_images_or_few_mistakes_have_the_interval_of_clopper_and_pearson(right: int, images: int) -> None:
    oracle = binomtest(right, images).proportion_ci(0.95, method="exact")
    assert proportion_interval(right, images) == pytest.approx((oracle.low, oracle.high), abs=1e-9)


def test_elsewhere_half_the_outcome_counts_to_each_tail() -> None:
    low, high = proportion_interval(170, 200)
    above, itself = binom.sf(170, 200, [low, high]), binom.pmf(170, 200, [low, high])
    assert (above + itself / 2).tolist() == pytest.approx([0.025, 0.975], abs=1e-9)


@pytest.mark.parametrize("images", [1, 2, 5, 36, 100])
def test_a_proportion_s_interval_holds_any_rate_in_93_of_100_samples(images: int) -> None:
    ends = np.array([proportion_interval(hits, images) for hits in range(images + 1)])
    for rate in [*np.linspace(0.5, 1, 51), 0.99, 0.995]:
        held = (ends[:, 0] <= rate + 1e-9) & (rate - 1e-9 <= ends[:, 1])
        assert binom.pmf(np.arange(images + 1), images, rate)[held].sum() >= 0.93, rate


def test_copies_count_as_one_image_and_images_alone_as_themselves() -> None:
    right = np.random.default_rng(0).random(60) < 0.8
    alone = np.arange(60)
    assert effective_number(right.astype(float), alone) == 60
    copies = effective_number(np.repeat(right, 5).astype(float), np.repeat(alone, 5))
    students = t.ppf(0.975, 299) / t.ppf(0.975, 59)
    assert copies == pytest.approx(59 * (300 / 299) * students**2)
    assert effective_number(np.ones(40), np.arange(40) // 4) == 10, "all agree: a group tells as much as one image"
    assert effective_number(np.array([1.0, 0.0]), np.zeros(2, np.int64)) == 1


def test_a_paired_interval_is_that_of_bonett_and_price_by_hand() -> None:
    right, reference = np.ones(100, bool), np.ones(100, bool)
    reference[:12] = False  # gained
    right[12:16] = False  # lost
    # 13 / 102 - 5 / 102 = 0.0784; its variance (18 / 102 - 0.0784 ** 2) / 102 = 0.0016698; 1.96 times 0.0408632.
    assert paired_proportion(right, reference, np.arange(100)) == pytest.approx((-0.001659, 0.158522), abs=1e-6)
    # No answer differs: 0 plus and minus 1.96 times the root of 2 / 102 ** 2.
    low, high = paired_proportion(right, right, np.arange(100))
    assert (low, high) == pytest.approx((-0.027174, 0.027174), abs=1e-6)


def test_gains_of_one_group_are_no_proof() -> None:
    reference = np.arange(200) >= 12
    right = np.ones(200, bool)
    assert paired_proportion(right, reference, np.arange(200))[0] > 0
    assert paired_proportion(right, reference, np.arange(200) // 12)[0] < 0


def test_the_interval_of_a_mean_adds_distances_as_variances() -> None:
    assert mean_interval([0.5, 0.9], [(0.2, 0.6), (0.5, 1.0)]) == pytest.approx((0.7 - 0.25, 0.7 + 0.5 * 0.02**0.5))


def test_the_shares_of_a_mean_are_the_distances_from_it() -> None:
    labels, chances = answers(30, 3, 1)
    table = Table.of(labels, chances)
    found = shares_of(table.calibration, np.arange(30), 1000, 0)["log_loss"]
    np.testing.assert_allclose(found, table.losses - table.losses.mean(), atol=1e-9)
    few = shares_of(table.calibration, np.arange(30), 10, 0)["log_loss"]
    assert few.shape == (10,)
    assert few.mean() == pytest.approx(0, abs=1e-9)


def test_without_skewness_the_interval_is_student_s_and_shares_that_agree_have_none() -> None:
    shares = np.tile([-1.0, 1.0], 10)
    reach = t.ppf(0.975, 19) * (20 / 19 / 20) ** 0.5
    assert skewed_interval(3.0, shares) == pytest.approx((3 - reach, 3 + reach))
    assert even_interval(3.0, shares) == skewed_interval(3.0, shares)
    assert skewed_interval(3.0, np.zeros(20)) is even_interval(3.0, np.zeros(20)) is None
    low, high = skewed_interval(0.1, np.r_[np.full(19, -0.1), 1.9]) or (0.0, 0.0)
    assert high - 0.1 > 3 * (0.1 - low) > 0, "one loud loss of many: the truth may be far above, not far below"


def test_where_nothing_is_wrong_the_losses_have_no_interval_and_the_accuracy_has_one() -> None:
    labels = np.arange(40) % 2
    chances = np.full((40, 2), 0.1)
    chances[np.arange(40), labels] = 0.9
    found = metric_intervals(labels, chances, groups=None, draws=100, seed=0)
    assert set(found) == {"accuracy", "balanced_accuracy"}
    assert found["accuracy"] == pytest.approx((0.912, 1.0), abs=5e-4)
    assert 0.85 < found["balanced_accuracy"][0] < 0.9


def test_a_class_of_one_image_has_a_wide_interval_and_the_means_over_classes_none() -> None:
    labels = np.r_[np.zeros(30, np.int64), 1]
    chances = np.tile([0.8, 0.2], (31, 1))
    chances[:4], chances[30] = [0.2, 0.8], [0.3, 0.7]
    recall = class_intervals(labels, chances, groups=None)[1]["recall"]
    assert recall == pytest.approx((0.025, 1.0), abs=1e-4)
    found = metric_intervals(labels, chances, groups=None, draws=100, seed=0)
    assert {"macro_f1", "roc_auc", "average_precision", "ece"}.isdisjoint(found)
    low, high = found["balanced_accuracy"]
    assert low < 0.5
    assert high > 0.93


def test_copies_within_groups_widen_every_interval_and_a_wrong_number_of_groups_is_refused() -> None:
    labels, chances = answers(60, 2, 2)
    labels, chances = np.repeat(labels, 10), np.repeat(chances, 10, axis=0)
    how: dict[str, Any] = {"draws": 700, "seed": 0}
    together = metric_intervals(labels, chances, groups=[f"cell {i // 10}" for i in range(600)], **how)
    alone = metric_intervals(labels, chances, groups=None, **how)
    assert set(together) == set(alone)
    for name, (low, high) in together.items():
        assert high - low > 2 * (alone[name][1] - alone[name][0]), name
    with pytest.raises(DataError, match="1 groups for 600 images"):
        metric_intervals(labels, chances, groups=["a"], **how)


def simulated(cells: int, size: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Labels, probabilities and groups: the images of a cell share its label and most of what makes them hard."""
    random = np.random.default_rng(seed)
    labels = np.repeat((random.random(cells) < 0.4).astype(np.int64), size)
    shared = np.repeat(random.normal(size=cells), size) if size > 1 else 0.0
    evidence = (2 * labels - 1) * 1.2 + shared + random.normal(size=cells * size) * (1 if size == 1 else 0.6)
    chance = 1 / (1 + np.exp(-1.5 * evidence))
    return labels, np.column_stack([1 - chance, chance]), np.repeat(np.arange(cells), size)


@pytest.mark.parametrize(("cells", "size"), [(150, 1), (150, 3)])
def test_intervals_contain_the_truth_in_93_of_100_runs(cells: int, size: int) -> None:
    names = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier", "roc_auc", "average_precision")
    labels, chances, _ = simulated(200_000, size, 10**6)
    truth, each = classification_metrics(labels, chances), class_metrics(labels, chances)[1]
    covered = dict.fromkeys((*names, "precision", "recall", "f1"), 0)
    for run in range(200):
        labels, chances, groups = simulated(cells, size, run)
        found = metric_intervals(labels, chances, groups=groups, draws=100, seed=run)
        found |= class_intervals(labels, chances, groups=groups)[1]
        for name in covered:
            covered[name] += found[name][0] <= (truth | each)[name] <= found[name][1]
    assert all(0.915 <= hits / 200 <= 0.985 for hits in covered.values()), covered  # 93 to 97 %, and the chance of 200
