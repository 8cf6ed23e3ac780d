"""The verdict on made-up answers: its word, its figures, and that the stored answers give it again."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from tests import tiny
from thaw.evaluation import test_set
from thaw.evaluation.calibration import probabilities, uncalibrated
from thaw.evaluation.verdict import change_of, images_needed, side_of, verdict_of
from thaw.pipeline import tables
from thaw.pipeline.report_facts import Metrics, Selection

LABELS = np.arange(100, dtype=np.int64) % 2
HOW: dict[str, Any] = {"groups": None, "draws": 100, "seed": 0}


def answers(wrong: range, seed: int = 0) -> NDArray[np.float64]:
    """Answers that are wrong on these images, at confidences of 0.7 to 0.9."""
    said = np.where(np.isin(np.arange(100), wrong), 1 - LABELS, LABELS)
    confidence = np.random.default_rng(seed).uniform(0.7, 0.9, 100)
    found = np.column_stack([1 - confidence, 1 - confidence])
    found[np.arange(100), said] = confidence
    return found


def selection(chosen: str) -> Selection:
    duel = {"reference": "head", "difference": -0.1, "low": -0.2, "high": 0.0, "mcnemar_p": 0.2}
    phases = {
        name: {"start": "head", "against_head": duel | {"win_rate": rate}, "chosen": chosen == name, "temperature": 1.5}
        for name, rate in (("top", 0.55), ("mid", 0.2))
    }
    return tiny.changed(tiny.selection(head={"chosen": chosen == "head", "temperature": 0.5}, **phases), chosen=chosen)


def metrics_of(
    model: NDArray[np.float64], head: NDArray[np.float64], chosen: str = "top", metric: str = "accuracy"
) -> Metrics:
    given = {"head": head, "top": model, "mid": head}
    settings = HOW | {"groups": np.full(100, ""), "classes": ["a", "b"], "temperature": 1.0}
    return test_set.test_metrics(LABELS, given, tiny.changed(selection(chosen), metric=metric), **settings)[0]


@pytest.mark.parametrize(
    ("model", "head", "chosen", "word", "sentence"),
    [
        (range(5), range(20), "top", "helped", "Unfreezing helped on 100 test images: top answers 0.950 correctly"),
        (range(10, 20), range(14), "top", "kept", "top is kept; whether it helps is not shown by 100 test images: top"),
        (range(20), range(5), "top", "hurt", "Unfreezing hurt on 100 test images: top answers 0.800 correctly"),
        (range(5), range(20), "head", "better", "The head alone was kept; on 100 test images top would have been bet"),
        (range(14), range(14), "head", "not_shown", "The head alone was kept; top is not shown to differ from it by "),
        (range(20), range(5), "head", "worse", "The head alone was kept; on 100 test images top would have been wor"),
    ],
)
def test_the_word_follows_from_the_interval(model: range, head: range, chosen: str, word: str, sentence: str) -> None:
    metrics = metrics_of(answers(model), answers(head, 1), chosen)
    assert (metrics.verdict.word, metrics.verdict.model, metrics.verdict.metric) == (word, "top", "accuracy")
    assert metrics.verdict.sentence.startswith(sentence)
    assert metrics.change is not None
    assert metrics.change["accuracy"] == pytest.approx((len(head) - len(model)) / 100)


def test_where_no_phase_was_trained_there_is_no_change_and_one_plain_sentence() -> None:
    given = {"head": answers(range(20))}
    metrics, _ = test_set.test_metrics(
        LABELS,
        given,
        tiny.selection(head={"chosen": True}),
        classes=["a", "b"],
        temperature=1.0,
        **HOW,
    )
    assert metrics.change is None
    assert metrics.verdict.word == "no_phase"
    assert metrics.verdict.sentence == (
        "No phase was trained; the head alone answers 0.800 of 100 test images correctly (95 % interval 0.713 to "
        "0.870)."
    )


def test_the_images_that_would_show_a_change_follow_from_its_standard_error() -> None:
    change = {"n": 100, "accuracy": 0.02, "accuracy_low": 0.02 - 0.196, "accuracy_high": 0.02 + 0.196}
    # A standard error of 0.1 must shrink to 0.02 / (1.96 + 0.842): by a factor of 14.01, 196.2 times the images.
    assert images_needed(change, "accuracy") == pytest.approx(19622, abs=10)
    assert images_needed(change | {"accuracy": 0.0}, "accuracy") is None
    told = verdict_of(
        change | {"gained": 5, "lost": 3, "images_needed": 19622}, "top", kept=True, metric="accuracy",
        accuracies=(0.82, 0.8),
    ).sentence  # fmt: skip
    assert told.endswith("(95 % interval -0.176 to +0.216); about 20,000 test images would show a change of this size.")


def test_a_phase_that_did_worse_is_helped_by_no_number_of_images() -> None:
    told = metrics_of(answers(range(10, 25)), answers(range(14), 1)).verdict.sentence
    assert told.endswith("with such a change no number of images would show that it helps.")
    told = metrics_of(answers(range(14)), answers(range(14))).verdict.sentence
    assert "accuracy changes by 0.000 (95 % interval -0.027 to +0.027)" in told
    assert told.endswith("with no change there is nothing that more images would show.")


@pytest.mark.parametrize("metric", ["log_loss", "balanced_accuracy", "macro_f1", "roc_auc"])
def test_another_metric_leads_where_it_is_asked_for(metric: Any) -> None:
    good, bad = answers(range(5)), answers(range(25), 1)
    for model, head, side in ((good, bad, 1), (bad, good, -1), (good, answers(range(3, 8), 2), 0)):
        change = change_of(LABELS, model, head, metric=metric, **HOW)
        assert side_of(change, metric) == side
        assert {"accuracy_low", "log_loss_low", f"{metric}_low"} <= set(change)
        assert change[f"{metric}_low"] <= change[metric] <= change[f"{metric}_high"]
    told = metrics_of(good, bad, metric=metric).verdict
    assert (told.word, told.metric) == ("helped", metric)


def test_too_few_images_for_an_interval_are_too_few_for_a_verdict() -> None:
    change = change_of(LABELS[:6], answers(range(1))[:6], answers(range(2), 1)[:6], metric="roc_auc", **HOW)
    assert "roc_auc_low" not in change
    told = verdict_of(change, "top", kept=True, metric="roc_auc", accuracies=(0.8, 0.7))
    assert told.word == "kept"
    assert "no interval from so few images" in told.sentence
    assert told.sentence.endswith("6 images are too few for a verdict.")


def test_images_of_one_group_prove_less_and_have_no_mcnemar() -> None:
    model, head, groups = answers(range(0)), answers(range(15), 1), [f"cell {i // 20}" for i in range(100)]
    alone = change_of(LABELS, model, head, metric="accuracy", **HOW)
    together = change_of(LABELS, model, head, metric="accuracy", **HOW | {"groups": groups})
    assert (side_of(alone, "accuracy"), side_of(together, "accuracy")) == (1, 0)
    assert alone["mcnemar_p"] == pytest.approx(2 * 0.5**15)
    assert "mcnemar_p" not in together


def test_models_are_compared_each_at_its_own_temperature() -> None:
    logits = np.random.default_rng(0).normal(size=(100, 2))
    chosen = probabilities(logits, 1.5)
    found = test_set.own_temperatures({"head": probabilities(logits), "top": chosen}, selection("top"))
    np.testing.assert_allclose(found["head"], probabilities(logits, 0.5))
    np.testing.assert_allclose(found["head"], uncalibrated(probabilities(logits), 2.0))
    assert found["top"] is chosen


def test_the_verdict_can_be_computed_again_from_predictions_csv(tmp_path: Path) -> None:
    model, head = answers(range(9, 16)), answers(range(14), 1)
    samples = pd.DataFrame(
        {"id": [f"{row:03}" for row in range(100)], "path": "p", "label": np.array(["0", "1"])[LABELS]}
    )
    tables.write(tmp_path / "predictions.csv", test_set.predictions(samples, LABELS, model, head, ["0", "1"]))
    table = tables.read(tmp_path / "predictions.csv")
    change = metrics_of(model, head).change
    assert change is not None
    right, reference = (table[name] == table["label"] for name in ("predicted", "head_predicted"))
    gained, lost = int((right & ~reference).sum()), int((reference & ~right).sum())
    assert (change["gained"], change["lost"]) == (gained, lost) == (9, 2)
    middle, share = (gained - lost) / 102, (gained + lost + 2) / 102
    reach = 1.959964 * ((share - middle**2) / 102) ** 0.5
    assert change["accuracy"] == pytest.approx(0.07)
    assert (change["accuracy_low"], change["accuracy_high"]) == pytest.approx(
        (middle - reach, middle + reach), abs=1e-6
    )
    losses = -np.log(table["label_probability"]) + np.log(table["head_label_probability"])
    assert change["log_loss"] == pytest.approx(losses.mean())
    assert change["log_loss_high"] - change["log_loss"] >= 1.98 * losses.std() / 10
