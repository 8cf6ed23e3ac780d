"""One phase of training: the suffix and the head on the activations at the cut."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from thaw import timing
from thaw.errors import TrainingError
from thaw.params import PhaseParams
from thaw.training import checkpoint
from thaw.training.balance import mix
from thaw.training.groups import Rule
from thaw.training.head import FeatureSet, soft_targets
from thaw.training.heap import give_back
from thaw.training.norms import follow_statistics, train_with_norms
from thaw.training.prefetch import ahead
from thaw.training.refit import estimate_statistics, pooled, solve_head
from thaw.training.schedule import balanced_order, epoch_order, epoch_views, generator, steps_per_epoch
from thaw.training.stepper import Stepper

Rows = NDArray[np.int64]
_EVAL_BATCH = 64
_STATISTICS_BATCHES = 8  # 512 images settle a channel's mean and variance


class Source(Protocol):
    """Boundary activations of (row, view) pairs, cached or fresh."""

    def batch(self, rows: Rows, views: Rows) -> list[Tensor]:
        """Return the boundary tensors of each pair, float32."""


class Classifier(nn.Module):
    """The trainable part: the backbone's suffix, then the head. Maps boundary tensors to logits [images, classes]."""

    def __init__(self, suffix: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = suffix
        self.head = head

    def forward(self, *boundary: Tensor) -> Tensor:
        """Return logits [images, classes] of boundary tensors."""
        logits: Tensor = self.head(self.backbone(*boundary))
        return logits


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


@dataclass(frozen=True)
class Result:
    """What a phase leaves: its best tensors, their validation logits, and a row for each epoch (0: before training)."""

    tensors: dict[str, Tensor]
    val_logits: NDArray[np.float32]
    curves: list[dict[str, float]]
    best_epoch: int


class Phase:
    """A phase in progress; `run` trains it to the end, from its last checkpoint if there is one."""

    def __init__(
        self,
        name: str,
        model: Classifier,
        params: PhaseParams,
        rules: list[Rule],
        *,
        task: Task,
        seed: int,
        device: torch.device,
        folder: Path,
        pretrained: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Prepare a new optimizer. `folder` is where this phase, under these settings, keeps its checkpoint.

        `pretrained` are the tensors that `l2_sp` pulls towards, named as in the model.
        """
        self.name, self.model, self.params = name, model.to(device), params
        self.task, self.seed, self.device, self.folder = task, seed, device, folder
        self.stepper = Stepper(self.model, rules, params, pretrained or {})

    @timing.counted("train")
    def run(
        self,
        train: tuple[Source, LabelledRows],
        val: tuple[Source, LabelledRows],
        on_epoch: Callable[[dict[str, float]], None],
    ) -> Result:
        """Train with early stopping and return the best of all epochs, the start included.

        Raises: TrainingError if the loss stops being finite; the last checkpoint is kept.
        """
        restored = checkpoint.restore(self.folder, self.model, self.stepper.optimizer, self.stepper.average)
        if restored is None:
            loss, accuracy, _ = self.evaluate(*val)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"{self.name}: the validation loss is {loss} before the first step; train what it starts from again"
                )
            best = checkpoint.trained_tensors(self.model)
            start = {"epoch": 0, "val_loss": loss, "val_accuracy": accuracy} | self.stepper.rates(0.0, 0)
            state: dict[str, Any] = {"epoch": 0, "best_epoch": 0, "best_loss": loss, "curves": [start]}
            if self.params.refit:
                self._refit(*train)
        else:
            best, state = restored
        for row in state["curves"]:
            on_epoch(row)
        while state["epoch"] < self.params.epochs and state["epoch"] - state["best_epoch"] < self.params.patience:
            epoch = state["epoch"] + 1
            row = self._epoch(epoch, *train) | dict(
                zip(("val_loss", "val_accuracy"), self.evaluate(*val)[:2], strict=True)
            )
            if not math.isfinite(row["val_loss"]):
                raise TrainingError(
                    f"{self.name}: the validation loss is not finite after epoch {epoch}; lower lr, or unfreeze less"
                )
            state["curves"].append(row)
            state["epoch"] = epoch
            if row["val_loss"] < state["best_loss"]:
                state |= {"best_epoch": epoch, "best_loss": row["val_loss"]}
                best = checkpoint.trained_tensors(self.stepper.judged)
            checkpoint.save(self.folder, self.model, self.stepper.optimizer, best, state, self.stepper.average)
            on_epoch(row)
        for module in (self.model, self.stepper.judged):
            module.load_state_dict(best)
        return Result(best, self.evaluate(*val, self.task.num_answers)[2], state["curves"], state["best_epoch"])

    @torch.inference_mode()
    def evaluate(
        self, source: Source, examples: LabelledRows, num_views: int = 1
    ) -> tuple[float, float, NDArray[np.float32]]:
        """Return log loss, accuracy and logits [images, classes] in eval mode, averaged over the first views."""
        give_back()
        model = self.stepper.judged.eval()
        answers = []
        for view in range(num_views):
            batches = self._batches(source, examples.rows, np.full(len(examples.rows), view))
            answers.append(torch.cat([model(*batch).float().cpu() for batch in batches]))
        logits = torch.stack(answers).mean(dim=0)
        labels = torch.from_numpy(examples.labels)
        loss = float(functional.cross_entropy(logits.double(), labels))
        return loss, float((logits.argmax(dim=1) == labels).double().mean()), logits.numpy()

    def _refit(self, source: Source, examples: LabelledRows) -> None:
        """Bring norm statistics and a linear head in line with the training images (see refit.py)."""
        suffix, num_train = self.model.backbone, len(examples.rows)
        if self.params.norm != "frozen" and num_train > 1:
            batches = min(max(num_train // _EVAL_BATCH, 1), _STATISTICS_BATCHES)
            whole = batches * _EVAL_BATCH  # a short last batch would count as much as the rest
            order = epoch_order(num_train, seed=self.seed, phase=self.name, epoch=0)[:whole]
            views = epoch_views(num_train, self.params.views, seed=self.seed, phase=self.name, epoch=0)
            estimate_statistics(suffix, self._batches(source, examples.rows[order], views[order]))
        if isinstance(self.model.head, nn.Linear):
            plain = self._batches(source, examples.rows, np.zeros(num_train, np.int64))
            solve_head(self.model.head, FeatureSet(pooled(suffix, plain), examples.labels, examples.confidence))

    def _batches(self, source: Source, rows: Rows, views: Rows) -> Iterator[list[Tensor]]:
        def make(number: int) -> list[Tensor]:
            chosen = slice(number * _EVAL_BATCH, (number + 1) * _EVAL_BATCH)
            return source.batch(rows[chosen], views[chosen])

        for batch in ahead(make, math.ceil(len(rows) / _EVAL_BATCH)):
            yield [value.to(self.device) for value in batch]

    def _epoch(self, epoch: int, source: Source, examples: LabelledRows) -> dict[str, float]:
        """Train one epoch and return its mean loss and its mean rates."""
        give_back()
        params, num_steps = self.params, steps_per_epoch(len(examples.rows), self.params.batch_size)
        order = self._order(epoch, examples)
        views = epoch_views(len(examples.rows), params.views, seed=self.seed, phase=self.name, epoch=epoch)
        targets = soft_targets(examples.labels, examples.confidence, self.task.num_classes, params.label_smoothing)
        torch.manual_seed(int(generator(self.seed, self.name, "dropout", epoch).integers(2**31)))
        train_with_norms(self.model, params.norm)
        hooks = follow_statistics(self.model) if params.norm == "stats" else []
        batches = [order[step * params.batch_size : (step + 1) * params.batch_size] for step in range(num_steps)]
        total = factors = 0.0
        for step, batch in enumerate(
            ahead(lambda step: source.batch(examples.rows[batches[step]], views[batches[step]]), num_steps)
        ):
            factors += self.stepper.set_rates((epoch - 1) * num_steps + step, params.epochs * num_steps, epoch)
            loss = self._loss([value.to(self.device) for value in batch], targets[batches[step]], epoch, step)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise TrainingError(
                    f"{self.name}: the loss is {value} at step {step + 1} of epoch {epoch}; lower lr "
                    f"(now {params.lr}), or unfreeze less; the last good checkpoint is kept"
                )
            self.stepper.take(loss, complete=(step + 1) % params.accumulate == 0 or step + 1 == num_steps)
            total += value
        for hook in hooks:
            hook.remove()
        return {"epoch": epoch, "train_loss": total / num_steps} | self.stepper.rates(factors / num_steps, epoch)

    def _order(self, epoch: int, examples: LabelledRows) -> Rows:
        if self.params.balanced_sampler:
            return balanced_order(examples.labels, seed=self.seed, phase=self.name, epoch=epoch)
        return epoch_order(len(examples.rows), seed=self.seed, phase=self.name, epoch=epoch)

    def _loss(self, boundary: list[Tensor], targets: Tensor, epoch: int, step: int) -> Tensor:
        mixed, targets = mix(
            boundary, targets, self.params, lambda what: generator(self.seed, self.name, what, epoch, step)
        )
        weights = None if self.task.class_weights is None else self.task.class_weights.to(self.device)
        return functional.cross_entropy(self._answer(mixed), targets.to(self.device), weight=weights)

    def _answer(self, boundary: Sequence[Tensor]) -> Tensor:
        try:
            logits: Tensor = self.model(*boundary)
        except ValueError as error:  # what torch's batch norm says to a single value a channel
            if "more than 1 value per channel" not in str(error):
                raise
            raise TrainingError(
                f"{self.name}: norm is train, and one image at a time has no batch statistics; "
                f"raise batch_size (now {self.params.batch_size}), or set norm to frozen"
            ) from None
        return logits
