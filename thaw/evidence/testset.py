"""The answers on the test set, put into reports/metrics.json and reports/predictions.csv."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thaw.evidence.intervals import bootstrap_intervals
from thaw.evidence.metrics import classification_metrics

Probabilities = NDArray[np.float64]


def test_metrics(
    labels: NDArray[np.int64],
    answers: Mapping[str, Probabilities],
    chosen: str,
    *,
    groups: NDArray[Any],
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Return the content of metrics.json: metrics of the chosen model with 95 % intervals, accuracies of the rest.

    `answers` holds the probabilities [images, classes] of the head and of each phase, by name.
    """
    final = answers[chosen]
    intervals = bootstrap_intervals(labels, final, groups=groups, draws=draws, seed=seed)
    test: dict[str, Any] = {"n": len(labels)}
    for name, value in classification_metrics(labels, final).items():
        test[name] = value
        if name in intervals:
            test[f"{name}_low"], test[f"{name}_high"] = intervals[name]
    accuracies = {name: {"accuracy": float((given.argmax(axis=1) == labels).mean())} for name, given in answers.items()}
    majority = float(np.bincount(labels).max() / len(labels))
    head = accuracies.pop("head")
    return {
        "test": test,
        "majority": {"accuracy": majority},
        "head": head,
        "phases": accuracies,
        "final": {"phase": chosen},
    }


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
        name: pd.read_csv(phases / name / "curves.csv") for name in names if (phases / name / "curves.csv").exists()
    }
