"""The command `compare`: what two revisions have answered is fetched, completed, and compared."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from thaw.compare.answers import PREDICTIONS, Answers, read_table
from thaw.compare.asking import EXPORT, Asked, ask
from thaw.compare.images import COLUMNS, SAMPLES, Images, learned_from, matched
from thaw.compare.outcome import Counts, Model, Outcome, gate_of, word_of
from thaw.compare.pairs import Pairs, paired
from thaw.config.schema import Metric, Params
from thaw.errors import ArtifactError, ThawError
from thaw.pipeline import revisions
from thaw.pipeline.revisions import Tree


def compare(champion: str, challenger: str | None, params: Params) -> Outcome:
    """Return how the model of a revision, or of the workspace for None, does against that of the revision `champion`.

    Raises: ThawError if a revision cannot be opened, and as `compare_trees`.
    """
    old = revisions.revision(champion)
    return compare_trees(old, revisions.here() if challenger is None else revisions.revision(challenger), params)


def compare_trees(champion: Tree, challenger: Tree, params: Params) -> Outcome:
    """Return how the model of one revision does against that of another.

    Metric, margin, draws and seed are those of `params`, whatever the revisions say.
    Raises: ThawError if the answers of one cannot be had, or no image is left to compare.
    """
    with tempfile.TemporaryDirectory(prefix="thaw-compare-") as name:
        old, new = _Run.of(champion, Path(name) / "champion"), _Run.of(challenger, Path(name) / "challenger")
        return _compared(old, new, params)


@dataclass(frozen=True)
class _Run:
    """The test answers of a revision, and the folder for what is fetched from it."""

    revision: Tree
    folder: Path
    answers: Answers

    @classmethod
    def of(cls, revision: Tree, folder: Path) -> "_Run":
        return cls(revision, folder, Answers.at(revision, folder))

    def samples(self) -> pd.DataFrame:
        return read_table(self.revision, SAMPLES, COLUMNS, self.folder)

    def tested(self) -> pd.DataFrame:
        """Return the rows of samples.csv of the images in predictions.csv. Raises: ArtifactError if one has none."""
        samples = self.samples().set_index("id", drop=False)
        if lacking := sorted({*self.answers.table.index} - {*samples.index}):
            raise ArtifactError(
                f"{PREDICTIONS} of {self.revision.shown} has {lacking[0]}, and {SAMPLES} has not; they are of two "
                "runs, so run `dvc repro` there"
            )
        return samples.loc[sorted(self.answers.table.index)]


def _compared(old: _Run, new: _Run, params: Params) -> Outcome:
    tested = new.tested()
    notes: list[str] = []
    images = _matched(old, new, tested, notes)
    metric, asked, asked_challenger = _asked(old, new, tested, images, params.select.metric, notes)
    groups = dict(zip(tested["id"], tested["group"], strict=True))
    pairs = paired(old.answers, new.answers, images, groups, asked=asked, asked_challenger=asked_challenger)
    metric = _with_unnamed(pairs, metric, notes)
    before, after, change = pairs.figures(metric, draws=params.evaluate.draws, seed=params.seed)
    return Outcome(
        champion=Model(revision=old.revision.name, commit=old.revision.commit, metrics=before),
        challenger=Model(revision=new.revision.name, commit=new.revision.commit, metrics=after),
        images=Counts(
            compared=len(pairs.labels),
            common=len(images.common),
            relabelled=len(images.relabelled),
            new=len(images.new),
            seen=len(images.seen),
            asked=0 if asked is None else len(asked.probabilities),
            gone=images.gone,
        ),
        metric=metric,
        change=change,
        word=word_of(change, metric),
        gate=gate_of(change, metric, params.compare.margin),
        notes=notes,
    )


def _matched(old: _Run, new: _Run, tested: pd.DataFrame, notes: list[str]) -> Images:
    """Return how the test images go together; without the champion's samples.csv it may have seen every new one."""
    fresh = {*tested["id"]} - {*old.answers.table.index}
    try:
        seen = learned_from(old.samples(), tested) if fresh else set()
    except ThawError as error:
        notes.append(f"new images are left out, since the champion may have learned from them: {error}")
        seen = fresh
    return matched(old.answers, new.answers, seen)


def _asked(
    old: _Run, new: _Run, tested: pd.DataFrame, images: Images, metric: Metric, notes: list[str]
) -> tuple[Metric, Asked | None, Asked | None]:
    """Return the metric to compare by, and what the exported models of champion and challenger answer if asked.

    They are asked where the tables lack what must be known: the champion about new and relabelled images, both about
    all of them for the ROC AUC of several classes. If that fails, a note says so, and the tables must do.
    """
    num_classes = len(old.answers.classes)
    if metric == "roc_auc" and max(num_classes, len(new.answers.classes)) > 2:
        rows = tested.loc[images.asked(num_classes, every=True)]
        try:
            asked, of_challenger = (ask(run.revision, new.revision, rows, run.folder) for run in (old, new))
            _name_unusable(asked, notes)
            return metric, asked, of_challenger
        except ThawError as error:
            notes.append(f"accuracy decides, since ROC AUC needs the probabilities of all classes: {error}")
            metric = "accuracy"
    rows = tested.loc[images.asked(num_classes, every=False)]
    if rows.empty:
        return metric, None, None
    try:
        asked = ask(old.revision, new.revision, rows, old.folder)
    except ThawError as error:
        notes.append(
            f"new or relabelled images are left out ({len(rows)}), since the champion's {EXPORT} cannot answer: {error}"
        )
        return metric, None, None
    _name_unusable(asked, notes)
    return metric, asked, None


def _name_unusable(asked: Asked, notes: list[str]) -> None:
    if asked.unusable:
        notes.append(f"images that the champion cannot use are left out ({len(asked.unusable)}): {asked.unusable[0]}")


def _with_unnamed(pairs: Pairs, metric: Metric, notes: list[str]) -> Metric:
    """Return the metric to compare by, accuracy instead of log loss if the champion does not know every label."""
    if not pairs.unnamed:
        return metric
    counts = ", ".join(f"{count} of {name}" for name, count in sorted(pairs.unnamed.items()))
    notes.append(
        f"images of classes that the champion does not know ({counts}) count as wrong; log losses cannot be compared"
    )
    return "accuracy" if metric == "log_loss" else metric
