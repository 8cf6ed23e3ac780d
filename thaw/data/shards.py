"""Which image lies in which shard of data/prepared: new images go into new shards, and those before stay as they are.

DVC stores and sends a file whose bytes have changed as a whole. Were the images always packed in the order of their
paths, one more would move all that follow it, and change their shards. So the images of each shard that dvc.lock names
are looked up in DVC's cache, and shards whose images are all there again are packed again as they were. Without them,
as in a first run or in a clone that has not pulled, images are packed in the order of their paths.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from thaw import memory
from thaw.data.candidates import Numbers
from thaw.errors import ArtifactError
from thaw.pipeline import dvc_cache, tables

PLACES = "places.npy"
"""Of a data set that is not packed in the order of its rows: the place of each row, counted over all shards."""

_FULL = 0.5
_MOST_SMALL = 16  # shards that are less than half full; with more, their images are packed anew


def before(stage: str, folder: str) -> list[list[str]]:
    """Return the ids of the images in each shard of the data set that dvc.lock names; none if it is not at hand."""
    files = dvc_cache.files_of(stage, folder)
    if files is None:
        return []
    try:
        ids = tables.read(files["samples.csv"])["id"].to_numpy(object)
        lengths = [len(memory.open_array(path)) for name, path in sorted(files.items()) if name.startswith("images-")]
        places = np.load(files[PLACES], allow_pickle=False) if PLACES in files else np.arange(len(ids))
        packed = np.empty(len(ids), object)
        packed[places] = ids
    except (ArtifactError, OSError, ValueError, KeyError, IndexError):  # of another version of Thaw
        return []
    ends = np.cumsum(lengths)
    return [part.tolist() for part in np.split(packed, ends[:-1])] if sum(lengths) == len(ids) else []


def compose(ids: Sequence[str], earlier: Sequence[Sequence[str]], most: int) -> list[Numbers]:
    """Return the rows of each shard, of at most `most` images: those of before first, then of what is new.

    `ids` are those of the rows, `earlier` those of each shard of before. A shard that has lost an image is dissolved,
    and so are small ones where there are too many.
    """
    row_of = {name: row for row, name in enumerate(ids)}
    whole = [shard for shard in earlier if len(shard) <= most and all(name in row_of for name in shard)]
    small = [len(shard) < _FULL * most for shard in whole]
    if sum(small) > _MOST_SMALL:
        whole = [shard for shard, is_small in zip(whole, small, strict=True) if not is_small]
    shards = [np.array([row_of[name] for name in shard], np.int64) for shard in whole]
    left = np.ones(len(ids), bool)
    for shard in shards:
        left[shard] = False
    new = np.flatnonzero(left)
    return [*shards, *(new[at : at + most] for at in range(0, len(new), most))]


def write_places(folder: Path, shards: Sequence[Numbers]) -> None:
    """Write places.npy into a folder, unless the images lie in the order of their rows."""
    packed = np.concatenate(shards)
    if (packed != np.arange(len(packed))).any():
        np.save(folder / PLACES, np.argsort(packed))


def read_places(folder: Path, num_images: int) -> Numbers:
    """Return the place of each row. Raises: ValueError if that is no order of so many images."""
    path = folder / PLACES
    places: Numbers = np.load(path, allow_pickle=False) if path.exists() else np.arange(num_images)
    if places.shape != (num_images,) or not np.array_equal(np.sort(places), np.arange(num_images)):
        raise ValueError(f"{path} is no order of {num_images} images")
    return places
