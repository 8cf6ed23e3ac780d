"""The activation cache: the activations at the cut of every image and view, each computed once.

A cached view is an artifact folder under a key made of everything that its numbers depend on: the images, the
backbone, the cut, the engine with its version, the seed and the augmentation. Nothing else can be read by mistake,
and a folder that is cut short or altered is built again. The activations of an image do not depend on the others, so
where images were added, those of the others come from the view of before.
"""

import hashlib
import shutil
from collections.abc import Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from thaw import memory
from thaw.activations import prefix
from thaw.activations.prefix import BATCH, Prefix, narrow
from thaw.augment import views
from thaw.data.packed import Rows
from thaw.errors import ArtifactError, TrainingError
from thaw.pipeline import artifacts, scratch, timings
from thaw.progress import progress

_DIGITS = 32  # of a SHA-256 in the name of a folder
_CONTENTS = "contents.bin"  # in a folder: a hash of each image, in order
# What the numbers in a cached view and their order depend on, beside the engine.
_OUR_CODE = (Path(views.__file__), Path(prefix.__file__), Path(__file__))


def open_view(prefix: Prefix, rows: Rows, view: int, label: str) -> tuple[list[NDArray[np.floating]], bool]:
    """Return the boundary tensors of one view, memory-mapped, and whether they were missing or damaged, so computed.

    Where another process computes them at the moment, it is waited for.
    """
    folder, computed = view_folder(prefix, rows, view), False
    with artifacts.one_at_a_time(folder):
        try:
            with timings.part("cache"):
                artifacts.verify(folder)
            arrays = _opened(folder, len(rows))
        except ArtifactError:
            _compute_view(prefix, rows, view, folder, label)
            arrays, computed = _opened(folder, len(rows)), True
        folder.touch()  # the time of last use decides what `make_room` deletes first
        return arrays, computed


def _opened(folder: Path, num_rows: int) -> list[NDArray[np.floating]]:
    """Return the boundary tensors in a folder. Raises: ArtifactError if there is none, or one has other rows."""
    arrays = [memory.open_array(path) for path in sorted(folder.glob("*.npy"))]
    lengths = {len(array) for array in arrays}
    if lengths != {num_rows}:
        raise ArtifactError(
            f"{folder} holds activations of {sorted(lengths) or 'no'} images instead of {num_rows}; delete it and run "
            "`dvc repro` again"
        )
    return arrays


def view_folder(prefix: Prefix, rows: Rows, view: int) -> Path:
    """Return where the activations of one view of these rows are kept."""
    images = hashlib.sha256(_contents(prefix, rows).tobytes()).hexdigest()
    return scratch.folder() / "cache" / f"{_key(prefix, view)}-{images[:_DIGITS]}"


def _contents(prefix: Prefix, rows: Rows) -> NDArray[np.bytes_]:
    """Return what tells each image from others [rows]: a hash of its pixels and its id, by which views are drawn."""
    images, found = prefix.views.images, []
    ids = images.samples["id"].to_numpy()
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        for name, pixels in zip(ids[batch], images.read(batch), strict=True):
            found.append(hashlib.sha256(name.encode() + pixels.tobytes()).hexdigest().encode())
    return np.array(found, "S64")


def _key(prefix: Prefix, view: int) -> str:
    """Return a digest of what the activations of one view of any image depend on."""
    return artifacts.digest(
        {
            "prefix": prefix.identity,
            "made by": [*prefix.engine.made_by, *(artifacts.sha256_of(path) for path in _OUR_CODE)],
            "input": prefix.views.spec.model_dump(mode="json"),
            "engine": prefix.engine.identity,
            "view": view,
            "seed": prefix.views.seed if view else None,
            "augment": prefix.views.augment.model_dump(exclude={"tta"}) if view else None,
            "dtype": prefix.storage.name,
        }
    )[:_DIGITS]


def _compute_view(prefix: Prefix, rows: Rows, view: int, folder: Path, label: str) -> None:
    """Write the activations batch by batch, those that the view of before has as they are there."""
    starts = range(0, len(rows), BATCH)
    storage, contents = prefix.storage, _contents(prefix, rows)
    _require_space(folder, prefix.bytes_an_image * len(rows))
    known = _Before.of(folder, contents)
    with artifacts.new_folder(folder) as partial, ExitStack() as stack:
        parts: list[BinaryIO] = []
        for start in progress(starts, total=len(starts), label=f"{label}, view {view}"):
            chosen = slice(start, start + BATCH)
            missing = rows[chosen][known.places[chosen] < 0]
            values = prefix(missing, np.full(len(missing), view)) if len(missing) else []
            with timings.part("cache"):
                stored = known.completed(chosen, [narrow(value, storage) for value in values])
                if not parts:
                    shapes = [(len(rows), *value.shape[1:]) for value in stored]
                    paths = (partial / f"{number:03d}.npy" for number in range(len(shapes)))
                    parts = [
                        stack.enter_context(memory.new_array(path, shape, storage))
                        for path, shape in zip(paths, shapes, strict=True)
                    ]
                for file, value in zip(parts, stored, strict=True):
                    file.write(value.data)
        (partial / _CONTENTS).write_bytes(contents.tobytes())


@dataclass(frozen=True)
class _Before:
    """The activations of a view of other images, of which some are wanted again."""

    arrays: list[NDArray[np.floating]]
    places: Rows
    """Where each image that is wanted lies in them; -1 where it does not."""

    @classmethod
    def of(cls, folder: Path, contents: NDArray[np.bytes_]) -> Self:
        """Return what the last view that was used under the key of a folder has of these images."""
        key = folder.name.partition("-")[0]
        others = [path for path in folder.parent.glob(f"{key}-*") if path != folder]
        for other in sorted(others, key=_last_use, reverse=True)[:1]:
            with suppress(ArtifactError, BlockingIOError), artifacts.one_at_a_time(other, wait=False):
                artifacts.verify(other)
                there = np.frombuffer((other / _CONTENTS).read_bytes(), contents.dtype)
                place = {content: number for number, content in enumerate(there.tolist())}
                places = np.array([place.get(content, -1) for content in contents.tolist()], np.int64)
                return cls(_opened(other, len(there)), places)
        return cls([], np.full(len(contents), -1))

    def completed(self, chosen: slice, computed: list[NDArray[np.floating]]) -> list[NDArray[np.floating]]:
        """Return the activations of some of the wanted images, those that are not there being the computed ones."""
        places = self.places[chosen]
        is_there = places >= 0
        if not is_there.any():
            return computed
        found = [np.ascontiguousarray(array[places]) for array in self.arrays]
        for whole, part in zip(found, computed, strict=not is_there.all()):
            whole[~is_there] = part
        memory.drop_pages(self.arrays)
        return found


class Space:
    """The room that the cache may take, shared by the banks of a phase; older views make way."""

    def __init__(self, limit_bytes: int) -> None:
        self.left_bytes = limit_bytes
        self._kept: list[Path] = []

    def take(self, folders: Collection[Path], size_bytes: int) -> None:
        """Make room for the views in these folders, which take so many bytes."""
        self._kept += folders
        self.left_bytes -= size_bytes
        make_room(self.left_bytes, keep=self._kept)


def make_room(limit_bytes: int, *, keep: Collection[Path] = ()) -> None:
    """Delete the views that were used longest ago until those not in `keep` take at most `limit_bytes`.

    What a killed run left half-written goes as well. A view that another process opens or writes stays.
    """
    folders = [path for path in (scratch.folder() / "cache").glob("*") if path.is_dir() and path not in keep]
    kept = 0
    for folder in sorted(folders, key=_last_use, reverse=True):
        if folder.name.startswith("."):
            _remove(folder, _whole(folder))
            continue
        kept += _size_bytes(folder)
        if kept > limit_bytes:
            _remove(folder, folder)


def _remove(folder: Path, locked: Path) -> None:
    """Delete a folder of the cache unless the lock of `locked` is held."""
    with suppress(BlockingIOError), artifacts.one_at_a_time(locked, wait=False):
        artifacts.remove(folder)


def _last_use(folder: Path) -> float:
    with suppress(FileNotFoundError):  # another process has deleted it meanwhile
        return folder.stat().st_mtime
    return 0.0


def _size_bytes(folder: Path) -> int:
    with suppress(FileNotFoundError):
        return sum(path.stat().st_size for path in folder.iterdir())
    return 0


def _whole(partial: Path) -> Path:
    return partial.with_name(partial.name.removeprefix(".").removesuffix(".partial"))


def _require_space(folder: Path, needed: int) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise TrainingError(
            f"a view of the activation cache needs {needed / 2**30:.1f} GiB, but the disk of {folder.parent} has "
            f"{free / 2**30:.1f} GiB free; free some, lower compute.cache_gib or set views to 0"
        )
