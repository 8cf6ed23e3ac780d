"""The batches of a phase: what each epoch sees in which order, and the loss of a model on one of them."""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from thaw.activations.sources import Source
from thaw.augment.draws import balanced_order, epoch_order, epoch_views, generator
from thaw.config.schema import PhaseParams
from thaw.data.packed import LabelledRows, Rows
from thaw.errors import TrainingError
from thaw.head.examples import soft_targets
from thaw.pipeline import timings
from thaw.training.loss import mix
from thaw.training.schedule import steps_per_epoch

Batch = tuple[list[Tensor], Tensor]
"""Boundary tensors on the device, and target probabilities [images, classes]."""


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
        made = prefetch(lambda step: self._source.batch(rows[chosen[step]], views[chosen[step]]), self.num_steps)
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
        except ValueError as error:  # what torch's batch norm says to a single value per channel
            if "more than 1 value per channel" not in str(error):
                raise
            raise TrainingError(
                f"{self.name}: norm is train, and one image at a time has no batch statistics; "
                f"raise batch_size (now {self.params.batch_size}), or set norm to frozen"
            ) from None
        return logits


Item = TypeVar("Item")


def prefetch(make: Callable[[int], Item], count: int) -> Generator[Item]:
    """Yield make(0) to make(count - 1), each made while the one before is in use; at most two are held at a time."""
    if count == 0:
        return
    with ThreadPoolExecutor(1, "thaw-prefetch") as pool:
        pending = pool.submit(make, 0)
        for number in range(1, count + 1):
            with timings.part("read"):
                item = pending.result()
            if number < count:
                pending = pool.submit(make, number)
            yield item
