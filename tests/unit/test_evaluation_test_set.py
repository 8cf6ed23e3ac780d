"""What evaluate writes into metrics.json and classes.json."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import tiny
from thaw.evaluation.calibration import probabilities, uncalibrated
from thaw.evaluation.intervals import metric_intervals
from thaw.evaluation.metrics import _Ranking, classification_metrics
from thaw.evaluation.test_set import test_metrics as metrics_of
from thaw.pipeline.report_facts import Choice, ClassFigures, Metrics

CLASSES = ["ok", "torn ä", "absent"]
LABELS = np.array([0, 1, 0, 1, 0, 0, 1, 0], dtype=np.int64)
LOGITS = np.random.default_rng(0).normal(size=(8, 3)) + 2 * np.eye(3)[LABELS]

DUEL = {"reference": "head", "difference": -0.1, "low": -0.2, "high": 0.0, "win_rate": 0.9, "mcnemar_p": 0.2}


def found(temperature: float = 1.7) -> tuple[Metrics, ClassFigures]:
    answers = {"head": probabilities(LOGITS[::-1]), "top": probabilities(LOGITS, temperature)}
    selection = tiny.selection(
        top={"chosen": True, "start": "head", "against_head": DUEL}, head={"accuracy": 0.75, "calibrated_log_loss": 0.5}
    )
    return metrics_of(
        LABELS, answers, selection, classes=CLASSES, temperature=temperature, groups=np.full(8, ""),
        draws=100, seed=0,
    )  # fmt: skip


def test_calibration_is_told_with_and_without_the_temperature() -> None:
    metrics, _ = found()
    before, after = (classification_metrics(LABELS, probabilities(LOGITS, t)) for t in (1.0, 1.7))
    for name in ("ece", "log_loss"):
        assert metrics.test[name] == after[name] != before[name]
        assert metrics.test[f"{name}_uncalibrated"] == pytest.approx(before[name], abs=1e-12)
    assert metrics.test["log_loss_uncalibrated_low"] <= metrics.test["log_loss_uncalibrated_high"]
    assert "ece_low" not in metrics.test
    assert metrics.final == Choice(phase="top", temperature=1.7)


def test_what_is_without_the_temperature_has_the_interval_of_every_log_loss() -> None:
    metrics, _ = found()
    raw = uncalibrated(probabilities(LOGITS, 1.7), 1.7)
    low, high = metric_intervals(LABELS, raw, groups=None, draws=100, seed=0)["log_loss"]
    assert metrics.test["log_loss_uncalibrated"] == classification_metrics(LABELS, raw)["log_loss"]
    assert metrics.test["log_loss_uncalibrated_low"] == pytest.approx(low)
    assert metrics.test["log_loss_uncalibrated_high"] == pytest.approx(high)


def test_the_curves_of_each_class_are_ranked_for_one_of_the_two_models_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ranked: list[int] = []
    made = _Ranking.of

    def counted(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> _Ranking:
        ranked.append(int(positive.sum()))
        return made(scores, positive)

    monkeypatch.setattr(_Ranking, "of", counted)
    found()
    assert len(ranked) == 2  # of the two classes that occur; so few images have no interval to rank for


def test_every_class_has_its_metrics_by_name_and_an_absent_one_only_its_support() -> None:
    each = found()[1].root
    assert list(each) == CLASSES
    assert [entry["support"] for entry in each.values()] == [5, 3, 0]
    assert "recall" not in each["absent"]
    for name in ("precision", "recall", "f1"):
        assert each["ok"][f"{name}_low"] <= each["ok"][name] <= each["ok"][f"{name}_high"]


def test_every_accuracy_has_an_interval() -> None:
    metrics, _ = found()
    assert metrics.majority.accuracy == 5 / 8
    for accuracy in (metrics.majority, metrics.head, metrics.phases["top"]):
        assert accuracy.accuracy_low < accuracy.accuracy < accuracy.accuracy_high


def test_a_model_without_a_temperature_has_the_same_figures_before_and_after() -> None:
    test = found(temperature=1.0)[0].test
    assert test["ece_uncalibrated"] == pytest.approx(test["ece"], abs=1e-12)
    assert {"brier", "brier_low", "brier_high"} <= set(test)
    assert "top_3_accuracy" not in test
