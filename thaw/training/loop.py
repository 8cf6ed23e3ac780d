"""One phase of training: the suffix and the head on the activations at the cut."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from thaw.activations.sources import Source
from thaw.augment.draws import epoch_order, epoch_views, generator
from thaw.config.schema import PhaseParams
from thaw.data.packed import LabelledRows, Rows
from thaw.errors import TrainingError
from thaw.head.examples import FeatureSet, subsample
from thaw.memory import trim_heap
from thaw.pipeline import timings
from thaw.training import checkpoint
from thaw.training.batches import Batches, Task, prefetch
from thaw.training.groups import Rule
from thaw.training.norms import follow_statistics, train_with_norms
from thaw.training.optimizer import Stepper
from thaw.training.range_test import RangeTest, find_rate
from thaw.training.warm_start import estimate_statistics, pooled, solve_head

__all__ = ["Classifier", "LabelledRows", "Phase", "Result", "Rows", "Source", "Task"]

_EVAL_BATCH = 64
_STATISTICS_BATCHES = 8  # 512 images settle a channel's mean and variance


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
class Result:
    """What a phase leaves: its tensors after the last epoch, their validation logits, and a row for each epoch.

    Epoch 0 is the start, before training. Without validation images there are no logits.
    """

    tensors: dict[str, Tensor]
    val_logits: NDArray[np.float32]
    curves: list[dict[str, float]]
    range_test: RangeTest | None
    """How the rate was found, where `lr` is `auto`."""


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
        self._rules, self._pretrained = rules, pretrained or {}
        self.stepper = Stepper(self.model, rules, params, self._pretrained)

    @timings.counted("train")
    def run(
        self,
        train: tuple[Source, LabelledRows],
        val: tuple[Source, LabelledRows] | None,
        on_epoch: Callable[[dict[str, float]], None],
    ) -> Result:
        """Train all epochs and return what the last one leaves, which the schedule brings to rest.

        `val` is only looked at: no epoch is chosen on it, and none of the training depends on it; None looks at
        nothing. Raises: TrainingError if the loss stops being finite; the last checkpoint is kept.
        """
        batches = Batches(self.name, self.params, self.task, train, seed=self.seed, device=self.device)
        state = checkpoint.restore(self.folder, self.model, self.stepper.optimizer, self.stepper.average)
        if state is None:
            state = self._begin(train, val, batches)
        found = RangeTest(**state["range_test"]) if "range_test" in state else None
        if found is not None:
            self.stepper.scale(found.lr)
        for row in state["curves"]:
            on_epoch(row)
        while state["epoch"] < self.params.epochs:
            epoch = state["epoch"] + 1
            trained = self._epoch(epoch, batches)
            if epoch == self.params.epochs:
                self.stepper.round()
            row = trained | self._look(val, f"after epoch {epoch}; lower lr, or unfreeze less")
            state["curves"].append(row)
            state["epoch"] = epoch
            checkpoint.save(self.folder, self.model, self.stepper.optimizer, state, self.stepper.average)
            on_epoch(row)
        return Result(checkpoint.trained_tensors(self.stepper.eval_model), self.answer(val), state["curves"], found)

    def answer(self, val: tuple[Source, LabelledRows] | None) -> NDArray[np.float32]:
        """Return logits [images, classes] on validation, averaged over the views of an answer; none without images."""
        if val is None:
            return np.zeros((0, self.task.num_classes), np.float32)
        return self.evaluate(*val, self.task.num_answers)[2]

    def _begin(
        self, train: tuple[Source, LabelledRows], val: tuple[Source, LabelledRows] | None, batches: Batches
    ) -> dict[str, Any]:
        """Look at the start, bring the model to where training begins, and return the counters."""
        seen = self._look(val, "before the first step; train what it starts from again")
        state: dict[str, Any] = {"epoch": 0, "curves": [{"epoch": 0} | seen | self.stepper.rates(0.0, 0)]}
        if self.params.warm_start:
            self._warm_start(*train)
        if self.params.lr == "auto":
            trim_heap()
            found = find_rate(
                self.model, lambda model: Stepper(model, self._rules, self.params, self._pretrained), batches
            )
            state["range_test"] = asdict(found)
            checkpoint.save(self.folder, self.model, self.stepper.optimizer, state, self.stepper.average)
        return state

    def _look(self, val: tuple[Source, LabelledRows] | None, when: str) -> dict[str, float]:
        """Return loss and accuracy on validation, nothing without. Raises: TrainingError if the loss is not finite."""
        if val is None:
            return {}
        loss, accuracy, _ = self.evaluate(*val)
        if not math.isfinite(loss):
            raise TrainingError(f"{self.name}: the validation loss is not finite {when}")
        return {"val_loss": loss, "val_accuracy": accuracy}

    @torch.inference_mode()
    def evaluate(
        self, source: Source, examples: LabelledRows, num_views: int = 1
    ) -> tuple[float, float, NDArray[np.float32]]:
        """Return log loss, accuracy and logits [images, classes] in eval mode, averaged over the first views."""
        trim_heap()
        model = self.stepper.eval_model.eval()
        answers = []
        for view in range(num_views):
            batches = self._batches(source, examples.rows, np.full(len(examples.rows), view))
            answers.append(torch.cat([model(*batch).float().cpu() for batch in batches]))
        logits = torch.stack(answers).mean(dim=0)
        labels = torch.from_numpy(examples.labels)
        loss = float(functional.cross_entropy(logits.double(), labels))
        return loss, float((logits.argmax(dim=1) == labels).double().mean()), logits.numpy()

    def _warm_start(self, source: Source, examples: LabelledRows) -> None:
        """Bring norm statistics and a linear head in line with the training images (see warm_start.py)."""
        suffix, num_train = self.model.backbone, len(examples.rows)
        if self.params.norm_mode != "frozen" and num_train > 1:
            batches = min(max(num_train // _EVAL_BATCH, 1), _STATISTICS_BATCHES)
            whole = batches * _EVAL_BATCH  # a short last batch would count as much as the rest
            order = epoch_order(num_train, seed=self.seed, phase=self.name, epoch=0)[:whole]
            views = epoch_views(num_train, self.params.views, seed=self.seed, phase=self.name, epoch=0)
            estimate_statistics(suffix, self._batches(source, examples.rows[order], views[order]))
        if isinstance(self.model.head, nn.Linear):
            chosen = subsample(examples.labels, self.model.head.out_features, seed=self.seed, purpose=self.name)
            few = LabelledRows(examples.rows[chosen], examples.labels[chosen], examples.confidence[chosen])
            plain = self._batches(source, few.rows, np.zeros(len(few.rows), np.int64))
            solve_head(self.model.head, FeatureSet(pooled(suffix, plain), few.labels, few.confidence))

    def _batches(self, source: Source, rows: Rows, views: Rows) -> Iterator[list[Tensor]]:
        def make(number: int) -> list[Tensor]:
            chosen = slice(number * _EVAL_BATCH, (number + 1) * _EVAL_BATCH)
            return source.batch(rows[chosen], views[chosen])

        for batch in prefetch(make, math.ceil(len(rows) / _EVAL_BATCH)):
            yield [value.to(self.device) for value in batch]

    def _epoch(self, epoch: int, batches: Batches) -> dict[str, float]:
        """Train one epoch and return its mean loss and its mean rates."""
        trim_heap()
        params, num_steps = self.params, batches.num_steps
        torch.manual_seed(int(generator(self.seed, self.name, "dropout", epoch).integers(2**31)))
        train_with_norms(self.model, params.norm_mode)
        total = factors = 0.0
        with ExitStack() as stack:
            for hook in follow_statistics(self.model) if params.norm_mode == "stats" else []:
                stack.callback(hook.remove)
            for step, batch in enumerate(batches.epoch(epoch)):
                factors += self.stepper.set_rates((epoch - 1) * num_steps + step, params.epochs * num_steps, epoch)
                loss = batches.loss(self.model, batch, epoch, step)
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise TrainingError(
                        f"{self.name}: the loss is {value} at step {step + 1} of epoch {epoch}; lower lr "
                        f"(now {self.stepper.peak:g}), or unfreeze less; the last good checkpoint is kept"
                    )
                self.stepper.take(loss, complete=(step + 1) % params.accumulate == 0 or step + 1 == num_steps)
                total += value
        return {"epoch": epoch, "train_loss": total / num_steps} | self.stepper.rates(factors / num_steps, epoch)
