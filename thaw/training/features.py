"""Pooled features: every image once through the whole frozen backbone, and what is known about each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import nn

from thaw import files
from thaw.images.pack import PackedImages
from thaw.images.views import still
from thaw.params import AugmentParams
from thaw.progress import progress
from thaw.training.boundary import Prefix
from thaw.training.head import FeatureSet, logits_of

_BATCH = 32


@dataclass(frozen=True)
class Features:
    """What the head is fitted on: a set for training with all its views, one for validation, and their facts."""

    train: FeatureSet
    """Views of an image follow each other as blocks: first view 0 of every image, then view 1, and so on."""
    val: FeatureSet
    """In blocks likewise, with the views that an answer is averaged over."""
    val_rows: NDArray[np.int64]
    facts: dict[str, Any]

    def val_answers(self, head: nn.Module) -> NDArray[np.float32]:
        """Return a head's logits [images, classes] on validation, averaged over the views of an answer."""
        logits = logits_of(head, self.val.features)
        averaged: NDArray[np.float32] = logits.reshape(-1, len(self.val_rows), logits.shape[1]).mean(axis=0)
        return averaged

    def val_labels(self) -> NDArray[np.int64]:
        """Return the class index of each validation image."""
        return self.val.labels[: len(self.val_rows)]


def compute(prefix: Prefix, rows: NDArray[np.int64], view: int, *, label: str) -> NDArray[np.float32]:
    """Return the features [rows, features] of one view of each row."""
    starts = range(0, len(rows), _BATCH)
    parts = []
    for start in progress(starts, total=len(starts), label=f"features: {label}"):
        chosen = rows[start : start + _BATCH]
        parts.append(prefix(chosen, np.full(len(chosen), view))[0])
    return np.concatenate(parts)


def compute_mirrored(
    prefix: Prefix, augment: AugmentParams, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the features of each row's image mirrored left to right, and those of it mirrored top to bottom."""

    def mirrored(flip: str) -> NDArray[np.float32]:
        only = still(augment).model_copy(update={"flip": flip})
        return compute(prefix.seen_as(only), rows, 1, label=f"mirrored, {flip}")

    return mirrored("horizontal"), mirrored("vertical")


def add_views(
    images: PackedImages, plain: FeatureSet, prefix: Prefix, rows: NDArray[np.int64], num_views: int
) -> FeatureSet:
    """Return the features of view 0 with those of the views up to `num_views` behind them."""
    others = [compute(prefix, rows, view, label=f"view {view}") for view in range(1, num_views)]
    return examples(images, rows, np.concatenate([plain.features, *others]))


def examples(images: PackedImages, rows: NDArray[np.int64], features: NDArray[np.float32]) -> FeatureSet:
    """Return features with the labels of their rows; `features` may hold several views, one after another."""
    repeats = len(features) // len(rows)
    confidence = images.samples["confidence"].to_numpy(np.float64)[rows]
    return FeatureSet(features, np.tile(images.labels(rows), repeats), np.tile(confidence, repeats))


def write(folder: Path, train: FeatureSet, val: FeatureSet, val_rows: NDArray[np.int64], facts: dict[str, Any]) -> None:
    """Write features.safetensors and features.json into a folder."""
    tensors = {
        f"{split}.{name}": value
        for split, part in (("train", train), ("val", val))
        for name, value in vars(part).items()
    }
    save_file({**tensors, "val.rows": val_rows}, folder / "features.safetensors")
    files.write_json(folder / "features.json", facts)


def read(folder: Path) -> Features:
    """Return what `write` wrote. Raises: ArtifactError if the folder is not whole."""
    fingerprint = files.verify(folder)
    tensors = load_file(folder / "features.safetensors")
    train, val = (
        FeatureSet(tensors[f"{split}.features"], tensors[f"{split}.labels"], tensors[f"{split}.confidence"])
        for split in ("train", "val")
    )
    facts = files.read_json(folder / "features.json")
    facts["lineage"]["features"] = fingerprint
    return Features(train, val, tensors["val.rows"], facts)
