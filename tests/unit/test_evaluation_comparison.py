"""When a deeper phase may replace a shallower one."""

import math
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from thaw.config.schema import SelectParams
from thaw.errors import DataError
from thaw.evaluation.calibration import fit_temperature, probabilities, sample_losses
from thaw.evaluation.comparison import (
    COSTS,
    Candidate,
    Result,
    choose,
    cross_fitted,
    mcnemar_p,
    parts_of,
)
from thaw.evaluation.selection import chosen_result, reason
from thaw.pipeline.report_facts import Comparison


def labels_of(images: int, classes: int = 2) -> NDArray[np.int64]:
    return np.arange(images, dtype=np.int64) % classes


def logits_of(labels: NDArray[np.int64], accuracy: float, *, seed: int = 0, scale: float = 2.0) -> NDArray[np.float64]:
    """Return answers of about this accuracy; `scale` is how loudly they are given, right or wrong."""
    random = np.random.default_rng(seed)
    wrong = np.zeros(len(labels), dtype=np.bool_)
    wrong[random.permutation(len(labels))[: round(len(labels) * (1 - accuracy))]] = True
    said = np.where(wrong, (labels + 1) % 2, labels)
    return np.eye(2)[said] * scale * random.uniform(0.5, 1.5, size=(len(labels), 1))


def decide(labels: NDArray[np.int64], *candidates: Candidate, min_win_rate: float = 0.8, **more: Any) -> list[Result]:
    return choose(candidates, labels, min_win_rate=min_win_rate, draws=500, seed=0, **more)


def ends(duel: Comparison) -> tuple[float, float]:
    assert duel.low is not None
    assert duel.high is not None
    return duel.low, duel.high


def test_where_all_draws_agree_there_is_no_interval() -> None:
    labels = labels_of(60)
    head = logits_of(labels, 0.8)
    twin = decide(labels, Candidate("head", None, head), Candidate("top", "head", head.copy()))[1].against_head
    assert twin is not None
    assert (twin.difference, twin.low, twin.high, twin.win_rate) == (0, None, None, 0)


@pytest.mark.parametrize("metric", COSTS)
@pytest.mark.parametrize("folds", [None, np.arange(60) % 3])
def test_equal_is_not_better_by_any_metric_at_the_lowest_confidence(
    metric: str, folds: NDArray[np.int64] | None
) -> None:
    labels = labels_of(60)
    head = logits_of(labels, 0.8)
    candidates = [Candidate("head", None, head)] + [Candidate(name, "head", head.copy()) for name in ("top", "mid")]
    results = decide(labels, *candidates, metric=metric, folds=folds, min_win_rate=0.5)
    assert [result.replaced_best for result in results] == [True, False, False]
    assert chosen_result(results).name == "head"


def test_a_clearly_better_phase_wins() -> None:
    labels = labels_of(200)
    results = decide(
        labels,
        Candidate("head", None, logits_of(labels, 0.8)),
        Candidate("top", "head", logits_of(labels, 0.95, seed=1)),
    )
    assert chosen_result(results).name == "top"
    duel = results[1].against_best
    assert duel is not None
    low, high = ends(duel)
    assert low < duel.difference < high < 0
    assert duel.win_rate == 1
    assert duel.mcnemar_p < 0.01


def test_a_worse_phase_never_wins_even_at_the_lowest_confidence() -> None:
    labels = labels_of(200)
    head, worse = logits_of(labels, 0.95), logits_of(labels, 0.85, seed=1)
    results = decide(labels, Candidate("head", None, head), Candidate("top", "head", worse), min_win_rate=0.5)
    assert chosen_result(results).name == "head"


def test_an_overconfident_phase_with_the_better_accuracy_wins_although_its_raw_loss_is_larger() -> None:
    labels = labels_of(300)
    head, loud = logits_of(labels, 0.88), logits_of(labels, 0.98, seed=1, scale=60.0)
    results = decide(labels, Candidate("head", None, head), Candidate("top", "head", loud))
    assert results[1].log_loss > 2 * results[0].log_loss
    assert results[1].temperature > 5
    assert chosen_result(results).name == "top"


def test_being_louder_or_softer_by_a_factor_is_not_being_better() -> None:
    labels = labels_of(300)
    head = logits_of(labels, 0.9, scale=8.0)
    for factor in (0.3, 3.0):
        results = decide(
            labels, Candidate("head", None, head), Candidate("top", "head", head * factor), min_win_rate=0.95
        )
        assert abs(results[1].calibrated_log_loss - results[0].calibrated_log_loss) < 2e-3


def test_a_phase_after_a_rejected_one_can_still_win() -> None:
    labels = labels_of(200)
    results = decide(
        labels,
        Candidate("head", None, logits_of(labels, 0.85)),
        Candidate("top", "head", logits_of(labels, 0.75, seed=1)),
        Candidate("mid", "top", logits_of(labels, 0.97, seed=2)),
    )
    assert [result.replaced_best for result in results] == [True, False, True]
    against_best, against_start = results[2].against_best, results[2].against_start
    assert against_best is not None
    assert against_start is not None
    assert (against_best.reference, against_start.reference) == ("head", "top")


def test_one_more_right_answer_among_ten_is_not_enough_at_a_high_confidence() -> None:
    labels = labels_of(10)
    head = np.eye(2)[labels] * 2
    head[0] = head[0, ::-1]
    better = np.eye(2)[labels] * 2
    better[1] = better[1, ::-1] * 0.5
    results = decide(labels, Candidate("head", None, head), Candidate("top", "head", better), min_win_rate=0.95)
    assert chosen_result(results).name == "head"


@pytest.mark.parametrize("images", [1, 2, 3])
def test_a_handful_of_images_gives_a_finite_result(images: int) -> None:
    labels = labels_of(images)
    head, top = logits_of(labels, 1.0), logits_of(labels, 1.0, seed=1)
    for result in decide(labels, Candidate("head", None, head), Candidate("top", "head", top)):
        assert np.isfinite(result.calibrated_log_loss)
        assert 0.05 <= result.temperature <= 20


def test_copies_within_groups_count_as_one_piece_of_evidence() -> None:
    labels = np.repeat(labels_of(12), 30)
    head, top = (np.repeat(logits_of(labels[::30], accuracy, seed=3), 30, axis=0) for accuracy in (0.75, 0.85))
    phases = [Candidate("head", None, head), Candidate("top", "head", top)]
    groups = [f"video {i // 30}" for i in range(len(labels))]
    folds = np.arange(len(labels)) // 30 % 3
    alone, together = (
        choose(phases, labels, min_win_rate=0.8, draws=500, seed=0, folds=folds, groups=given)[1].against_best
        for given in (None, groups)
    )
    assert alone is not None
    assert together is not None
    assert together.difference == alone.difference
    assert np.ptp(ends(together)) > 3 * np.ptp(ends(alone))


def test_noise_rarely_takes_over() -> None:
    labels, taken = labels_of(150), 0
    for seed in range(40):
        head, twin = logits_of(labels, 0.85, seed=2 * seed), logits_of(labels, 0.85, seed=2 * seed + 1)
        taken += decide(labels, Candidate("head", None, head), Candidate("top", "head", twin))[1].replaced_best
    assert taken <= 16  # 20 % of 40 are 8, standard deviation 2.5; always or never taking over would be a defect


def test_answers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="diverged"):
        decide(labels_of(2), Candidate("head", None, np.array([[0.0, np.nan], [0.0, 1.0]])))


def test_no_validation_images_are_refused() -> None:
    with pytest.raises(DataError, match="no images"):
        decide(labels_of(0), Candidate("head", None, np.zeros((0, 2))))


def test_mcnemar_is_twice_the_smaller_tail_of_fair_coins() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        one, other = random.random(60) < 0.8, random.random(60) < 0.7
        gained, lost = int((one & ~other).sum()), int((~one & other).sum())
        tail = sum(math.comb(gained + lost, k) for k in range(min(gained, lost) + 1)) / 2 ** (gained + lost)
        assert mcnemar_p(one, other) == pytest.approx(min(1, 2 * tail), abs=1e-12)
    assert mcnemar_p(np.ones(4, dtype=np.bool_), np.ones(4, dtype=np.bool_)) == 1


def test_the_fitted_temperature_undoes_a_known_one() -> None:
    random = np.random.default_rng(2)
    logits = random.normal(size=(4000, 3)) * 2
    chances = probabilities(logits)
    labels = (random.random((4000, 1)) > chances.cumsum(axis=1)).sum(axis=1).clip(max=2)
    assert fit_temperature(logits * 4, labels) == pytest.approx(4, rel=0.1)
    fitted = fit_temperature(logits * 4, labels)
    around = [sample_losses(logits * 4, labels, fitted * factor).mean() for factor in (0.97, 1.0, 1.03)]
    assert around[1] < min(around[0], around[2])


@pytest.mark.parametrize(("images", "margin"), [(15, 0.0355), (24, 0.0245), (27, 0.0149)])
def test_a_cost_of_two_valleys_never_gives_a_loss_above_that_at_one(images: int, margin: float) -> None:
    logits, labels = np.tile([margin, 0.0], (images, 1)), np.zeros(images, dtype=np.int64)
    temperatures = np.exp(np.linspace(np.log(0.05), np.log(20), 400))
    losses = np.array([sample_losses(logits, labels, t).sum() for t in temperatures])
    costs = losses + np.log(temperatures) ** 2 / 2
    assert (np.diff(np.sign(np.diff(costs))) < 0).any()  # a hill between two valleys
    assert sample_losses(logits, labels, fit_temperature(logits, labels)).sum() <= sample_losses(logits, labels).sum()


@pytest.mark.parametrize("loudness", [0.02, 1e3])
def test_a_temperature_stays_within_its_bounds(loudness: float) -> None:
    labels = labels_of(200)
    temperature = fit_temperature(logits_of(labels, 0.9) * loudness, labels)
    assert 0.05 <= temperature <= 20
    assert temperature == pytest.approx(0.05 if loudness < 1 else 20, rel=1e-6)


def test_the_temperature_of_an_answer_was_fitted_on_the_other_parts() -> None:
    labels = labels_of(120)
    logits = logits_of(labels, 0.8, seed=3)
    parts = np.arange(120) // 40
    logits[parts == 1] *= 20  # a model of its own, far too sure
    found = cross_fitted(logits, labels, parts)
    for part in range(3):
        here = parts == part
        expected = probabilities(logits[here], fit_temperature(logits[~here], labels[~here]))
        np.testing.assert_array_equal(found[here], expected)
    np.testing.assert_array_equal(cross_fitted(logits, labels, np.zeros(120, np.int64)), probabilities(logits))


def test_the_parts_are_the_folds_or_of_a_single_one_shares_that_keep_groups_whole() -> None:
    folds, units = np.array([0, 1, 1, 2, 0, 2]), np.array([0, 1, 1, 2, 3, 4])
    assert parts_of(folds, units).tolist() == folds.tolist()
    single = parts_of(np.zeros(6, np.int64), units)
    assert single[1] == single[2]
    assert len(set(single.tolist())) == 5


def test_the_loss_that_is_told_is_at_temperatures_of_other_images_and_the_one_that_ships_is_fitted_on_all() -> None:
    labels, folds = labels_of(100), np.arange(100) % 4
    logits = logits_of(labels, 0.9, scale=9.0)
    (result,) = decide(labels, Candidate("head", None, logits), folds=folds)
    chances = cross_fitted(logits, labels, folds)
    assert result.calibrated_log_loss == pytest.approx(-np.log(chances[np.arange(100), labels]).mean())
    assert result.temperature == fit_temperature(logits, labels)
    flattered = sample_losses(logits, labels, result.temperature).mean()
    assert result.calibrated_log_loss > flattered


def test_what_is_compared_for_accuracy_is_the_error_rate_and_the_brier_score_together() -> None:
    labels, folds = labels_of(60), np.arange(60) % 3
    head, top = logits_of(labels, 0.8), logits_of(labels, 0.9, seed=1)
    results = decide(labels, Candidate("head", None, head), Candidate("top", "head", top), folds=folds)
    costs = []
    for logits in (head, top):
        chances = cross_fitted(logits, labels, folds)
        squares = (chances[:, 1] - labels) ** 2  # as is usual for two classes
        costs.append(float((squares + (chances.argmax(axis=1) != labels)).mean()))
    assert [result.cost for result in results] == pytest.approx(costs)
    duel = results[1].against_head
    assert duel is not None
    assert duel.difference == pytest.approx(costs[1] - costs[0])


def test_another_metric_may_keep_another_candidate() -> None:
    # 20 of 200 images are of the second class: `top` finds them all and mistakes 30 others, the head names the first.
    labels = (np.arange(200) < 20).astype(np.int64)
    head = np.tile([2.0, -2.0], (200, 1)) + 0.1 * np.eye(2)[labels]
    said = (np.arange(200) < 50).astype(np.int64)
    top = 2.0 * np.eye(2)[said]
    candidates = Candidate("head", None, head), Candidate("top", "head", top)
    kept = {metric: chosen_result(decide(labels, *candidates, metric=metric)).name for metric in COSTS}
    assert kept["accuracy"] == "head"
    assert kept["balanced_accuracy"] == kept["macro_f1"] == "top"
    assert set(COSTS) == set(get_args(SelectParams.model_fields["metric"].annotation))


def test_the_reason_says_what_is_kept_on_what_and_claims_no_more() -> None:
    labels = labels_of(200)
    head = Candidate("head", None, logits_of(labels, 0.8))
    good = Candidate("top", "head", logits_of(labels, 0.95, seed=1))
    bad = Candidate("top", "head", logits_of(labels, 0.7, seed=1))
    settings = SelectParams(min_win_rate=0.8, draws=500)
    kept, refused, alone = (
        reason(decide(labels, *candidates), settings, images=200, folds=folds)
        for candidates, folds in (((head, good), 5), ((head, bad), 1), ((head,), 1))
    )
    assert kept == (
        "top is kept: it has a smaller error rate plus Brier score than the head in 100 % of 500 bootstrap draws "
        "(80 % are asked for), and an accuracy of 0.950 against 0.800, on 200 development images, each "
        "answered by a network that has not seen it (5 folds)."
    )
    assert refused == (
        "The head alone is kept: top has a smaller error rate plus Brier score in 0 % of 500 bootstrap draws (80 % are "
        "asked for), and an accuracy of 0.700 against 0.800, on 200 validation images."
    )
    assert alone == "No phase was trained; the head alone has an accuracy of 0.800 on 200 validation images."
    assert not any("helped" in sentence for sentence in (kept, refused, alone))


def test_where_no_draw_says_anything_nothing_is_better() -> None:
    labels = np.zeros(20, np.int64)  # one class only, of which there is no area under ROC
    head, top = np.tile([1.0, 0.0], (20, 1)), np.tile([3.0, 0.0], (20, 1))
    results = decide(
        labels, Candidate("head", None, head), Candidate("top", "head", top), metric="roc_auc", min_win_rate=0.5
    )
    duel = results[1].against_best
    assert duel is not None
    assert (duel.win_rate, duel.low, duel.high) == (0.0, None, None)
    assert not results[1].replaced_best
