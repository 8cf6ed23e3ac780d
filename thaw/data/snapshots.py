"""What `prepare` wrote, as a revision or the workspace has it: the tables, and single pictures of the packed ones."""

import io
import json
import os
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from thaw.data import accepted
from thaw.data.accepted import Accepted
from thaw.data.pixel_values import Pixels
from thaw.data.shards import PLACES
from thaw.errors import ArtifactError, first_line
from thaw.pipeline import artifacts, facts, revisions, tables
from thaw.pipeline.data_facts import NearDuplicates
from thaw.pipeline.revisions import Tree

STAGE, FOLDER = "prepare", "data/prepared"
_FILES = ("samples.csv", "rejected.csv", "audit.json")
_NEEDED = ("path", "label", "split", "sha256", "row")


@dataclass(frozen=True, order=True)
class Image:
    """A row of samples.csv."""

    path: str
    label: str
    split: str
    """train, val or test."""
    fold: int
    """The fold in which it validates; -1 for none."""
    sha256: str
    row: int
    """Its place among the packed images."""


@dataclass(frozen=True)
class Snapshot:
    """A prepared data set, without its pixels."""

    name: str
    """The revision, or the workspace."""
    images: list[Image]
    rejected: dict[str, str]
    """The reason by path."""
    accepted: Accepted
    """Which rejections the team has accepted."""
    alike: list[list[str]]
    """For each listed group of images that look alike across splits or folds, the paths of its first images."""
    num_alike: int
    """How many such groups there are."""

    @property
    def num_folds(self) -> int:
        """Into how many folds the development images are divided; 1 is one split into train and val."""
        return max((image.fold for image in self.images), default=0) + 1 or 1


def read(tree: Tree) -> Snapshot:
    """Return the data set of a revision, or of the workspace.

    Raises: ArtifactError if a file cannot be had, is not what its manifest says, or is of another version of Thaw.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in (artifacts.MANIFEST, *_FILES):
            (folder / name).write_bytes(tree.read(f"{FOLDER}/{name}"))
        try:
            artifacts.verify(folder, only=_FILES)
        except ArtifactError:
            raise ArtifactError(
                f"{FOLDER} of {tree.name} is not what its manifest says; run `chmod -R u+w .dvc/cache` to have DVC "
                f"check its copies, then `dvc fetch --all-commits {FOLDER}`"
            ) from None
        try:
            found = _parsed(tree.name, folder)
        except (ArtifactError, ValueError, KeyError) as error:
            said = first_line(error).replace(f"{folder}{os.sep}", "").partition(";")[0]
            raise ArtifactError(
                f"{FOLDER} of {tree.name} was written by another version of Thaw ({said}); compare with a later "
                "revision"
            ) from None
    return replace(found, accepted=accepted.read(tree))


def _parsed(name: str, folder: Path) -> Snapshot:
    samples, rejected = (tables.read(folder / table) for table in ("samples.csv", "rejected.csv"))
    columns = [samples[column].tolist() for column in _NEEDED]
    folds = samples["fold"].tolist() if "fold" in samples else [-1] * len(samples)
    near = facts.checked(
        artifacts.read_json(folder / "audit.json")["near_duplicates"], folder / "audit.json", NearDuplicates
    )
    return Snapshot(
        name,
        [
            Image(path, label, split, int(fold), sha256, int(row))
            for path, label, split, sha256, row, fold in zip(*columns, folds, strict=True)
        ],
        dict(zip(rejected["path"], rejected["reason"], strict=True)),
        frozenset(),
        [group.paths for group in near.first if len(group.splits) > 1],
        near.groups_across_splits,
    )


def read_squares(tree: Tree, rows: Collection[int]) -> dict[int, Pixels]:
    """Return the packed images [height, width, channels] of these rows; no other row is read.

    Raises: ArtifactError if they cannot be had.
    """
    found: dict[int, Pixels] = {}
    first, shard = 0, 0
    row_at = _rows_at(tree, rows)
    while wanted := sorted(place for place, row in row_at.items() if row not in found):
        with tree.open(f"{FOLDER}/images-{shard:05d}.npy") as file:
            header = _header(file)
            start, num_images = file.tell(), header.shape[0]
            for place in wanted:
                if place < first + num_images:
                    file.seek(start + (place - first) * header.bytes_an_image)
                    square: Pixels = np.frombuffer(file.read(header.bytes_an_image), header.dtype)
                    found[row_at[place]] = square.reshape(header.shape[1:])
        first, shard = first + num_images, shard + 1
    return found


def _rows_at(tree: Tree, rows: Collection[int]) -> dict[int, int]:
    """Return these rows by the places of their images, counted over all shards."""
    if PLACES not in json.loads(tree.read(f"{FOLDER}/{artifacts.MANIFEST}"))["files"]:
        return {row: row for row in rows}
    places = np.load(io.BytesIO(tree.read(f"{FOLDER}/{PLACES}")), allow_pickle=False)
    return {int(places[row]): row for row in rows}


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[np.uint8] | np.dtype[np.uint16]

    @property
    def bytes_an_image(self) -> int:
        return int(np.prod(self.shape[1:])) * self.dtype.itemsize


def _header(file: BinaryIO) -> _Header:
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return _Header(shape, dtype)


def of(name: str | None) -> tuple[Tree, Snapshot]:
    """Return the files and the data set of a revision; None is the workspace. Raises: ThawError as the above do."""
    tree = revisions.workspace(STAGE, FOLDER) if name is None else revisions.revision(name)
    return tree, read(tree)
