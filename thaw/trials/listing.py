"""The command `trials`: what each experiment changes, and how it does against the commit that it starts from."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from thaw.config.schema import Metric, Params
from thaw.errors import ThawError
from thaw.evaluation.selection import COST_WORDS
from thaw.pipeline import revisions
from thaw.pipeline.report_facts import Comparison
from thaw.pipeline.revisions import Experiment, State
from thaw.trials.answers import Answers, change


class Trial(BaseModel):
    """A row of the table."""

    name: str
    commit: str
    state: State
    changed: dict[str, Any]
    """Keys of params.yaml with the value that the trial gives them; null for one that it removes."""
    kept: str | None = None
    """The candidate that the trial keeps; null, as what follows, while there is no answer of it."""
    accuracy: float | None = None
    loss: float | None = None
    """`Trials.cost` on all its development images."""
    images: int | None = None
    """How many are answered by both, under the same label; null, as the next, where nothing can be compared."""
    change: Comparison | None = None
    note: str | None = None
    """Why figures are missing."""


class Trials(BaseModel):
    """What `thaw trials --json` prints."""

    metric: Metric
    cost: str
    """What is compared, in words; the smaller the better."""
    baseline: Trial
    trials: list[Trial]


def trials(baseline: str, params: Params) -> Trials:
    """Return the experiments that start from a commit. Metric, draws and seed are those of `params` for all of them.

    Raises: RunError if there is no such commit.
    """
    start, found = revisions.experiments(baseline)
    with tempfile.TemporaryDirectory(prefix="thaw-trials-") as name:
        folder, metric = Path(name), params.select.metric
        first, reference = _row(start, start, None, params, folder / "baseline")
        rows = [_row(trial, start, reference, params, folder / trial.commit)[0] for trial in found]
    return Trials(metric=metric, cost=COST_WORDS[metric], baseline=first, trials=rows)


def _row(
    experiment: Experiment, start: Experiment, reference: Answers | None, params: Params, folder: Path
) -> tuple[Trial, Answers | None]:
    """Return a row, and the answers that it rests on."""
    row = Trial(
        name=experiment.name,
        commit=experiment.commit,
        state=experiment.state,
        changed=dict(differences(start.params, experiment.params)) if experiment.params else {},
    )
    if experiment.state != "done":  # until then DVC shows the figures of what it starts from
        return row, None
    try:
        answers = Answers.at(revisions.revision(experiment.commit), folder)
    except ThawError as error:
        return row.model_copy(update={"note": str(error)}), None
    metric, result = params.select.metric, answers.result(params.select.metric)
    figures = {"kept": answers.name, "accuracy": result.accuracy, "loss": result.cost}
    row = row.model_copy(update=figures)
    if reference is None:
        return row, answers
    found = change(answers, reference, metric, draws=params.select.draws, seed=params.seed)
    if found is None:
        return row.model_copy(update={"note": "no image that both answer, with the same classes"}), answers
    return row.model_copy(update={"images": found.images, "change": found.comparison}), answers


def differences(before: Mapping[str, Any], after: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of `after` whose values differ, and those of `before` that it lacks with None."""
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{above}{key}.")
        elif old != new or (key in before) != (key in after):
            yield f"{above}{key}", new
