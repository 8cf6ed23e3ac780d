"""The folder of pooled features: what the head is fitted on, written by one stage and read by the next.

A file for each split and view, written batch by batch: only the head has all features in memory.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import nn

from thaw import memory
from thaw.head.examples import FeatureSet, Labels
from thaw.head.layers import logits_of
from thaw.pipeline import artifacts, facts, timings
from thaw.pipeline.facts import FeaturesFacts

_LABELS = "labels.safetensors"


@dataclass(frozen=True)
class Features:
    """What the head is fitted on: a set for training with all its views, one for validation, and their facts."""

    train: FeatureSet
    """Views of an image follow each other as blocks: first view 0 of every image, then view 1, and so on."""
    val: FeatureSet
    """In blocks likewise, with the views that an answer is averaged over."""
    val_rows: NDArray[np.int64]
    facts: FeaturesFacts

    def val_answers(self, head: nn.Module) -> NDArray[np.float32]:
        """Return a head's logits [images, classes] on validation, averaged over the views of an answer."""
        logits = logits_of(head, self.val.features)
        averaged: NDArray[np.float32] = logits.reshape(-1, len(self.val_rows), logits.shape[1]).mean(axis=0)
        return averaged

    def val_labels(self) -> NDArray[np.int64]:
        """Return the class index of each validation image."""
        return self.val.labels[: len(self.val_rows)]


def file_of(folder: Path, split: str, view: int) -> Path:
    """Return the file of the features [images, features] of one view of a split."""
    return folder / f"{split}-{view:02d}.npy"


@timings.counted("write")
def write(folder: Path, train: FeatureSet, val: FeatureSet, val_rows: NDArray[np.int64], stored: FeaturesFacts) -> None:
    """Write labels.safetensors and features.json beside the features, which are in the folder already."""
    tensors = {
        f"{split}.{name}": value
        for split, part in (("train", train), ("val", val))
        for name, value in (("labels", part.labels), ("confidence", part.confidence))
    }
    save_file({**tensors, "val.rows": val_rows}, folder / _LABELS)
    facts.write(folder / "features.json", stored)


def read(folder: Path) -> Features:
    """Return what is in a folder. Raises: ArtifactError if it is not whole."""
    fingerprint = artifacts.verify(folder)
    known = load_file(folder / _LABELS)
    train, val = (
        _all_views(folder, split, known[f"{split}.labels"], known[f"{split}.confidence"]) for split in ("train", "val")
    )
    stored = facts.read(folder / "features.json", FeaturesFacts)
    lineage = stored.lineage.model_copy(update={"features": fingerprint})
    return Features(train, val, known["val.rows"], stored.model_copy(update={"lineage": lineage}))


def _all_views(folder: Path, split: str, labels: Labels, confidence: NDArray[np.float64]) -> FeatureSet:
    num_views = len(list(folder.glob(f"{split}-*.npy")))
    parts = [memory.open_array(file_of(folder, split, view)) for view in range(num_views)]
    features = np.empty((num_views * len(labels), parts[0].shape[1]), np.float32)
    for place, part in zip(np.split(features, num_views), parts, strict=True):
        place[:] = part
        memory.drop_pages([part])
    return FeatureSet(features, np.tile(labels, num_views), np.tile(confidence, num_views))
