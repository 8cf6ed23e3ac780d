"""The folder of pooled features: what the head is fitted on, written by one stage and read by the next."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import nn

from thaw import files, timing
from thaw.training.head import FeatureSet, logits_of


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


@timing.counted("write")
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
