"""The folder of pooled features: what the head is fitted on, written by one stage and read by the next.

The plain view of every development image, and a file for each further view of those that are trained on and of those
that are validated on, written batch by batch: only the head has all features in memory.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import nn

from thaw import memory
from thaw.head.examples import FeatureSet
from thaw.head.layers import logits_of
from thaw.pipeline import artifacts, facts, timings
from thaw.pipeline.model_facts import FeaturesFacts

_LABELS = "labels.safetensors"


@dataclass(frozen=True)
class Features:
    """Features of the development images: what heads are fitted on and, for images left out, what they answer for."""

    train: FeatureSet
    """Of the images that are trained on, with all their views as blocks: view 0 of every image, then view 1, ..."""
    train_rows: NDArray[np.int64]
    val: FeatureSet
    """Of the images that are validated on, in blocks likewise, with the views that an answer is averaged over."""
    val_rows: NDArray[np.int64]
    val_folds: NDArray[np.int64]
    """The fold in which each of these is validated on."""
    facts: FeaturesFacts

    @property
    def num_folds(self) -> int:
        """How often a head is fitted to answer for images that it has not seen."""
        return int(self.val_folds.max()) + 1

    def of_fold(self, number: int) -> "Features":
        """Return what a fold trains on and validates on; with one fold that is all there is."""
        if self.num_folds == 1:
            return self
        out = self.val_folds == number
        kept = ~np.isin(self.train_rows, self.val_rows[out])
        views, answers = len(self.train.labels) // len(kept), len(self.val.labels) // len(out)
        return replace(
            self,
            train=self.train[np.tile(kept, views)],
            train_rows=self.train_rows[kept],
            val=self.val[np.tile(out, answers)],
            val_rows=self.val_rows[out],
            val_folds=np.zeros(int(out.sum()), np.int64),
        )

    def val_answers(self, head: nn.Module) -> NDArray[np.float32]:
        """Return a head's logits [images, classes] on validation, averaged over the views of an answer."""
        logits = logits_of(head, self.val.features)
        averaged: NDArray[np.float32] = logits.reshape(-1, len(self.val_rows), logits.shape[1]).mean(axis=0)
        return averaged

    def val_labels(self) -> NDArray[np.int64]:
        """Return the class index of each validation image."""
        return self.val.labels[: len(self.val_rows)]


def file_of(folder: Path, part: str, view: int) -> Path:
    """Return the file of the features [images, features] of one view: of `train`, of `val`, or `plain` of both."""
    return folder / f"{part}-{view:02d}.npy"


@timings.counted("write")
def write(
    folder: Path, development: FeatureSet, rows: NDArray[np.int64], fold: NDArray[np.int64], stored: FeaturesFacts
) -> None:
    """Write labels.safetensors and features.json beside the features, which are in the folder already.

    `development` has the plain view of the development images, `rows` and `fold` are theirs in samples.csv.
    """
    assert development.units is not None
    known = {
        "rows": rows,
        "fold": fold,
        "labels": development.labels,
        "confidence": development.confidence,
        "units": development.units,
    }
    save_file(known, folder / _LABELS)
    facts.write(folder / "features.json", stored)


def read(folder: Path) -> Features:
    """Return what is in a folder. Raises: ArtifactError if it is not whole."""
    fingerprint = artifacts.verify(folder)
    known = load_file(folder / _LABELS)
    rows, fold = known["rows"], known["fold"]
    trained = np.arange(len(rows)) if fold.max() > 0 else np.flatnonzero(fold < 0)
    validated = np.flatnonzero(fold >= 0)
    stored = facts.read(folder / "features.json", FeaturesFacts)
    lineage = stored.lineage.model_copy(update={"features": fingerprint})
    return Features(
        _all_views(folder, "train", trained, known),
        rows[trained],
        _all_views(folder, "val", validated, known),
        rows[validated],
        fold[validated],
        stored.model_copy(update={"lineage": lineage}),
    )


def _all_views(folder: Path, part: str, chosen: NDArray[np.int64], known: dict[str, NDArray[Any]]) -> FeatureSet:
    """Return the features of some of the development images: the plain view, then the further ones of their part."""
    plain = memory.open_array(file_of(folder, "plain", 0))
    further = [memory.open_array(path) for path in sorted(folder.glob(f"{part}-*.npy"))]
    num_views = 1 + len(further)
    features = np.empty((num_views * len(chosen), plain.shape[1]), np.float32)
    first, *places = np.split(features, num_views)
    np.take(plain, chosen, axis=0, out=first)
    memory.drop_pages([plain])
    for place, view in zip(places, further, strict=True):
        place[:] = view
        memory.drop_pages([view])
    labels, confidence, units = (np.tile(known[name][chosen], num_views) for name in ("labels", "confidence", "units"))
    return FeatureSet(features, labels, confidence, units)
