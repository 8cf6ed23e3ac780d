"""Pooled features: every image once through the whole frozen backbone, and what is known about each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from thaw import files
from thaw.images.pack import PackedImages
from thaw.params import AugmentParams
from thaw.progress import progress
from thaw.training.boundary import Prefix
from thaw.training.head import FeatureSet

_BATCH = 32
_MIRRORS = ("horizontal", "vertical")


@dataclass(frozen=True)
class Features:
    """What the head is fitted on: a set for training with all its views, one for validation, and their facts."""

    train: FeatureSet
    """Views of an image follow each other as blocks: first view 0 of every image, then view 1, and so on."""
    val: FeatureSet
    val_rows: NDArray[np.int64]
    facts: dict[str, Any]


def compute(prefix: Prefix, rows: NDArray[np.int64], view: int, *, label: str) -> NDArray[np.float32]:
    """Return the features [rows, features] of one view of each row."""
    starts = range(0, len(rows), _BATCH)
    parts = []
    for start in progress(starts, total=len(starts), label=f"features: {label}"):
        chosen = rows[start : start + _BATCH]
        parts.append(prefix(chosen, np.full(len(chosen), view))[0])
    return np.concatenate(parts)


def compute_mirrored(prefix: Prefix, rows: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """Return the features of each row's image mirrored left to right, and those of it mirrored top to bottom."""
    mirrored = []
    for flip in _MIRRORS:
        only = AugmentParams.model_validate(_STILL | {"flip": flip})
        mirrored.append(compute(prefix.seen_as(only), rows, 1, label=f"mirrored, {flip}"))
    return mirrored


def examples(images: PackedImages, rows: NDArray[np.int64], features: NDArray[np.float32]) -> FeatureSet:
    """Return features with the labels of their rows; `features` may hold several views of the rows, one after another."""
    repeats = len(features) // len(rows)
    confidence = images.samples["confidence"].to_numpy(np.float64)[rows]
    return FeatureSet(features, np.tile(images.labels(rows), repeats), np.tile(confidence, repeats))


def write(folder: Path, train: FeatureSet, val: FeatureSet, val_rows: NDArray[np.int64], facts: dict[str, Any]) -> None:
    """Write features.safetensors and features.json into a folder."""
    tensors = {f"{split}.{name}": value for split, part in (("train", train), ("val", val)) for name, value in vars(part).items()}
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


_STILL = {"crop_scale": 1.0, "rotate_deg": 0.0, "shift": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
