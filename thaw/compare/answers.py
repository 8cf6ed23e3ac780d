"""What a model answered for the test images of its own run, as reports/predictions.csv and classes.json keep it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thaw.errors import ArtifactError
from thaw.pipeline import facts, tables
from thaw.pipeline.report_facts import ClassFigures
from thaw.pipeline.revisions import Tree

PREDICTIONS = "reports/predictions.csv"
CLASSES = "reports/classes.json"
_NEEDED = ("id", "label", "predicted", "probability", "label_probability")

Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """The answers of the model of a revision to its test images."""

    revision: Tree
    table: pd.DataFrame
    """predictions.csv, its rows named by the image's id."""
    classes: list[str]
    """All that the model can name, in the order of its probabilities."""

    @classmethod
    def at(cls, revision: Tree, folder: Path) -> Self:
        """Return the answers at a revision; files that must be fetched go below `folder`.

        Raises: ArtifactError if one cannot be had, or is not what `evaluate` writes.
        """
        figures = facts.read(revision.fetch(CLASSES, folder), ClassFigures)
        table = read_table(revision, PREDICTIONS, _NEEDED, folder)
        return cls(revision, table.set_index("id"), list(figures.root))

    def probabilities(self, ids: Sequence[str]) -> Probabilities:
        """Return probabilities [images, classes] of images in the table, as far as it has them.

        It has those of the answer and of the label. What is left of 1 is spread evenly over the other classes, which
        changes neither the answer nor the log loss; with two classes nothing is left.
        """
        rows = self.table.loc[list(ids)]
        index = {name: place for place, name in enumerate(self.classes)}
        said, label = (rows[name].map(index).to_numpy(np.int64) for name in ("predicted", "label"))
        top, own = (rows[name].to_numpy(np.float64) for name in ("probability", "label_probability"))
        wrong = said != label
        rest = (1 - top - np.where(wrong, own, 0)) / np.maximum(len(self.classes) - 1 - wrong, 1)
        if len(self.classes) > 2:
            rest = np.minimum(rest, top * (1 - 1e-9))  # rounding must not make another class the answer
        found: Probabilities = np.repeat(np.maximum(rest, 0)[:, None], len(self.classes), axis=1)
        found[np.arange(len(rows)), label] = own
        found[np.arange(len(rows)), said] = top
        return found


def read_table(revision: Tree, path: str, columns: Sequence[str], folder: Path) -> pd.DataFrame:
    """Return a table at a revision. Raises: ArtifactError if it cannot be had or lacks one of these columns."""
    fetched = revision.fetch(path, folder)
    try:
        table = tables.read(fetched)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} of {revision.shown} cannot be read ({error}); run `dvc repro` there") from None
    if missing := [name for name in columns if name not in table]:
        raise ArtifactError(f"{path} of {revision.shown} has no column {missing[0]}; run `dvc repro` there")
    return table


def in_classes(found: Probabilities, own: Sequence[str], classes: Sequence[str]) -> Probabilities:
    """Return probabilities [images, own] as [images, classes], each class of `own` in its place, 0 for all others."""
    wide = np.zeros((len(found), len(classes)))
    wide[:, [list(classes).index(name) for name in own]] = found
    return wide
