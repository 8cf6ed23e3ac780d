"""A bank of views on disk: the activations at the cut of every image and view, each computed once.

A cached view is an artifact folder under a key made of everything that its numbers depend on: the images, the
backbone, the cut, the engine with its version, the seed and the augmentation. Nothing else can be read by mistake,
and a folder that is cut short or altered is built again.
"""

import shutil
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from thaw import files, mapped, run, timing
from thaw.errors import ArtifactError, TrainingError
from thaw.images import views
from thaw.images.views import num_distinct
from thaw.network import boundary
from thaw.network.boundary import BATCH, Prefix, Rows, narrow, widen
from thaw.progress import progress

# What the numbers in a cached view and their order depend on, beside the engine.
_OUR_CODE = (Path(views.__file__), Path(boundary.__file__), Path(__file__))


class Cached:
    """Boundary activations of a fixed set of rows and views, read from memory-mapped files."""

    def __init__(self, prefix: Prefix, rows: Rows, num_views: int, *, label: str) -> None:
        """Open the cached views, computing those that are missing or damaged."""
        self._position = np.full(int(rows.max()) + 1, -1)
        self._position[rows] = np.arange(len(rows))
        distinct = num_distinct(num_views, prefix.views.augment)
        opened = [_open_view(prefix, rows, view, label) for view in range(distinct)]
        self._views = [opened[view % distinct] for view in range(num_views)]
        prefix.engine.release()  # what is cached need not be computed again

    @timing.counted("read")
    def batch(self, rows: Rows, views: Rows) -> list[Tensor]:
        """Return the boundary tensors of each (row, view) pair, float32."""
        positions = self._position[rows]
        assert positions.min() >= 0, "a row that is not in this bank"
        num_tensors = len(self._views[0])
        tensors = [
            widen([self._views[view][part][position] for position, view in zip(positions, views, strict=True)])
            for part in range(num_tensors)
        ]
        mapped.let_go(array for arrays in self._views for array in arrays)
        return tensors


def _open_view(prefix: Prefix, rows: Rows, view: int, label: str) -> list[NDArray[np.floating]]:
    folder = view_folder(prefix, rows, view)
    with files.one_at_a_time(folder):
        try:
            with timing.part("cache"):
                files.verify(folder)
        except ArtifactError:
            _compute_view(prefix, rows, view, folder, label)
        folder.touch()  # the time of last use decides what `make_room` deletes first
        return [mapped.open_array(path) for path in sorted(folder.glob("*.npy"))]


def view_folder(prefix: Prefix, rows: Rows, view: int) -> Path:
    """Return where the activations of one view of these rows are kept."""
    return run.scratch() / "cache" / _key(prefix, rows, view)


def _key(prefix: Prefix, rows: Rows, view: int) -> str:
    return files.digest(
        {
            "images": prefix.views.images.fingerprint,
            "prefix": prefix.identity,
            "made by": [*prefix.engine.made_by, *(files.sha256_of(path) for path in _OUR_CODE)],
            "input": prefix.views.spec.model_dump(mode="json"),
            "engine": prefix.engine.name,
            "rows": rows.tolist(),
            "view": view,
            "seed": prefix.views.seed if view else None,
            "augment": prefix.views.augment.model_dump(exclude={"average"}) if view else None,
            "dtype": prefix.trial.storage.name,
        }
    )


def _compute_view(prefix: Prefix, rows: Rows, view: int, folder: Path, label: str) -> None:
    """Write the activations batch by batch."""
    starts = range(0, len(rows), BATCH)
    storage = prefix.trial.storage
    _require_space(folder, prefix.trial.bytes_an_image * len(rows))
    with files.new_folder(folder) as partial, ExitStack() as stack:
        parts: list[BinaryIO] = []
        for start in progress(starts, total=len(starts), label=f"{label}, view {view}"):
            chosen = rows[start : start + BATCH]
            values = prefix(chosen, np.full(len(chosen), view))
            with timing.part("cache"):
                stored = [narrow(value, storage) for value in values]
                if not parts:
                    shapes = [(len(rows), *value.shape[1:]) for value in stored]
                    paths = (partial / f"{number:03d}.npy" for number in range(len(shapes)))
                    parts = [
                        stack.enter_context(mapped.new_array(path, shape, storage))
                        for path, shape in zip(paths, shapes, strict=True)
                    ]
                for file, value in zip(parts, stored, strict=True):
                    file.write(value.data)


class Space:
    """The room that the cache may take, shared by the banks of a phase; older views make way."""

    def __init__(self, limit_bytes: int) -> None:
        self.left_bytes = limit_bytes
        self._kept: list[Path] = []

    def take(self, bank: Collection[Path], size_bytes: int) -> None:
        """Make room for a bank of this size."""
        self._kept += bank
        self.left_bytes -= size_bytes
        make_room(self.left_bytes, keep=self._kept)


def make_room(limit_bytes: int, *, keep: Collection[Path] = ()) -> None:
    """Delete the views that were used longest ago until those not in `keep` take at most `limit_bytes`.

    What a killed run left half-written goes as well.
    """
    folders = [path for path in (run.scratch() / "cache").glob("*") if path.is_dir() and path not in keep]
    kept = 0
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
        if folder.name.startswith("."):
            with suppress(BlockingIOError), files.one_at_a_time(_whole(folder), wait=False):
                files.remove(folder)
            continue
        kept += sum(path.stat().st_size for path in folder.iterdir())
        if kept > limit_bytes:
            files.remove(folder)


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
