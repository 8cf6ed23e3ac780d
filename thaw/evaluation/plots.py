"""The tables that `dvc plots` draws; dvc.yaml says how, and .dvc/plots has the templates.

Tables and not pictures: DVC can lay two revisions over each other, and a reader can compute with them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thaw.errors import DataError
from thaw.evaluation.metrics import ECE_BINS, bins_of, check
from thaw.names import in_script
from thaw.pipeline import tables, timings

MAX_POINTS = 1000
"""Points of a curve; more than a screen can show."""
_MAX_ROWS = 50_000
"""Rows of a file: with many classes each curve gets fewer points, or the page that draws them grows to megabytes."""

_LOSSES = {"train_loss": "training", "val_loss": "validation"}


@timings.counted("plots")
def write_test_plots(
    folder: Path, labels: NDArray[np.int64], probabilities: NDArray[np.float64], classes: Sequence[str]
) -> None:
    """Write confusion, roc, precision_recall and calibration (.csv) of the test set.

    `dvc plots` writes what is in these tables into a script of its page as it is, so a class name has a quotation mark
    in the place of `<` here.

    labels [images] and probabilities [images, classes] are those of the chosen model. ROC and precision-recall are
    those of the second class of two, else of each class against the rest, without the classes that the labels lack.
    Raises: DataError if labels and probabilities do not fit together or to the classes.
    """
    check(labels, probabilities)
    if len(classes) != probabilities.shape[1]:
        raise DataError(
            f"{len(classes)} class names for {probabilities.shape[1]} columns of probabilities; they must match"
        )
    classes = [in_script(name) for name in classes]
    names = np.array(classes, dtype=object)
    confusion = pd.DataFrame({"actual": names[labels], "predicted": names[probabilities.argmax(axis=1)]})
    named = {"confusion": confusion, "calibration": calibration_points(labels, probabilities)}
    _write(folder, named | _class_curves(labels, probabilities, classes))


def write_training_plots(
    folder: Path, curves: Mapping[str, pd.DataFrame], range_tests: Mapping[str, pd.DataFrame]
) -> None:
    """Write losses, accuracies, learning_rates and range_tests (.csv): how training went, on training and validation.

    curves holds the curves.csv of each phase, by its name, and range_tests what it tried of learning rates.
    """
    _write(
        folder,
        {
            "losses": _long(curves, _LOSSES, "loss"),
            "accuracies": _long(curves, {"val_accuracy": "validation"}, "accuracy"),
            "learning_rates": learning_rates(curves),
            "range_tests": _range_tests(range_tests),
        },
    )


def _write(folder: Path, named: Mapping[str, pd.DataFrame]) -> None:
    for name, table in named.items():
        tables.write(folder / f"{name}.csv", table, float_format="%.6g")


def calibration_points(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> pd.DataFrame:
    """Return mean confidence, accuracy and images of each bin that is not empty, and the diagonal (series `ideal`)."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = bins_of(confidence)
    counts = np.bincount(bins, minlength=ECE_BINS)
    filled = counts > 0
    points = pd.DataFrame(
        {
            "series": "model",
            "confidence": np.bincount(bins, confidence, ECE_BINS)[filled] / counts[filled],
            "accuracy": np.bincount(bins, correct, ECE_BINS)[filled] / counts[filled],
            "images": counts[filled],
        }
    )
    ideal = pd.DataFrame({"series": "ideal", "confidence": [0.0, 1.0], "accuracy": [0.0, 1.0], "images": 0})
    return pd.concat([points, ideal], ignore_index=True)


def roc_points(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> pd.DataFrame:
    """Return false_positive_rate and true_positive_rate at each distinct score, from (0, 0) to (1, 1)."""
    hits, misses = _counts_above(scores, positive)
    return pd.DataFrame({"false_positive_rate": misses / misses[-1], "true_positive_rate": hits / hits[-1]})


def precision_recall_points(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> pd.DataFrame:
    """Return recall and precision at each distinct score, from the best score down; (0, 1) stands first."""
    hits, misses = _counts_above(scores, positive)
    precision = np.append(1.0, hits[1:] / (hits[1:] + misses[1:]))
    return pd.DataFrame({"recall": hits / hits[-1], "precision": precision})


def learning_rates(curves: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return epoch, phase, block, learning_rate in long form, from the `lr:BLOCK` columns of each phase.

    Without epoch 0, which is the start and trains nothing.
    """
    rows = [pd.DataFrame(columns=["epoch", "phase", "block", "learning_rate"])]
    for phase, whole in curves.items():
        table = whole[whole["epoch"] > 0]
        for column in [str(name) for name in table.columns if str(name).startswith("lr:")]:
            block = column.removeprefix("lr:")
            part = table[["epoch", column]].set_axis(["epoch", "learning_rate"], axis=1).dropna()
            rows.append(_thin(part).assign(phase=phase, block=block))
    return _joined(rows)


def _range_tests(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the range tests of phases under each other; `chosen` is 1 in the row of the rate that was taken."""
    none = pd.DataFrame(columns=["phase", "rate", "change", "smoothed", "chosen"])
    return _joined([none, *(table.assign(phase=phase) for phase, table in tables.items())])


def _class_curves(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], classes: Sequence[str]
) -> dict[str, pd.DataFrame]:
    scored = [1] if len(classes) == 2 else range(len(classes))
    mixed = [c for c in scored if 0 < (labels == c).sum() < len(labels)]
    points = min(MAX_POINTS, max(20, _MAX_ROWS // max(1, len(mixed))))
    roc = [pd.DataFrame(columns=["series", "false_positive_rate", "true_positive_rate"])]
    precision_recall = [pd.DataFrame(columns=["series", "recall", "precision"])]
    for c in mixed:
        scores, positive = probabilities[:, c], labels == c
        roc.append(_thin(roc_points(scores, positive), points).assign(series=classes[c]))
        precision_recall.append(_thin(precision_recall_points(scores, positive), points).assign(series=classes[c]))
    return {"roc": _joined(roc), "precision_recall": _joined(precision_recall)}


def _counts_above(
    scores: NDArray[np.float64], positive: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many positives and negatives score at least each distinct score, best first, after (0, 0)."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(positive[order])[ends]
    return np.append(0, hits), np.append(0, ends + 1 - hits)


def _long(curves: Mapping[str, pd.DataFrame], columns: Mapping[str, str], value: str) -> pd.DataFrame:
    rows = [pd.DataFrame(columns=["epoch", "series", "phase", value])]
    for phase, table in curves.items():
        for column, word in columns.items():
            if column in table:
                part = table[["epoch", column]].set_axis(["epoch", value], axis=1).dropna()
                rows.append(_thin(part).assign(series=f"{phase}, {word}", phase=phase))
    return _joined(rows)


def _joined(rows: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of all tables in the columns of the first, which is empty."""
    filled = [part[list(rows[0].columns)] for part in rows[1:] if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else rows[0]


def _thin(table: pd.DataFrame, points: int = MAX_POINTS) -> pd.DataFrame:
    """Return at most `points` rows, evenly spaced, the first and the last among them."""
    if len(table) <= points:
        return table
    return table.iloc[np.unique(np.linspace(0, len(table) - 1, points).astype(np.int64))]
