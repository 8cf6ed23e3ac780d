"""What `select` and `thaw summary` print: the verdict, what the choice was made on, and what looks wrong."""

from collections.abc import Iterable, Mapping

from rich import box
from rich.console import Console
from rich.table import Table

from thaw.errors import ArtifactError
from thaw.pipeline import artifacts, scratch
from thaw.pipeline.report_facts import Accuracy, CandidateFacts, Metrics, Selection

_NEXT = (
    "reports/index.html is the report: open it in a browser. `dvc plots show` draws the plots, `dvc exp show` "
    "compares trials by validation, `thaw predict PATH` uses models/export"
)

FINDINGS = {
    "diverges": "diverges",
    "rate_too_low": "does not move",
    "stuck": "is stuck",
    "overfits": "overfits",
    "no_better_than_majority": "is no better than the majority class",
    "earlier_layers_do_better": "would do better on an earlier block",
    "cannot_tell": "is not to be judged in one respect",
}
"""How each finding of `diagnostics.py` is put after the name of a head or a phase."""


def summary_rows(metrics: Metrics, selection: Selection) -> list[tuple[str, str, str, str]]:
    """Return (model, validation accuracy, test accuracy, remark): majority class, head, phases, the winner marked.

    Raises: ArtifactError if a candidate was not tested.
    """
    rows = [("majority class", "", _tested(metrics.majority), "")]
    for name, evidence in selection.candidates.items():
        tested = metrics.head if name == "head" else metrics.phases.get(name)
        if tested is None:
            raise ArtifactError(f"reports/metrics.json: phases.{name} is missing; run `dvc repro`")
        remark = "chosen" if name == metrics.final.phase else ""
        rows.append((name, _fraction(evidence.accuracy), _tested(tested), remark))
    return rows


def summary_table(metrics: Metrics, selection: Selection) -> Table:
    """Return the table to print, above it the verdict, below it what the choice was made on. Raises: ArtifactError."""
    rows = summary_rows(metrics, selection)
    table = Table(
        title=f"{metrics.verdict.sentence}\n\nAccuracy on {metrics.test['n']} test images, 95 % interval",
        caption=f"What the choice was made on, no proof: {selection.reason}\n\n{_NEXT}",
        caption_justify="left",
        title_justify="left",
    )
    for column in ("model", "validation", "test", ""):
        table.add_column(column, justify="left" if column in {"model", ""} else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row, style="bold" if row[3] else None)
    return table


def selection_table(selection: Selection, seconds: Mapping[str, float]) -> Table:
    """Return the table of head and phases on validation, from reports/selection.json and the seconds each one took.

    Losses are calibrated, in nats. Each phase is compared with the one that it starts from; the gap is validation loss
    minus training loss after the last epoch, `!` where there is a finding of overfitting. `*` is the chosen one.
    """
    title = (
        f"What the choice was made on, no proof: {selection.looked_at}, each phase against the one that it starts from "
        f"(change: {selection.cost}, smaller is better)"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("  model", "accuracy", "loss", "change", "95 % interval", "McNemar", "gap", "time"):
        table.add_column(column, justify="left" if column == "  model" else "right", no_wrap=True)
    overfitted = {finding.where for finding in selection.findings if finding.kind == "overfits"}
    for name, found in selection.candidates.items():
        gap = found.train_validation_gap
        table.add_row(
            ("* " if found.chosen else "  ") + name,
            _fraction(found.accuracy),
            _fraction(found.calibrated_log_loss),
            *_change(found),
            ("" if gap is None else f"{gap:.3f}") + ("!" if name in overfitted else ""),
            f"{seconds[name]:.0f} s" if name in seconds else "",
            style="bold" if found.chosen else None,
        )
    return table


def _change(found: CandidateFacts) -> tuple[str, str, str]:
    """Return the difference to the start, its interval, and McNemar's p."""
    if (duel := found.against_start) is None:
        return "", "", ""
    between = "not to be had" if duel.low is None or duel.high is None else f"{duel.low:.3f} to {duel.high:.3f}"
    return f"{duel.difference:.3f}", between, _p_value(duel.mcnemar_p)


def _p_value(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def print_selection(selection: Selection) -> None:
    """Print the table of head and phases, the findings, and the verdict."""
    print_evidence(selection)
    Console().print(selection.reason, markup=False, highlight=False)


def print_evidence(selection: Selection) -> None:
    """Print the table of head and phases, and each finding."""
    console = Console()
    console.print(selection_table(selection, seconds_spent(selection.candidates)))
    for finding in selection.findings:
        kind = "Note" if finding.kind == "cannot_tell" else "Warning"
        words = f"{kind}: {finding.where} {FINDINGS[finding.kind]}: {finding.evidence}."
        console.print(f"{words} Advice: {finding.advice}.\n", markup=False, highlight=False)
    for name, why in selection.not_trained.items():
        console.print(f"{name} was not trained: {why}\n", markup=False, highlight=False)


def seconds_spent(names: Iterable[str]) -> dict[str, float]:
    """Return the seconds that head and phases took when they last ran on this machine, as far as that is known.

    The head's are those of the stages features and head.
    """
    stages = {name: ("features", "head") if name == "head" else (f"unfreeze@{name}",) for name in names}
    spent = {name: [_seconds(part) for part in parts] for name, parts in stages.items()}
    return {name: sum(part or 0 for part in parts) for name, parts in spent.items() if None not in parts}


def _seconds(stage: str) -> float | None:
    try:
        return float(artifacts.read_json(scratch.folder() / "timings" / f"{stage}.json")["seconds"])
    except (ArtifactError, KeyError, TypeError, ValueError):
        return None


def _tested(found: Accuracy) -> str:
    return f"{_fraction(found.accuracy)} ({_fraction(found.accuracy_low)} to {_fraction(found.accuracy_high)})"


def _fraction(value: float) -> str:
    return f"{value:.3f}"
