"""The charts of the report: how training went, how sure the answers are, and what was trained at which rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from thaw.report.charts import Chart, Series, line_chart
from thaw.report.sources import Sources

_NOT_GREY = (0, 2, 3, 4, 5, 6)
"""Colours of curves that are alike in kind; 1 is the grey of references."""
_FEW_EPOCHS = 14


def training_charts(sources: Sources) -> list[Chart]:
    """Return the loss and the validation accuracy along the phases, without those that have no points."""
    names = list(sources.phases)
    drawn = [
        _along("Loss", "Loss (nats)", sources.plot("losses"), "loss", names),
        _along("Accuracy on validation", "Accuracy", sources.plot("accuracies"), "accuracy", names),
    ]
    return [chart for chart in drawn if chart is not None]


def answer_charts(sources: Sources) -> list[Chart]:
    """Return calibration, ROC and precision-recall of the test set, without those that have no points."""
    drawn = [_calibration(sources.plot("calibration"))]
    roc = ("false_positive_rate", "true_positive_rate", "False positive rate", "True positive rate")
    precision = ("recall", "precision", "Recall", "Precision")
    drawn += [_ranked("ROC", sources.plot("roc"), *roc)]
    drawn += [_ranked("Precision and recall", sources.plot("precision_recall"), *precision)]
    return [chart for chart in drawn if chart is not None]


@dataclass(frozen=True)
class LearningCurve:
    """How good the head is on a part of the images, and what more of them would bring."""

    chart: Chart
    outlook: str
    """A sentence."""


def learning_curve(sources: Sources) -> LearningCurve | None:
    """Return the head's accuracy by the images that it is fitted on; None where too few images leave no curve.

    Such curves flatten, so the last doubling is the most that the next one is likely to bring.
    """
    table = sources.learning_curve
    if table.empty:
        return None
    images, accuracy = table["images"].astype(float).tolist(), table["accuracy"].astype(float).tolist()
    gain, low, high = (float(table[name].iloc[-1]) for name in ("gain", "gain_low", "gain_high"))
    step = f"going from {images[-2]:,.0f} to {images[-1]:,.0f} training images"
    change = f"{step} changed the head's accuracy by {gain:+.3f} (95 % interval {low:+.3f} to {high:+.3f})"
    outlook = f"What twice the images would bring cannot be told from these: {change}."
    if low > 0:
        outlook = f"Twice the images would bring about {gain:+.3f} or less: {change}."
    elif high < 0:
        outlook = f"More images of this kind are not likely to make the head better: {change}."
    series = Series("accuracy", [math.log2(value) for value in images], accuracy)
    chart = line_chart(
        "The head on a part of the images",
        f"Accuracy by training images, each step doubling them.{_ends([series])}",
        [series],
        x_label="Training images",
        y_label="Accuracy",
        x_marks=[(math.log2(value), f"{value:,.0f}") for value in images],
    )
    return LearningCurve(chart, outlook.replace("-", "−"))


@dataclass(frozen=True)
class Schedule:
    """Which block learned at which rate in which epoch: rows are blocks, the head on top, columns epochs."""

    phases: list[tuple[str, list[int]]]
    """Each phase that trained, with its epochs."""
    rows: list[tuple[str, list[float | None], list[list[float]]]]
    """A block; for each phase its peak rate (None: frozen), and its rate in each epoch as a share of the highest."""
    highest: float


def schedule(sources: Sources) -> Schedule | None:
    """Return the learning rates as they were applied; None if no phase recorded any."""
    table = sources.plot("learning_rates")
    if table.empty:
        return None
    rates = table.astype({"learning_rate": float, "epoch": int})
    rates = rates[rates["epoch"] > 0]
    present = [name for name in sources.phases if (rates["phase"] == name).any()]
    phases = [(name, sorted(set(rates["epoch"][rates["phase"] == name]))) for name in present]
    highest = float(rates["learning_rate"].max()) if len(rates) else 0.0
    if not highest > 0:
        return None
    blocks = list(dict.fromkeys([*sources.final.blocks, "head"]))
    blocks += sorted(set(rates["block"]) - set(blocks))
    columns = (rates[name].tolist() for name in ("phase", "block", "epoch", "learning_rate"))
    value = {(phase, block, epoch): rate for phase, block, epoch, rate in zip(*columns, strict=True)}
    rows = []
    for block in reversed(blocks):
        own = [[value.get((name, block, epoch)) for epoch in epochs] for name, epochs in phases]
        peaks = [max((rate for rate in part if rate is not None), default=None) for part in own]
        rows.append((block, peaks, [[(rate or 0.0) / highest for rate in part] for part in own]))
    return Schedule(phases, rows, highest)


def _along(title: str, y_label: str, table: pd.DataFrame, value: str, names: Sequence[str]) -> Chart | None:
    """Return a chart with the phases side by side, training dashed and grey, validation in the accent colour."""
    if table.empty:
        return None
    series, panels, marks, start = list[Series](), list[tuple[float, float, str]](), list[tuple[float, str]](), 0.0
    for name in [name for name in names if (table["phase"] == name).any()]:
        own = table[table["phase"] == name]
        epochs = own["epoch"].astype(float)
        end = start + float(epochs.max() - epochs.min())
        for kind, lines in own.groupby("series", sort=True):
            word = str(kind).removeprefix(f"{name}, ")
            x = (lines["epoch"].astype(float) - epochs.min() + start).tolist()
            is_training = word == "training"
            series.append(Series(word, x, lines[value].astype(float).tolist(), 1 if is_training else 0, is_training))
        panels.append((start - 0.4, end + 0.4, name))
        marks += _marks(start, end, int(epochs.min()))
        start = end + 1
    shown = ", then ".join(name for _, _, name in panels)
    return line_chart(
        title,
        f"{y_label} by epoch through {shown}.{_ends(series)}",
        series,
        x_label="Epoch of the phase",
        y_label=y_label,
        x_range=(-0.4, start - 0.6),
        x_marks=marks,
        panels=panels,
    )


def _marks(start: float, end: float, first: int) -> list[tuple[float, str]]:
    span = int(end - start)
    step = max(1, -(-span // 4)) if span + 1 > _FEW_EPOCHS // 2 else 1
    return [(start + offset, str(first + offset)) for offset in range(0, span + 1, step)]


def _ends(series: Sequence[Series]) -> str:
    last = {one.name: one for one in series}
    return "".join(f" The {name} curve ends at {one.y[-1]:.3f}." for name, one in last.items())


def _calibration(table: pd.DataFrame) -> Chart | None:
    bins = table[table["series"] == "model"] if len(table) else table
    if bins.empty:
        return None
    counts = bins["images"].astype(float)
    sizes = (2.5 + 6.5 * (counts / counts.max()) ** 0.5).tolist()
    confidence, accuracy = bins["confidence"].astype(float), bins["accuracy"].astype(float)
    gap = float(((confidence - accuracy).abs() * counts).sum() / counts.sum())
    low = min(0.5, float(confidence.min()), float(accuracy.min()))
    return line_chart(
        "Calibration",
        f"Accuracy against mean confidence in {len(bins)} bins; on average they are {gap:.3f} apart.",
        [
            Series("perfectly calibrated", [low, 1.0], [low, 1.0], 1, dashed=True, sizes=[0.0, 0.0]),
            Series("test images, a dot a bin", confidence.tolist(), accuracy.tolist(), sizes=sizes, joined=False),
        ],
        x_label="Confidence of the answer",
        y_label="Share that is right",
        x_range=(low - 0.03, 1.03),
        y_range=(low - 0.03, 1.03),
    )


def _ranked(title: str, table: pd.DataFrame, x: str, y: str, x_label: str, y_label: str) -> Chart | None:
    if table.empty:
        return None
    curves: list[tuple[Any, pd.DataFrame]] = list(table.groupby("series", sort=False))
    if len(curves) > len(_NOT_GREY):
        return None
    series = [
        Series(str(name), part[x].astype(float).tolist(), part[y].astype(float).tolist(), colour)
        for colour, (name, part) in zip(_NOT_GREY, curves, strict=False)
    ]
    return line_chart(
        f"{title}" if len(curves) > 1 else f"{title} of {series[0].name}",
        f"{y_label} against {x_label.lower()} on the test images.",
        series,
        x_label=x_label,
        y_label=y_label,
        x_range=(-0.02, 1.02),
        y_range=(-0.02, 1.02),
    )
