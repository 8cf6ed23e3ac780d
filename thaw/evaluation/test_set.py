"""The answers on the test set, put into metrics.json, classes.json and predictions.csv of reports/."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thaw.evaluation.bootstrap import bootstrap_intervals, class_intervals
from thaw.evaluation.calibration import uncalibrated
from thaw.evaluation.metrics import Table, calibration_metrics, class_metrics, classification_metrics
from thaw.pipeline import facts, tables
from thaw.pipeline.candidates import folder_of
from thaw.pipeline.facts import (
    Accuracy,
    Choice,
    ClassFigures,
    Figures,
    Metrics,
    ModelFacts,
    Selection,
    ValidationFigures,
)

Probabilities = NDArray[np.float64]


def test_metrics(
    labels: NDArray[np.int64],
    answers: Mapping[str, Probabilities],
    chosen: str,
    *,
    classes: Sequence[str],
    temperature: float,
    groups: NDArray[Any],
    draws: int,
    seed: int,
) -> tuple[Metrics, ClassFigures]:
    """Return the test figures of metrics.json, and classes.json with those of each class.

    The former are metrics of the chosen model with 95 % intervals, and accuracies of the rest: what `dvc metrics`
    compares, however many classes there are.

    `answers` holds the probabilities [images, classes] of the head and of each phase, by name; those of the chosen one
    are calibrated by `temperature`, and what that was worth is told by ece and log_loss without it.
    """
    final = answers[chosen]
    how: dict[str, Any] = {"groups": groups, "draws": draws, "seed": seed}
    test: Figures = {"n": len(labels)}
    test |= _with_intervals(classification_metrics(labels, final), bootstrap_intervals(labels, final, **how))
    raw = uncalibrated(final, temperature)
    intervals_before = bootstrap_intervals(labels, raw, of=Table.calibration, **how)
    before = _with_intervals(calibration_metrics(labels, raw), intervals_before)
    test |= {
        f"{name}_uncalibrated{end}": before[f"{name}{end}"]
        for name in ("ece", "log_loss")
        for end in ("", "_low", "_high")
    }
    each, intervals = class_metrics(labels, final), class_intervals(labels, final, **how)
    accuracies = {
        name: Accuracy(accuracy=float((given.argmax(axis=1) == labels).mean())) for name, given in answers.items()
    }
    majority = float(np.bincount(labels).max() / len(labels))
    head = accuracies.pop("head")
    metrics = Metrics(
        test=test,
        majority=Accuracy(accuracy=majority),
        head=head,
        phases=accuracies,
        final=Choice(phase=chosen, temperature=temperature),
    )
    return metrics, ClassFigures({name: _with_intervals(each[i], intervals[i]) for i, name in enumerate(classes)})


def validation_metrics(selection: Path) -> dict[str, ValidationFigures]:
    """Return accuracy and calibrated log loss on validation of head and phases, which experiments are compared by.

    They are those of selection.json, which holds more than a table of experiments has room for.
    """
    return {
        name: ValidationFigures(accuracy=seen.accuracy, log_loss=seen.calibrated_log_loss)
        for name, seen in facts.read(selection, Selection).candidates.items()
    }


def _with_intervals(values: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> Figures:
    """Return each value, followed by the ends of its interval where it has one."""
    together: Figures = {}
    for name, value in values.items():
        together[name] = value
        if name in intervals:
            together[f"{name}_low"], together[f"{name}_high"] = intervals[name]
    return together


def predictions(
    samples: pd.DataFrame, labels: NDArray[np.int64], final: Probabilities, classes: Sequence[str]
) -> pd.DataFrame:
    """Return a row for each test image, the least likely label first: errors of the model, or of the label."""
    names = np.array(classes)
    own = final[np.arange(len(labels)), labels]
    table = samples[["id", "path", "label"]].assign(
        predicted=names[final.argmax(axis=1)], probability=final.max(axis=1), label_probability=own
    )
    return table.sort_values(["label_probability", "id"], ignore_index=True)


def read_curves(phases: Path, names: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return the curves.csv of each phase that has one, by name."""
    return {
        name: tables.read(phases / name / "curves.csv") for name in names if (phases / name / "curves.csv").exists()
    }


def read_range_tests(phases: Path, names: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return the range_test.csv of each phase, by name; of one whose rate was given, the one row with that rate."""
    found = {}
    for name in names:
        folder = folder_of(phases, name)
        path, lr = folder / "range_test.csv", facts.read(folder / "model.json", ModelFacts).lr
        if path.exists():
            found[name] = tables.read(path)
        elif lr is not None:
            found[name] = pd.DataFrame({"rate": [lr], "change": np.nan, "smoothed": np.nan, "chosen": 1})
    return found
