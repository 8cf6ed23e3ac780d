"""The short table that `python -m thaw summary` prints: was it worth it, and where to look next."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from thaw.errors import ArtifactError

_NEXT = (
    "`dvc plots show` draws reports/plots, `dvc metrics show` prints reports/metrics.json, "
    "`python -m thaw predict PATH` uses models/final"
)


def summary_rows(metrics: Mapping[str, Any], selection: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return (model, validation accuracy, test accuracy, remark): majority class, head, phases, the winner marked.

    metrics is reports/metrics.json, selection reports/selection.json. Raises: ArtifactError if one lacks a key.
    """
    try:
        chosen, test = metrics["final"]["phase"], metrics["test"]
        rows = [("majority class", "", _fraction(metrics["majority"]["accuracy"]), "")]
        for name, evidence in selection["candidates"].items():
            tested = metrics["head"] if name == "head" else metrics["phases"][name]
            accuracy, remark = _fraction(tested["accuracy"]), ""
            if name == chosen:
                interval = f"{_fraction(test['accuracy_low'])} to {_fraction(test['accuracy_high'])}"
                accuracy, remark = f"{_fraction(test['accuracy'])} ({interval})", "chosen"
            rows.append((name, _fraction(evidence["accuracy"]), accuracy, remark))
    except KeyError as error:
        raise ArtifactError(f"reports/metrics.json or reports/selection.json has no {error}; run `dvc repro`") from None
    return rows


def summary_table(metrics: Mapping[str, Any], selection: Mapping[str, Any]) -> Table:
    """Return the table to print, its caption the verdict and where to look next. Raises: ArtifactError."""
    rows = summary_rows(metrics, selection)
    table = Table(
        title=f"Accuracy on {metrics['test'].get('n', '?')} test images, 95 % interval",
        caption=f"{selection.get('verdict', '')}\n\n{_NEXT}",
        caption_justify="left",
        title_justify="left",
    )
    for column in ("model", "validation", "test", ""):
        table.add_column(column, justify="left" if column in {"model", ""} else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row, style="bold" if row[3] else None)
    return table


def _fraction(value: float) -> str:
    return f"{value:.3f}"
