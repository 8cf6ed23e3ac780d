"""The answers on the test set, put into metrics.json, classes.json and predictions.csv of reports/."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thaw.evaluation.bootstrap import unit_of
from thaw.evaluation.calibration import uncalibrated
from thaw.evaluation.intervals import class_intervals, metric_intervals, proportion
from thaw.evaluation.metrics import Table, calibration_metrics, class_metrics, classification_metrics
from thaw.evaluation.verdict import change_of, verdict_of, without_a_phase
from thaw.pipeline.report_facts import Accuracy, Choice, ClassFigures, Figures, Metrics, Selection, Verdict

Probabilities = NDArray[np.float64]


def own_temperatures(answers: Mapping[str, Probabilities], selection: Selection) -> dict[str, Probabilities]:
    """Return the answers of each model at the temperature that validation gave it; those of the chosen have it.

    A model is compared at its own temperature here as it was on validation.
    """
    return {
        name: given if name == selection.chosen else uncalibrated(given, 1 / selection.candidates[name].temperature)
        for name, given in answers.items()
    }


def test_metrics(
    labels: NDArray[np.int64],
    answers: Mapping[str, Probabilities],
    selection: Selection,
    *,
    classes: Sequence[str],
    temperature: float,
    groups: NDArray[Any],
    draws: int,
    seed: int,
) -> tuple[Metrics, ClassFigures]:
    """Return the content of metrics.json, and classes.json with the figures of each class.

    The former has metrics of the chosen model with 95 % intervals, accuracies of the rest, and the verdict: what `dvc
    metrics` compares, however many classes there are.

    `answers` holds the probabilities [images, classes] of the head and of each phase, by name; those of the chosen one
    are calibrated by `temperature`, and what that was worth is told by ece and log_loss without it. `draws` is the
    most evaluations behind an interval. The verdict goes by the metric that the choice went by.
    """
    chosen, units = selection.chosen, unit_of(groups, len(labels))
    how: dict[str, Any] = {"groups": groups, "draws": draws, "seed": seed}

    def accuracy(predicted: NDArray[np.int64] | int) -> Accuracy:
        right = np.asarray(predicted == labels)
        low, high = proportion(right, units)
        return Accuracy(accuracy=float(right.mean()), accuracy_low=low, accuracy_high=high)

    accuracies = {name: accuracy(given.argmax(axis=1)) for name, given in answers.items()}
    change, verdict = _verdict(labels, answers, selection, accuracies, **how)
    metrics = Metrics(
        test={"n": len(labels)} | _figures(labels, answers[chosen], temperature, how),
        majority=accuracy(int(np.bincount(labels).argmax())),
        head=accuracies.pop("head"),
        phases=accuracies,
        final=Choice(phase=chosen, temperature=temperature),
        change=change,
        verdict=verdict,
    )
    each = class_metrics(labels, answers[chosen])
    intervals = class_intervals(labels, answers[chosen], groups=groups)
    return metrics, ClassFigures({name: _with_intervals(each[i], intervals[i]) for i, name in enumerate(classes)})


def _figures(labels: NDArray[np.int64], final: Probabilities, temperature: float, how: Mapping[str, Any]) -> Figures:
    """Return the metrics of the chosen model with their intervals, and what its temperature changed."""
    found = _with_intervals(classification_metrics(labels, final), metric_intervals(labels, final, **how))
    raw = uncalibrated(final, temperature)
    intervals = metric_intervals(labels, raw, of=Table.calibration, **how)
    before = {name: value for name, value in calibration_metrics(labels, raw).items() if name != "brier"}
    named = {f"{name}_uncalibrated": ends for name, ends in intervals.items()}
    return found | _with_intervals({f"{name}_uncalibrated": value for name, value in before.items()}, named)


def _verdict(
    labels: NDArray[np.int64],
    answers: Mapping[str, Probabilities],
    selection: Selection,
    accuracies: Mapping[str, Accuracy],
    **how: Any,
) -> tuple[Figures | None, Verdict]:
    """Return the change from the head to the phase that was chosen, or came nearest to it, and the verdict on it."""
    head, kept, metric = accuracies["head"], selection.chosen != "head", selection.metric
    model = selection.chosen if kept else nearest_rejected(selection)
    if model is None:
        return None, without_a_phase(len(labels), head.accuracy, (head.accuracy_low, head.accuracy_high))
    change = change_of(labels, answers[model], answers["head"], metric=metric, **how)
    both = accuracies[model].accuracy, head.accuracy
    return change, verdict_of(change, model, kept=kept, metric=metric, accuracies=both)


def nearest_rejected(selection: Selection) -> str | None:
    """Return the candidate that came nearest to replacing the head on validation; None if there is only the head."""
    rivals = {name: found.against_head for name, found in selection.candidates.items() if found.against_head}
    return max(rivals, key=lambda name: rivals[name].win_rate) if rivals else None


def _with_intervals(values: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> Figures:
    """Return each value, followed by the ends of its interval where it has one."""
    together: Figures = {}
    for name, value in values.items():
        together[name] = value
        if name in intervals:
            together[f"{name}_low"], together[f"{name}_high"] = intervals[name]
    return together


def predictions(
    samples: pd.DataFrame,
    labels: NDArray[np.int64],
    final: Probabilities,
    head: Probabilities,
    classes: Sequence[str],
) -> pd.DataFrame:
    """Return a row for each test image, the least likely label first: errors of the model, or of the label.

    `final` and `head` [images, classes] are what the chosen model and the head answer, each at its own temperature: the
    verdict can be computed again from the table where a phase was chosen.
    """
    names = np.array(classes)
    columns = {
        f"{whose}{column}": values
        for whose, given in (("", final), ("head_", head))
        for column, values in (
            ("predicted", names[given.argmax(axis=1)]),
            ("probability", given.max(axis=1)),
            ("label_probability", given[np.arange(len(labels)), labels]),
        )
    }
    table = samples[["id", "path", "label"]].assign(**columns)
    return table.sort_values(["label_probability", "id"], ignore_index=True)
