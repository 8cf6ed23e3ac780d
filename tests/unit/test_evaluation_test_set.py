"""What evaluate writes into metrics.json and classes.json."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import tiny
from thaw.evaluation.bootstrap import bootstrap_intervals
from thaw.evaluation.calibration import probabilities, uncalibrated
from thaw.evaluation.metrics import _Ranking, classification_metrics
from thaw.evaluation.test_set import test_metrics as metrics_of
from thaw.evaluation.test_set import validation_metrics
from thaw.pipeline import facts
from thaw.pipeline.facts import Choice, ClassFigures, Metrics, ValidationFigures

CLASSES = ["ok", "torn ä", "absent"]
LABELS = np.array([0, 1, 0, 1, 0, 0, 1, 0], dtype=np.int64)
LOGITS = np.random.default_rng(0).normal(size=(8, 3)) + 2 * np.eye(3)[LABELS]


def found(temperature: float = 1.7) -> tuple[Metrics, ClassFigures]:
    answers = {"head": probabilities(LOGITS[::-1]), "top": probabilities(LOGITS, temperature)}
    return metrics_of(
        LABELS, answers, "top", classes=CLASSES, temperature=temperature, groups=np.full(8, ""), draws=100, seed=0
    )


def test_calibration_is_told_with_and_without_the_temperature() -> None:
    metrics, _ = found()
    before, after = (classification_metrics(LABELS, probabilities(LOGITS, t)) for t in (1.0, 1.7))
    for name in ("ece", "log_loss"):
        assert metrics.test[name] == after[name] != before[name]
        assert metrics.test[f"{name}_uncalibrated"] == pytest.approx(before[name], abs=1e-12)
        assert metrics.test[f"{name}_uncalibrated_low"] <= metrics.test[f"{name}_uncalibrated_high"]
    assert metrics.final == Choice(phase="top", temperature=1.7)


def test_what_is_without_the_temperature_is_drawn_as_every_metric_is_to_the_last_digit() -> None:
    metrics, _ = found()
    raw = uncalibrated(probabilities(LOGITS, 1.7), 1.7)
    intervals = bootstrap_intervals(LABELS, raw, groups=None, draws=100, seed=0)
    for name in ("ece", "log_loss"):
        assert metrics.test[f"{name}_uncalibrated"] == classification_metrics(LABELS, raw)[name]
        ends = tuple(metrics.test[f"{name}_uncalibrated_{end}"] for end in ("low", "high"))
        assert ends == intervals[name]


def test_the_curves_of_each_class_are_ranked_for_one_of_the_two_models_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ranked: list[int] = []
    made = _Ranking.of

    def counted(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> _Ranking:
        ranked.append(int(positive.sum()))
        return made(scores, positive)

    monkeypatch.setattr(_Ranking, "of", counted)
    found()
    assert len(ranked) == 2 * 2  # the values and their intervals, each of the two classes that occur


def test_every_class_has_its_metrics_by_name_and_an_absent_one_only_its_support() -> None:
    each = found()[1].root
    assert list(each) == CLASSES
    assert [entry["support"] for entry in each.values()] == [5, 3, 0]
    assert "recall" not in each["absent"]
    for name in ("precision", "recall", "f1"):
        assert each["ok"][f"{name}_low"] <= each["ok"][name] <= each["ok"][f"{name}_high"]


def test_the_figures_on_validation_are_those_of_selection(tmp_path: Path) -> None:
    path = tmp_path / "selection.json"
    facts.write(path, tiny.selection(head={"accuracy": 0.75, "calibrated_log_loss": 0.5, "chosen": True}))
    assert validation_metrics(path) == {"head": ValidationFigures(accuracy=0.75, log_loss=0.5)}


def test_a_model_without_a_temperature_has_the_same_figures_before_and_after() -> None:
    test = found(temperature=1.0)[0].test
    assert test["ece_uncalibrated"] == pytest.approx(test["ece"], abs=1e-12)
    assert {"brier", "brier_low", "brier_high"} <= set(test)
    assert "top_3_accuracy" not in test
