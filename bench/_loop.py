"""The plain training loop that Thaw is held against: every image through the whole network in every epoch, in eager.

It is a good loop of its kind: the frozen part is in eval mode under no_grad, so that no gradient is kept for it, files
are decoded by a DataLoader's workers, and validation runs once an epoch. Nothing of Thaw's speeds it up.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from thaw.activations.prefix import Views
from thaw.networks.spec import Spec
from thaw.pipeline.machine import usable_cores

Batch = tuple[Tensor, Tensor]
"""The network's input [images, channels, height, width], and targets: class indices or probabilities."""


@dataclass(frozen=True)
class Loop:
    """A network in training: a frozen part that gives a tuple of tensors, a part that takes them, its optimizer."""

    frozen: nn.Module
    trained: nn.Module
    optimizer: torch.optim.Optimizer
    to_train_mode: Callable[[nn.Module], object]
    memory_format: torch.memory_format

    def __post_init__(self) -> None:
        """Lay both parts out in memory as asked."""
        for part in (self.frozen, self.trained):
            _lay_out(part, self.memory_format)

    def train(self, batches: Iterable[Batch]) -> None:
        """Take a step on each batch."""
        self.frozen.eval()
        self.to_train_mode(self.trained)
        for images, targets in batches:
            step(self.trained, self.optimizer, self._boundary(images), targets)

    def epoch(self, train: Iterable[Batch], val: Iterable[Batch]) -> float:
        """Take a step on each batch of one and return the accuracy on the other."""
        self.train(train)
        return self.accuracy(val)

    @torch.inference_mode()
    def accuracy(self, batches: Iterable[Batch]) -> float:
        """Return the share of right answers; targets are class indices."""
        self.frozen.eval()
        self.trained.eval()
        right = [self.trained(*self._boundary(images)).argmax(dim=1) == labels for images, labels in batches]
        return float(torch.cat(right).double().mean())

    @torch.no_grad()
    def _boundary(self, images: Tensor) -> tuple[Tensor, ...]:
        boundary: tuple[Tensor, ...] = self.frozen(images.contiguous(memory_format=self.memory_format))
        return boundary


def step(trained: nn.Module, optimizer: torch.optim.Optimizer, boundary: tuple[Tensor, ...], targets: Tensor) -> float:
    """Take one step on a batch of boundary tensors and return its loss."""
    loss = functional.cross_entropy(trained(*boundary), targets)
    value = float(loss.detach())
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return value


def _lay_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    """Give every tensor of four axes this layout, without replacing the parameters that an optimizer knows."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=memory_format)


class ImageFiles(Dataset[tuple[Tensor, Any]]):
    """Image files as every common tool reads them: opened, made RGB, resized, mirrored at random, normalised."""

    def __init__(self, paths: list[Path], targets: NDArray[Any], spec: Spec, *, flip: str = "none") -> None:
        mirrors = [("horizontal", v2.RandomHorizontalFlip), ("vertical", v2.RandomVerticalFlip)]
        self._paths, self._targets = paths, torch.from_numpy(targets)
        self._transform = v2.Compose(
            [
                v2.Resize((spec.input_px, spec.input_px)),
                *(mirror() for name, mirror in mirrors if flip in {name, "both", "square"}),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(spec.mean, spec.std),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        with Image.open(self._paths[index]) as image:
            return cast("Tensor", self._transform(image.convert("RGB"))), self._targets[index]


def loader(images: ImageFiles, *, batch_size: int, workers: int | None, train: bool) -> DataLoader[Any]:
    """Return a loader of batches: shuffled and without an incomplete last one for training; None is a worker a core."""
    count = usable_cores() if workers is None else workers
    size = min(batch_size, len(images))
    return DataLoader(
        images,
        batch_size=size,
        shuffle=train,
        drop_last=train,
        num_workers=count,
        persistent_workers=count > 0,
        generator=torch.Generator().manual_seed(0),
    )


def rendered(views: Views, rows: NDArray[np.int64], targets: Tensor, *, view: int, batch_size: int) -> Iterator[Batch]:
    """Yield batches of packed images, no file opened: that view of each row, in order; the last may be smaller."""
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        yield views(chosen, np.full(len(chosen), view)), targets[start : start + batch_size]
