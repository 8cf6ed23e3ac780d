"""The activations at the cut, for any image and view: what goes in, what computes it, how it is stored."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw.activations.engine import Engine
from thaw.activations.session import Activations
from thaw.augment.draws import generator, representatives
from thaw.augment.views import render
from thaw.config.schema import AugmentParams, ComputeParams
from thaw.data.packed import PackedImages, Rows, development_of
from thaw.errors import TrainingError
from thaw.networks.spec import Spec
from thaw.pipeline import artifacts, timings

# Activations are stored as float16 if the largest one seen on a first batch leaves this much room below the format's
# largest number, 65504, and if what the suffix makes of the rounded ones is off by at most this share of its scale.
# Computed afresh they are rounded the same way, so that both give the same training run. A later one that float16
# cannot hold makes the whole phase start again in float32.
_HEADROOM = 8
LARGEST_CHANGE = 0.01
BATCH = 32
_CHECKED = 8


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


class HalfOverflowError(TrainingError):
    """An activation is beyond float16, in which a phase keeps them, and float32 holds it."""


@dataclass(frozen=True)
class Trial:
    """What a first batch of plain views gave and cost."""

    storage: np.dtype[np.floating]
    """The type that activations are kept in, unless a later one overflows it."""
    numbers_an_image: int
    """Numbers in one view of one image."""
    seconds_an_image: float
    """From packed pixels to activations."""
    shapes: list[tuple[int, ...]]
    """That of each boundary tensor for one image, maps with the axes that the suffix takes."""


def enlargement(input_px: int, size_px: int) -> str | None:
    """Return a line where a network's input is larger than the packed squares, which are then enlarged for it."""
    if input_px <= size_px:
        return None
    return (
        f"the network sees {input_px} px and prepare.size_px packs {size_px} px, so each image is enlarged; "
        f"set prepare.size_px to {round(input_px * 8 / 7)} to keep the images' detail"
    )


class Prefix:
    """The frozen part of a network, with the engine that runs it and the views that go through it."""

    def __init__(
        self,
        views: Views,
        module: nn.Module,
        *,
        identity: str,
        compute: ComputeParams,
        suffix: nn.Module | None = None,
    ) -> None:
        """Take the engine for these images. `identity` names the backbone's weights and the cut.

        `suffix`, what will be trained on the activations, has a say in how precisely they are stored.
        """
        if note := enlargement(views.spec.input_px, views.images.size_px):
            print(note)
        self.views, self.identity = views, identity
        self._suffix = suffix
        self._rows = _spread_rows(views.images)
        self._overflowed = False
        key = artifacts.digest([identity, views.spec.model_dump(mode="json")])
        with timings.part("engine"):
            sample, images = views.plain(self._rows), len(development_of(views.images).rows)
            self.engine = Engine(module, sample, key=key, compute=compute, num_images=images)

    def seen_as(self, augment: AugmentParams) -> "Prefix":
        """Return the same prefix and engine under another augmentation."""
        other = copy.copy(self)
        other.views = replace(self.views, augment=augment)
        return other

    @property
    def storage(self) -> np.dtype[np.floating]:
        """The type that activations are kept in: float16 where that does no harm, else float32."""
        return np.dtype(np.float32) if self._overflowed else self.trial.storage

    @property
    def bytes_an_image(self) -> int:
        """Size of one view of one image in that type."""
        return self.trial.numbers_an_image * self.storage.itemsize

    def store_as_float32(self) -> None:
        """Keep activations in float32 from here on: one of them is beyond float16."""
        self._overflowed = True

    def __call__(self, rows: Rows, views: Rows) -> Activations:
        """Return the activations of each (row, view) pair, one float32 array a boundary tensor.

        Torch's kernels depend on the size of a batch in their last digits, ONNX Runtime's do not. So torch always
        gets batches of one size, or a cached view would differ from the same view in another company.
        """
        slices = [slice(start, start + BATCH) for start in range(0, len(rows), BATCH)]
        parts = [self._batch(rows[chosen], views[chosen]) for chosen in slices]
        return [np.concatenate(values) for values in zip(*parts, strict=True)] if len(parts) > 1 else parts[0]

    def _batch(self, rows: Rows, views: Rows) -> Activations:
        missing = BATCH - len(rows) if self.engine.name != "onnxruntime" else 0
        with timings.part("read"):
            seen = self.views(np.pad(rows, (0, missing), "edge"), np.pad(views, (0, missing), "edge"))
        with timings.part("prefix"):
            return [value[: len(rows)] for value in self.engine(seen)]

    @cached_property
    def trial(self) -> Trial:
        """What a first batch of plain views gives and costs, measured once."""
        started = time.perf_counter()
        values = self(self._rows, np.zeros(len(self._rows), np.int64))
        seconds = time.perf_counter() - started
        storage = self._storage(values)
        numbers = sum(int(value[0].size) for value in values)
        return Trial(storage, numbers, seconds / len(self._rows), [value.shape[1:] for value in values])

    def _storage(self, values: Activations) -> np.dtype[np.floating]:
        half, single = np.dtype(np.float16), np.dtype(np.float32)
        largest = max(float(np.abs(value).max()) for value in values)
        if not largest * _HEADROOM < float(np.finfo(np.float16).max):
            return single
        chosen = np.linspace(0, len(values[0]) - 1, min(_CHECKED, len(values[0]))).round().astype(np.int64)
        few = [value[chosen] for value in values]
        return half if self._suffix is None or _change(self._suffix, few, half) <= LARGEST_CHANGE else single


def _spread_rows(images: PackedImages) -> Rows:
    """Return a batch of rows of the training and validation images, drawn over both and over their classes.

    The same whatever the seed of a run: the engine that they choose is kept for all of them.
    """
    parts = [images.rows(split) for split in ("train", "val")]
    rows = np.concatenate(parts)
    of_split = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    strata = of_split * len(images.classes) + images.labels(rows)
    chosen = representatives(strata, BATCH, seed=0, purpose="engine")
    drawn = np.sort(generator(0, "engine", "of more strata than fit").permutation(chosen)[:BATCH])
    spread: Rows = rows[drawn]
    return spread


@torch.inference_mode()
def _change(suffix: nn.Module, values: Activations, storage: np.dtype[np.floating]) -> float:
    """Return how far what a suffix gives moves if its input is rounded, as a share of the largest magnitude."""
    device = next(suffix.parameters()).device
    exact, rounded = (
        suffix.eval()(*(widen(narrow(value, dtype)).to(device) for value in values))
        for dtype in (np.dtype(np.float32), storage)
    )
    return float((rounded - exact).abs().max() / exact.abs().max().clamp_min(1e-12))


def narrow(value: NDArray[np.float32], dtype: np.dtype[np.floating]) -> NDArray[np.floating]:
    """Return activations in their storage type, contiguous, channels last if they are images of channels.

    Raises: TrainingError if one is no number, HalfOverflowError if one is beyond float16 and that is the type.
    """
    shown = np.moveaxis(value, 1, -1) if value.ndim == 4 else value
    narrowed = torch.from_numpy(shown).to(torch.float16 if dtype == np.float16 else torch.float32).contiguous()
    if not bool(narrowed.isfinite().all()):
        if np.isfinite(value).all():
            raise HalfOverflowError("an activation at the cut is beyond float16; keep them in float32")
        raise TrainingError(
            "an activation at the cut is NaN or infinite; choose another depth, "
            "or another backbone if it happens at each"
        )
    array: NDArray[np.floating] = narrowed.numpy()
    return array


def widen(stored: NDArray[np.floating] | Sequence[NDArray[np.floating]]) -> Tensor:
    """Return one stored activation per image as the float32 batch, channels last, that a suffix takes.

    Called in the background of training, so it leaves torch's threads alone: two teams of them on the same cores cost
    the training step a tenth of its time.
    """
    batch = np.empty((len(stored), *stored[0].shape), np.float32)
    for target, value in zip(batch, stored, strict=True):
        target[...] = value
    tensor = torch.from_numpy(batch)
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor
