"""The batches of a phase: what each epoch sees in which order, and the loss of a model on one of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from thaw.draws import balanced_order, epoch_order, epoch_views, generator
from thaw.errors import TrainingError
from thaw.head.examples import soft_targets
from thaw.params import PhaseParams
from thaw.training.balance import mix
from thaw.training.prefetch import ahead
from thaw.training.schedule import steps_per_epoch

Rows = NDArray[np.int64]
Batch = tuple[list[Tensor], Tensor]
"""Boundary tensors on the device, and target probabilities [images, classes]."""


class Source(Protocol):
    """Boundary activations of (row, view) pairs, cached or fresh."""

    def batch(self, rows: Rows, views: Rows) -> list[Tensor]:
        """Return the boundary tensors of each pair, float32."""


@dataclass(frozen=True)
class LabelledRows:
    """The rows of one split with their class indices and how sure each label is."""

    rows: Rows
    labels: NDArray[np.int64]
    confidence: NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """What the answers are: of how many classes, averaged over how many views, and each class's weight in the loss."""

    num_classes: int
    num_answers: int
    class_weights: Tensor | None = None


class Batches:
    """The training images of a phase, batch by batch: a function of seed, phase and epoch, and of nothing before."""

    def __init__(
        self,
        name: str,
        params: PhaseParams,
        task: Task,
        train: tuple[Source, LabelledRows],
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self.name, self.params, self.task, self.seed, self.device = name, params, task, seed, device
        self._source, self._examples = train
        self.num_steps = steps_per_epoch(len(self._examples.rows), params.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, the next one made while one is in use."""
        params, rows, examples = self.params, self._examples.rows, self._examples
        order = self._order(epoch)
        views = epoch_views(len(rows), params.views, seed=self.seed, phase=self.name, epoch=epoch)
        targets = soft_targets(examples.labels, examples.confidence, self.task.num_classes, params.label_smoothing)
        chosen = [order[step * params.batch_size : (step + 1) * params.batch_size] for step in range(self.num_steps)]
        made = ahead(lambda step: self._source.batch(rows[chosen[step]], views[chosen[step]]), self.num_steps)
        for positions, boundary in zip(chosen, made, strict=True):
            yield [value.to(self.device) for value in boundary], targets[positions]

    def loss(self, model: nn.Module, batch: Batch, epoch: int, step: int) -> Tensor:
        """Return the loss of a model on a batch, mixed as this step of this epoch has it.

        Raises: TrainingError if a single image is to be normalised by itself.
        """
        boundary, targets = mix(*batch, self.params, lambda what: generator(self.seed, self.name, what, epoch, step))
        weights = None if self.task.class_weights is None else self.task.class_weights.to(self.device)
        return functional.cross_entropy(self._answer(model, boundary), targets.to(self.device), weight=weights)

    def _order(self, epoch: int) -> Rows:
        if self.params.balanced_sampler:
            return balanced_order(self._examples.labels, seed=self.seed, phase=self.name, epoch=epoch)
        return epoch_order(len(self._examples.rows), seed=self.seed, phase=self.name, epoch=epoch)

    def _answer(self, model: nn.Module, boundary: Sequence[Tensor]) -> Tensor:
        try:
            logits: Tensor = model(*boundary)
        except ValueError as error:  # what torch's batch norm says to a single value a channel
            if "more than 1 value per channel" not in str(error):
                raise
            raise TrainingError(
                f"{self.name}: norm is train, and one image at a time has no batch statistics; "
                f"raise batch_size (now {self.params.batch_size}), or set norm to frozen"
            ) from None
        return logits
