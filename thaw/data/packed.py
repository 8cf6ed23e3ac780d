"""Packed images: every image of a data set as one square of uint8 or uint16, in large memory-mapped files.

50,000 small files cost DVC 24 s where one packed file costs 2.7 s (docs/design.md, section 2), and a training step
that reads a packed row neither opens nor decodes anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thaw import memory
from thaw.config.schema import PrepareParams
from thaw.data import shards as sharding
from thaw.data.pixel_values import Pixels
from thaw.data.spool import Spool
from thaw.errors import ArtifactError
from thaw.pipeline import artifacts, facts, tables, timings
from thaw.pipeline.data_facts import ClassNames, Preprocessing

Rows = NDArray[np.int64]
SHARD_BYTES = 2**28
"""So that little is stored and sent again where an image goes, and 100 GB are a few hundred files."""
COLUMNS = ("id", "path", "label", "split", "group", "sha256", "width", "height", "row", "confidence", "fold", "look")


@dataclass(frozen=True)
class PackedImages:
    """A prepared data set: its samples in row order, its classes in order, and its pixels, read on demand."""

    samples: pd.DataFrame
    classes: list[str]
    size_px: int
    channels: int
    fingerprint: str
    shards: tuple[Pixels, ...]
    places: Rows | None = None
    """Where each row lies, counted over all shards; None: in the order of the rows."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Return the data set in a folder that `prepare` wrote. Raises: ArtifactError if it is partial or altered."""
        fingerprint = artifacts.verify(folder)
        shards = tuple(memory.open_array(path) for path in sorted(folder.glob("images-*.npy")))
        samples = tables.read(folder / "samples.csv")
        num_images = sum(len(shard) for shard in shards)
        if tuple(samples.columns) != COLUMNS or len(samples) != num_images or not num_images:
            raise ArtifactError(
                f"{folder}: samples.csv has {len(samples)} rows for {num_images} images, or other columns than this "
                "version of Thaw writes; run `dvc repro --force prepare`"
            )
        _, size_px, _, channels = shards[0].shape
        classes = facts.read(folder / "classes.json", ClassNames).classes
        places = sharding.read_places(folder, num_images)
        return cls(samples, classes, size_px, channels, fingerprint, shards, places)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the pixels, uint8 or uint16."""
        return self.shards[0].dtype

    def read(self, rows: NDArray[np.int64]) -> Pixels:
        """Return the images of these rows, [images, height, width, channels], in the order asked for."""
        rows = np.asarray(rows, dtype=np.int64)
        out: Pixels = np.empty((len(rows), self.size_px, self.size_px, self.channels), self.dtype)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} asked for; there are {len(self)}")
        places = rows if self.places is None else self.places[rows]
        starts = np.cumsum([0, *(len(shard) for shard in self.shards)])
        shard_of = np.searchsorted(starts, places, side="right") - 1
        for number in np.unique(shard_of):
            here = shard_of == number
            out[here] = self.shards[number][places[here] - starts[number]]
        memory.drop_pages(self.shards)
        return out

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the rows of one split (train, val or test), ascending."""
        return np.flatnonzero((self.samples["split"] == split).to_numpy()).astype(np.int64)

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the class index of each of these rows."""
        index = {name: position for position, name in enumerate(self.classes)}
        return np.array([index[name] for name in self.samples["label"].to_numpy()[rows]], dtype=np.int64)


def preprocessing(settings: PrepareParams, dtype: str) -> Preprocessing:
    """Return settings.json: how an image became the packed square, with the type of the pixels if it is not uint8."""
    found = settings.model_dump(exclude={"near_copies", "max_leaks"})  # they change the split, and no pixel
    return Preprocessing.model_validate(found | {"dtype": None if dtype == "uint8" else dtype})


@timings.counted("write")
def write(
    folder: Path,
    samples: pd.DataFrame,
    spool: Spool,
    numbers: list[int],
    *,
    before: Sequence[Sequence[str]] = (),
    shard_bytes: int = SHARD_BYTES,
) -> tuple[int, str]:
    """Write shards, samples.csv and classes.json into a folder and return the number of channels and the pixels' type.

    Row i of `samples` describes image `numbers[i]` of the spool. `before` are the ids of the images in each shard of
    the data set that this one follows.
    """
    channels, dtype = spool.num_channels(numbers), spool.dtype(numbers)
    side = spool.read(numbers[0], channels, dtype).shape[0]
    per_shard = max(1, shard_bytes // (side * side * channels * dtype.itemsize))
    shards = sharding.compose(samples["id"].tolist(), before, per_shard)
    for number, rows in enumerate(shards):
        shape = (len(rows), side, side, channels)
        with memory.new_array(folder / f"images-{number:05d}.npy", shape, dtype) as file:
            for row in rows.tolist():
                file.write(np.ascontiguousarray(spool.read(numbers[row], channels, dtype)).data)
    sharding.write_places(folder, shards)
    tables.write(folder / "samples.csv", samples[list(COLUMNS)])
    facts.write(folder / "classes.json", ClassNames(classes=sorted(set(samples["label"]))))
    return channels, dtype.name


@dataclass(frozen=True)
class LabelledRows:
    """Rows of a data set, ascending, with their class indices and how sure each label is."""

    rows: Rows
    labels: NDArray[np.int64]
    confidence: NDArray[np.float64]


@dataclass(frozen=True)
class Fold:
    """A part of the development images on which to validate, and the others, on which to train."""

    train: LabelledRows
    val: LabelledRows


def folds_of(images: PackedImages) -> list[Fold]:
    """Return the folds of a data set in order; one where a part of the images was split off for validation."""
    fold = images.samples["fold"].to_numpy()
    development = (images.samples["split"] != "test").to_numpy()
    return [
        Fold(
            *(
                labelled_rows(images, np.flatnonzero(chosen))
                for chosen in (development & (fold != number), fold == number)
            )
        )
        for number in range(int(fold.max()) + 1)
    ]


def development_of(images: PackedImages) -> LabelledRows:
    """Return all rows but those of the test images."""
    return labelled_rows(images, np.flatnonzero((images.samples["split"] != "test").to_numpy()))


def labelled(images: PackedImages, split: str) -> LabelledRows:
    """Return the rows of a split with their labels and confidences."""
    return labelled_rows(images, images.rows(split))


def labelled_rows(images: PackedImages, rows: Rows) -> LabelledRows:
    """Return rows with their labels and confidences."""
    return LabelledRows(rows, images.labels(rows), images.samples["confidence"].to_numpy(np.float64)[rows])
