"""The activations at the cut, for any image and view: computed once and cached on disk, or afresh on each call.

A cached view is an artifact folder under a key made of everything that its numbers depend on: the images, the
backbone, the cut, the engine with its version, the seed and the augmentation. Nothing else can be read by mistake,
and a folder that is cut short or altered is built again.
"""

import copy
import mmap
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw import files, run
from thaw.errors import ArtifactError, ParamsError, TrainingError
from thaw.images.pack import PackedImages
from thaw.images.views import render
from thaw.network.engine import Activations, Engine, one_at_a_time
from thaw.network.spec import Spec
from thaw.params import AugmentParams, ComputeParams
from thaw.progress import progress

Rows = NDArray[np.int64]

# Activations are stored as float16 if the largest one seen on a first batch leaves this much room below the format's
# largest number, 65504. Computed afresh they are rounded the same way, so that both give the same training run.
_HEADROOM = 8
_BATCH = 32


@dataclass(frozen=True)
class Views:
    """What the network sees: packed images under a seed and an augmentation."""

    images: PackedImages
    spec: Spec
    seed: int
    augment: AugmentParams

    def __call__(self, rows: Rows, views: Rows) -> Tensor:
        """Return the network's input for each (row, view) pair: [images, channels, input_px, input_px]."""
        ids = self.images.samples["id"].to_numpy()[rows]
        return render(
            self.images.read(rows),
            list(ids),
            [int(view) for view in views],
            seed=self.seed,
            augment=self.augment,
            input_px=self.spec.input_px,
            channels=self.spec.in_channels,
            mean=self.spec.input_mean,
            std=self.spec.input_std,
        )

    def plain(self, rows: Rows) -> Tensor:
        """Return view 0 of each row."""
        return self(rows, np.zeros(len(rows), np.int64))


class Prefix:
    """The frozen part of a network, with the engine that runs it and the views that go through it."""

    def __init__(self, views: Views, module: nn.Module, *, identity: str, compute: ComputeParams) -> None:
        """Choose an engine on a few real images. `identity` names the backbone's weights and the cut."""
        if views.spec.input_px > views.images.size_px:
            raise ParamsError(
                f"params.yaml: prepare.size_px is {views.images.size_px}, but the network sees "
                f"{views.spec.input_px} px; raise it to at least that, or set backbone.input_px"
            )
        self.views, self.identity = views, identity
        self._first = views.plain(np.arange(min(_BATCH, len(views.images))))
        key = files.digest([identity, views.spec.model_dump(mode="json")])
        self.engine = Engine(module, self._first, key=key, compute=compute)

    def seen_as(self, augment: AugmentParams) -> "Prefix":
        """Return the same prefix and engine under another augmentation."""
        other = copy.copy(self)
        other.views = replace(self.views, augment=augment)
        return other

    def __call__(self, rows: Rows, views: Rows) -> Activations:
        """Return the activations of each (row, view) pair, one float32 array a boundary tensor."""
        return self.engine(self.views(rows, views))

    @cached_property
    def storage(self) -> np.dtype[np.floating]:
        """The type that activations are kept in: float16 where they fit with room to spare."""
        largest = max(float(np.abs(value).max()) for value in self.engine(self._first))
        return np.dtype(np.float16 if largest * _HEADROOM < float(np.finfo(np.float16).max) else np.float32)

    def bank_bytes(self, num_images: int, num_views: int) -> int:
        """Return the bytes that the activations of a bank of views take on disk."""
        one = self.engine(self._first[:1])
        numbers = sum(int(value[0].size) for value in one)
        return numbers * self.storage.itemsize * num_images * num_views


class Fresh:
    """Boundary activations computed on every call; for views that are used once, or too many to keep."""

    def __init__(self, prefix: Prefix) -> None:
        self._prefix = prefix

    def batch(self, rows: Rows, views: Rows) -> list[Tensor]:
        """Return the boundary tensors of each (row, view) pair, float32."""
        return [_tensor(_narrow(value, self._prefix.storage)) for value in self._prefix(rows, views)]


class Cached:
    """Boundary activations of a fixed set of rows and views, read from memory-mapped files."""

    def __init__(self, prefix: Prefix, rows: Rows, num_views: int, *, label: str) -> None:
        """Open the cached views, computing those that are missing or damaged."""
        self._position = np.full(int(rows.max()) + 1, -1)
        self._position[rows] = np.arange(len(rows))
        self._views = [_open_view(prefix, rows, view, label) for view in range(num_views)]
        prefix.engine.release()  # what is cached need not be computed again

    def batch(self, rows: Rows, views: Rows) -> list[Tensor]:
        """Return the boundary tensors of each (row, view) pair, float32."""
        positions = self._position[rows]
        assert positions.min() >= 0, "a row that is not in this bank"
        num_tensors = len(self._views[0])
        tensors = [
            _tensor(
                np.stack([self._views[view][part][position] for position, view in zip(positions, views, strict=True)])
            )
            for part in range(num_tensors)
        ]
        self._let_go()
        return tensors

    def _let_go(self) -> None:
        """Unmap what was read: it stays in the system's cache, but a bank of a gibibyte no longer counts as ours."""
        mappings: list[object] = [array.base for arrays in self._views for array in arrays]
        for mapping in mappings:
            if isinstance(mapping, mmap.mmap):
                mapping.madvise(mmap.MADV_DONTNEED)


def _open_view(prefix: Prefix, rows: Rows, view: int, label: str) -> list[NDArray[np.floating]]:
    folder = view_folder(prefix, rows, view)
    with one_at_a_time(folder):
        try:
            files.verify(folder)
        except ArtifactError:
            _compute_view(prefix, rows, view, folder, label)
        folder.touch()  # the time of last use decides what `make_room` deletes first
        return [np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(folder.glob("*.npy"))]


def view_folder(prefix: Prefix, rows: Rows, view: int) -> Path:
    """Return where the activations of one view of these rows are kept."""
    return run.scratch() / "cache" / _key(prefix, rows, view)


def _key(prefix: Prefix, rows: Rows, view: int) -> str:
    return files.digest(
        {
            "images": prefix.views.images.fingerprint,
            "backbone": prefix.identity,
            "input": prefix.views.spec.model_dump(mode="json"),
            "engine": [prefix.engine.name, torch.__version__, onnxruntime.__version__],
            "rows": rows.tolist(),
            "view": view,
            "seed": prefix.views.seed if view else None,
            "augment": prefix.views.augment.model_dump() if view else None,
            "dtype": prefix.storage.name,
        }
    )


def _compute_view(prefix: Prefix, rows: Rows, view: int, folder: Path, label: str) -> None:
    starts = range(0, len(rows), _BATCH)
    with files.new_folder(folder) as partial:
        arrays: list[NDArray[np.floating]] = []
        for start in progress(starts, total=len(starts), label=f"{label}, view {view}"):
            chosen = rows[start : start + _BATCH]
            values = prefix(chosen, np.full(len(chosen), view))
            if not arrays:
                _require_space(partial, sum(value[0].nbytes for value in values) * len(rows))
                arrays = [
                    np.lib.format.open_memmap(
                        partial / f"{part:03d}.npy", "w+", prefix.storage, (len(rows), *value.shape[1:])
                    )
                    for part, value in enumerate(values)
                ]
            for array, value in zip(arrays, values, strict=True):
                array[start : start + len(chosen)] = _narrow(value, prefix.storage)
        for array in arrays:
            array.flush()  # type: ignore[attr-defined]


def make_room(limit_bytes: int, *, keep: Collection[Path] = ()) -> None:
    """Delete the views that were used longest ago until those not in `keep` take at most `limit_bytes`.

    What a killed run left half-written goes as well.
    """
    folders = [path for path in (run.scratch() / "cache").glob("*") if path.is_dir() and path not in keep]
    kept = 0
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
        if folder.name.startswith("."):
            with suppress(BlockingIOError), one_at_a_time(_whole(folder), wait=False):
                files.remove(folder)
            continue
        kept += sum(path.stat().st_size for path in folder.iterdir())
        if kept > limit_bytes:
            files.remove(folder)


def _whole(partial: Path) -> Path:
    return partial.with_name(partial.name.removeprefix(".").removesuffix(".partial"))


def _narrow(value: NDArray[np.float32], dtype: np.dtype[np.floating]) -> NDArray[np.floating]:
    with np.errstate(over="ignore"):
        narrowed = value.astype(dtype)
    if not np.isfinite(narrowed).all():
        raise TrainingError(
            "an activation at the cut is NaN, infinite or beyond float16; choose another depth, "
            "or another backbone if it happens at each"
        )
    return narrowed


def _tensor(value: NDArray[np.floating]) -> Tensor:
    tensor = torch.from_numpy(value).float()
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise TrainingError(
            f"a view of the activation cache needs {needed / 2**30:.1f} GiB, but the disk of {folder.parent} has "
            f"{free / 2**30:.1f} GiB free; free some, lower compute.cache_gib or set views to 0"
        )
