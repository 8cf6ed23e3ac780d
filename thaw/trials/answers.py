"""The out-of-fold answers of the candidate that a trial keeps, and what changes from one trial to another."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from thaw.config.schema import Metric
from thaw.errors import ArtifactError
from thaw.evaluation.comparison import Candidate, Result, choose
from thaw.evaluation.selection import read_groups
from thaw.pipeline import candidates, facts, tables
from thaw.pipeline.model_facts import ModelFacts
from thaw.pipeline.report_facts import Comparison, Selection
from thaw.pipeline.revisions import Tree

SELECTION = "reports/selection.json"
PHASES = Path("models/phases")
SAMPLES = "data/prepared/samples.csv"
BASELINE = "baseline"


@dataclass(frozen=True)
class Images:
    """The images of the rows of samples.csv: what names them in every revision, and their groups."""

    ids: NDArray[Any]
    groups: NDArray[Any]

    @classmethod
    def at(cls, samples: Path, rows: NDArray[np.int64]) -> Self:
        """Return those of these rows. Raises: ArtifactError if the table is missing or has no such rows."""
        groups = read_groups(samples, rows)
        return cls(tables.read(samples).set_index("row")["id"][rows].to_numpy(dtype=object), groups)


@dataclass(frozen=True)
class Answers:
    """What a candidate answers for the development images, each from a network that has not seen it."""

    name: str
    """The candidate."""
    classes: list[str]
    logits: NDArray[np.floating]
    """[images, classes]"""
    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    """The fold in which each image is validated on."""
    images: Images

    @classmethod
    def at(cls, tree: Tree, folder: Path, name: str | None = None) -> Self:
        """Return the answers of a candidate of a revision, of the one that it keeps for None; files go below `folder`.

        Raises: ThawError if they cannot be had.
        """
        name = facts.read(tree.fetch(SELECTION, folder), Selection).chosen if name is None else name
        phase = candidates.folder_of(PHASES, name).as_posix()
        model = facts.read(tree.fetch(f"{phase}/model.json", folder), ModelFacts)
        return cls.read(
            name, model.classes, tree.fetch(f"{phase}/validation.safetensors", folder), tree.fetch(SAMPLES, folder)
        )

    @classmethod
    def read(cls, name: str, classes: Sequence[str], path: Path, samples: Path) -> Self:
        """Return the answers in a file. Raises: ArtifactError if it holds none."""
        try:
            found = load_file(path)
            logits, labels, rows, folds = (found[key] for key in ("logits", "labels", "rows", "folds"))
        except (OSError, SafetensorError, KeyError) as error:
            raise ArtifactError(f"{path} holds no answers ({error}); run `dvc repro` in that trial") from None
        return cls(name, list(classes), logits, labels, folds, Images.at(samples, rows))

    def of(self, places: NDArray[np.int64]) -> "Answers":
        """Return the answers for some of the images."""
        images = Images(self.images.ids[places], self.images.groups[places])
        return Answers(self.name, self.classes, self.logits[places], self.labels[places], self.folds[places], images)

    def result(self, metric: Metric) -> Result:
        """Return accuracy and cost, and nothing that is compared."""
        return _chosen([Candidate(self.name, None, self.logits)], self, metric, draws=1, seed=0)[0]


@dataclass(frozen=True)
class Change:
    """From the baseline to a trial, on the images that both answer under the same label."""

    images: int
    comparison: Comparison


def change(trial: Answers, baseline: Answers, metric: Metric, *, draws: int, seed: int) -> Change | None:
    """Return how a trial does against the baseline on their common images; None without one, or with other classes.

    Temperatures are fitted again, on the common images of other folds of the baseline.
    """
    if trial.classes != baseline.classes:
        return None
    place = {name: index for index, name in enumerate(trial.images.ids)}
    ours = np.array([place.get(name, -1) for name in baseline.images.ids], np.int64)
    both = np.flatnonzero(ours >= 0)
    both = both[trial.labels[ours[both]] == baseline.labels[both]]
    if not len(both):
        return None
    before, after = baseline.of(both), trial.of(ours[both])
    pair = [Candidate(BASELINE, None, before.logits), Candidate(trial.name, None, after.logits)]
    against = _chosen(pair, before, metric, draws=draws, seed=seed)[1].against_head
    assert against is not None
    return Change(len(both), against)


def _chosen(pair: list[Candidate], images: Answers, metric: Metric, *, draws: int, seed: int) -> list[Result]:
    return choose(
        pair,
        images.labels,
        min_win_rate=0.5,
        draws=draws,
        seed=seed,
        metric=metric,
        folds=images.folds,
        groups=images.images.groups,
    )
