"""Packed images: every image of a data set as one square of uint8, in a few large memory-mapped files.

50,000 small files cost DVC 24 s where one packed file costs 2.7 s (docs/design.md, section 2), and a training step
that reads a packed row neither opens nor decodes anything.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thaw import files, timing
from thaw.errors import ArtifactError

SHARD_BYTES = 2**30
COLUMNS = ("id", "path", "label", "split", "group", "sha256", "width", "height", "row", "confidence")


@dataclass(frozen=True)
class PackedImages:
    """A prepared data set: its samples in row order, its classes in order, and its pixels, read on demand."""

    samples: pd.DataFrame
    classes: list[str]
    size_px: int
    channels: int
    fingerprint: str
    shards: tuple[NDArray[np.uint8], ...]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Return the data set in a folder that `prepare` wrote. Raises: ArtifactError if it is partial or altered."""
        fingerprint = files.verify(folder)
        shards = tuple(np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(folder.glob("images-*.npy")))
        samples = read_table(folder / "samples.csv")
        num_images = sum(len(shard) for shard in shards)
        if tuple(samples.columns) != COLUMNS or len(samples) != num_images or not num_images:
            raise ArtifactError(
                f"{folder}: samples.csv has {len(samples)} rows for {num_images} images, or other columns than this "
                "version of Thaw writes; run `dvc repro --force prepare`"
            )
        _, size_px, _, channels = shards[0].shape
        classes = files.read_json(folder / "classes.json")["classes"]
        return cls(samples, classes, size_px, channels, fingerprint, shards)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images of these rows, [images, height, width, channels], in the order asked for."""
        rows = np.asarray(rows, dtype=np.int64)
        out = np.empty((len(rows), self.size_px, self.size_px, self.channels), np.uint8)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} asked for; there are {len(self)}")
        first = 0
        for shard in self.shards:
            here = (rows >= first) & (rows < first + len(shard))
            out[here] = shard[rows[here] - first]
            first += len(shard)
        return out

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the rows of one split (train, val or test), ascending."""
        return np.flatnonzero((self.samples["split"] == split).to_numpy()).astype(np.int64)

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the class index of each of these rows."""
        index = {name: position for position, name in enumerate(self.classes)}
        return np.array([index[name] for name in self.samples["label"].to_numpy()[rows]], dtype=np.int64)


def read_table(path: Path) -> pd.DataFrame:
    """Return samples.csv with text kept as text: a class called `007` or `NA` keeps its name."""
    text = dict.fromkeys(("id", "path", "label", "split", "group", "sha256"), str)
    return pd.read_csv(path, dtype=text, keep_default_na=False, encoding="utf-8")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV (UTF-8) in one step, with floats that read back as they were."""
    # pandas would open the path itself: an out may be a hard link into DVC's cache, which that would alter.
    files.write_text(path, table.to_csv(index=False, lineterminator="\n"))


class Spool:
    """Decoded images on disk, one after the other, until it is known which are kept and whether all are grey.

    Images are [height, width, channels] with one channel or three; only one is in memory at a time.
    """

    def __init__(self, file: BinaryIO, size_px: int) -> None:
        self._file = file
        self._size_px = size_px
        self._places: list[tuple[int, int]] = []

    def append(self, image: NDArray[np.uint8]) -> int:
        """Store the next image and return its number."""
        self._places.append((self._file.tell(), image.shape[2]))
        self._file.write(np.ascontiguousarray(image).data)
        return len(self._places) - 1

    def num_channels(self, numbers: Iterable[int]) -> int:
        """Return 3 if any of these images is in colour, else 1."""
        return max((self._places[number][1] for number in numbers), default=1)

    def read(self, number: int, num_channels: int) -> NDArray[np.uint8]:
        """Return one image, grey repeated if `num_channels` is 3."""
        start, stored = self._places[number]
        self._file.seek(start)
        data = self._file.read(self._size_px**2 * stored)
        image = np.frombuffer(data, np.uint8).reshape(self._size_px, self._size_px, stored)
        return image if stored == num_channels else np.repeat(image, num_channels, axis=2)


@timing.counted("write")
def write(
    folder: Path,
    samples: pd.DataFrame,
    classes: list[str],
    spool: Spool,
    numbers: list[int],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Write shards, samples.csv and classes.json into a folder and return the number of channels.

    Row i of `samples` describes image `numbers[i]` of the spool.
    """
    channels = spool.num_channels(numbers)
    side = spool.read(numbers[0], channels).shape[0]
    per_shard = max(1, shard_bytes // (side * side * channels))
    for shard, chunk in enumerate(_chunks(numbers, per_shard)):
        shape = (len(chunk), side, side, channels)
        with (folder / f"images-{shard:05d}.npy").open("wb") as file:
            header: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for number in chunk:
                file.write(np.ascontiguousarray(spool.read(number, channels)).data)
    write_table(folder / "samples.csv", samples[list(COLUMNS)])
    files.write_json(folder / "classes.json", {"classes": classes})
    return channels


def _chunks(numbers: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
