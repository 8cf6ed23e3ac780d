"""Pooled features: images through the whole frozen backbone, once per view."""

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from thaw import memory
from thaw.activations.prefix import Prefix
from thaw.augment.views import num_answers, num_distinct, still
from thaw.config.schema import AugmentParams
from thaw.data.packed import PackedImages, development_of
from thaw.data.units import unit_numbers
from thaw.head.examples import FeatureSet
from thaw.head.features import file_of
from thaw.progress import progress

_BATCH = 32


def compute_all(
    prefix: Prefix, rows: NDArray[np.int64], chosen: NDArray[np.int64], view: int = 0, *, label: str, path: Path
) -> list[NDArray[np.float32]]:
    """Return the features [rows, features] of one view of each row, and the prefix's further outputs of some rows.

    `chosen` has the places of the latter in `rows`, in ascending order. The features are written to `path`, a new .npy
    file, as they come, and are read from there.
    """
    starts = range(0, len(rows), _BATCH)
    parts: list[list[NDArray[np.float32]]] = []
    file: BinaryIO | None = None
    with ExitStack() as stack:
        for start in progress(starts, total=len(starts), label=f"features: {label}"):
            batch = rows[start : start + _BATCH]
            features, *others = prefix(batch, np.full(len(batch), view))
            kept = chosen[(chosen >= start) & (chosen < start + _BATCH)] - start
            parts.append([value[kept] for value in others])
            if file is None:
                shape = (len(rows), features.shape[1])
                file = stack.enter_context(memory.new_array(path, shape, np.dtype(np.float32)))
            file.write(np.ascontiguousarray(features).data)
    return [memory.open_array(path), *(np.concatenate(values) for values in zip(*parts, strict=True))]


def compute(prefix: Prefix, rows: NDArray[np.int64], view: int, *, label: str, path: Path) -> NDArray[np.float32]:
    """Return the features [rows, features] of one view of each row, written to `path`."""
    return compute_all(prefix, rows, np.zeros(0, np.int64), view, label=label, path=path)[0]


def compute_mirrored(
    prefix: Prefix, augment: AugmentParams, rows: NDArray[np.int64], folder: Path
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the features of each row's image mirrored left to right, and those of it mirrored top to bottom.

    They pass through files in `folder`, of which none is left.
    """

    def mirrored(flip: str) -> NDArray[np.float32]:
        only = still(augment).model_copy(update={"flip": flip})
        path = folder / f"{flip}.npy"
        found = compute(prefix.seen_as(only), rows, 1, label=f"mirrored, {flip}", path=path)
        path.unlink()  # what is mapped stays until it is let go
        return found

    return mirrored("horizontal"), mirrored("vertical")


def add_views(folder: Path, prefix: Prefix, augment: AugmentParams, known: "Development", num_views: int) -> None:
    """Write the features of the views from 1 on: those of an answer, and up to `num_views` of those trained on.

    Where the images that are trained on are validated on as well, and views only mirror, they are the same.
    """
    answers = prefix.seen_as(still(augment))
    for view in range(1, num_distinct(num_answers(augment), answers.views.augment)):
        path = file_of(folder, "val", view)
        compute(answers, known.validated, view, label=f"view {view} of an answer", path=path)
    trained = prefix.seen_as(augment)
    same = len(known.trained) == len(known.validated) and still(augment) == augment
    for view in range(1, num_distinct(num_views, augment)):
        path = file_of(folder, "train", view)
        if same and (there := file_of(folder, "val", view)).exists():
            shutil.copyfile(there, path)
        else:
            compute(trained, known.trained, view, label=f"view {view} to train on", path=path)


@dataclass(frozen=True)
class Development:
    """The rows of the development images, ascending, and which of them are trained and validated on."""

    rows: NDArray[np.int64]
    fold: NDArray[np.int64]
    """The fold in which each is validated on; -1: in none."""

    @classmethod
    def of(cls, images: PackedImages) -> Self:
        """Return the development images of a data set."""
        rows = development_of(images).rows
        return cls(rows, images.samples["fold"].to_numpy(np.int64)[rows])

    @property
    def trained(self) -> NDArray[np.int64]:
        """The rows that a fold trains on, or more than one does."""
        return self.rows if self.fold.max() > 0 else self.rows[self.fold < 0]

    @property
    def validated(self) -> NDArray[np.int64]:
        """The rows that a fold validates on."""
        return self.rows[self.fold >= 0]


def examples(images: PackedImages, rows: NDArray[np.int64], features: NDArray[np.float32]) -> FeatureSet:
    """Return features of one view of these rows with their labels."""
    confidence = images.samples["confidence"].to_numpy(np.float64)[rows]
    return FeatureSet(features, images.labels(rows), confidence, unit_numbers(images.samples)[rows])
