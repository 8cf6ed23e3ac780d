"""The table of trials for a terminal, in at most 100 columns."""

import json
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from thaw.evaluation.verdict import signed
from thaw.pipeline.revisions import shown
from thaw.trials.listing import Trial, Trials

COLUMNS = 100


def table(found: Trials) -> RenderableType:
    """Return the table: the baseline, then each trial, one key that it changes a line; below it what is missing."""
    base = found.baseline
    title = f"Trials from {shown(base.name, base.commit)}; loss: {found.cost}, out of fold, smaller is better"
    rows = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    rows.add_column("trial", overflow="fold", max_width=24)
    rows.add_column("changed", overflow="fold")
    for column in ("kept", "accuracy", "loss", "change", "95 % interval"):
        rows.add_column(column, justify="left" if column == "kept" else "right", no_wrap=True)
    for trial in (base, *found.trials):
        rows.add_row(trial.name, _changed(trial.changed), *_figures(trial))
    notes = [f"{trial.name}: {trial.note}" for trial in (base, *found.trials) if trial.note]
    return Group(rows, *map(Text, notes))


def _changed(changed: dict[str, Any]) -> str:
    return "\n".join(f"{key} removed" if value is None else f"{key}={_value(value)}" for key, value in changed.items())


def _value(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _figures(trial: Trial) -> tuple[str, str, str, str, str]:
    if trial.loss is None or trial.accuracy is None:
        return trial.state if trial.state != "done" else "unknown", "", "", "", ""
    kept, accuracy, loss = trial.kept or "", f"{trial.accuracy:.3f}", f"{trial.loss:.3f}"
    if trial.change is None:
        return kept, accuracy, loss, "", ""
    ends = trial.change.low, trial.change.high
    between = "none" if ends[0] is None or ends[1] is None else f"{signed(ends[0])} to {signed(ends[1])}"
    return kept, accuracy, loss, signed(trial.change.difference), between
