"""The learning rate of a phase, found by a range test before its first step, on a copy of what it will train.

The rate grows from step to step over the batches that the first epochs will see, and the loss on each batch is compared
with that of the untouched start on the same batch, mixed and dropped out alike. The pairs are what makes the curve
readable: on the sample the loss of a batch of 32 varies by 0.1 from batch to batch, a good step changes it by 0.01.

The choice is a tenth of the rate at which the smoothed loss has risen by a quarter of what it was. Where it falls most,
and where it is lowest, are no use here: batch noise moves both by a factor of 10 (docs/log.md). Where a loss does not
rise at any rate, it is a tenth of the rate at the minimum.

Learning rate range test: Smith 2017, arXiv:1506.01186, section 3.3, which takes the rate of divergence as the bound.
"""

import copy
import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from thaw.augment.draws import generator
from thaw.errors import TrainingError
from thaw.training.batches import Batch, Batches
from thaw.training.norms import follow_statistics, train_with_norms
from thaw.training.optimizer import Stepper

_STEPS_A_DECADE = 10
_DECADES = {"adamw": (-6, 0), "sgd": (-5, 1)}
"""Powers of ten between which rates are tried."""
_WINDOW = 5
"""Points whose mean is a point of the smoothed curve: half a decade."""
_RISE = 0.25
"""A smoothed loss that is higher by this share of the start's has risen, and the test ends. On the sample shares
from 0.15 to 0.35 give the same rate within a factor of 1.6; with 0.5 one seed of three goes ten times too high."""
_SAFETY = 10.0


@dataclass(frozen=True)
class RangeTest:
    """The rate that was chosen, and a row for each rate that was tried."""

    lr: float
    points: list[dict[str, float]]
    """Rate, loss on the batch, its change from the start's loss on it, that smoothed, and chosen: 1 in one row."""


def find_rate(model: nn.Module, stepper_of: Callable[[nn.Module], Stepper], batches: Batches) -> RangeTest:
    """Return the rate for a model, and the curve behind it; nothing of the model or the random state is changed.

    `stepper_of` makes a new optimizer for a model, with rates that are shares of the one to be found.
    Raises: TrainingError if no rate makes the loss lower.
    """
    start, trial = copy.deepcopy(model), copy.deepcopy(model)
    stepper = stepper_of(trial)
    low, high = _DECADES[batches.params.optimizer]
    rates = [10 ** (low + number / _STEPS_A_DECADE) for number in range((high - low) * _STEPS_A_DECADE + 1)]
    tried: list[tuple[float, float, float]] = []
    with torch.random.fork_rng(), closing(_endless(batches)) as endless:
        for one in (start, trial):
            train_with_norms(one, batches.params.norm_mode)
        if batches.params.norm_mode == "stats":
            follow_statistics(trial)
        for rate in rates:
            stepper.try_rate(rate)
            before, after = _step(start, trial, stepper, batches, endless)
            if not math.isfinite(after):
                break
            tried.append((rate, after, after - before))
            if _has_risen(tried):
                break
    found = choose(batches.name, tried, burst=not math.isfinite(after))
    print(
        f"{batches.name}: lr is {found.lr:g}, found by trying {len(tried)} rates from {tried[0][0]:g} to "
        f"{tried[-1][0]:.2g}; range_test.csv has the curve",
        flush=True,
    )
    return found


def choose(phase: str, tried: Sequence[tuple[float, float, float]], *, burst: bool = False) -> RangeTest:
    """Return the choice from (rate, loss, change of the loss) of each rate tried, in rising order.

    `burst` says that the loss was not finite at the next rate.
    Raises: TrainingError if the loss neither rises nor falls.
    """
    changes, half = [change for *_, change in tried], _WINDOW // 2
    smoothed = [float(np.mean(changes[max(0, place - half) : place + half + 1])) for place in range(len(changes))]
    risen = [place for place, value in enumerate(smoothed) if value > _risen_by(tried)]
    if risen or (burst and tried):
        bound = risen[0] if risen else len(tried) - 1
    elif tried and min(smoothed) < 0:
        bound = int(np.argmin(smoothed))
    else:
        raise TrainingError(
            f"{phase}: lr is auto, but the range test shows nothing: the loss is not finite at the start, or no rate "
            "changes it; give lr a number"
        )
    lr = float(f"{tried[bound][0] / _SAFETY:.2g}")
    chosen = int(np.argmin([abs(math.log(rate / lr)) for rate, _, _ in tried]))
    points = [
        {"rate": rate, "loss": loss, "change": change, "smoothed": mean, "chosen": int(place == chosen)}
        for place, ((rate, loss, change), mean) in enumerate(zip(tried, smoothed, strict=True))
    ]
    return RangeTest(lr, points)


def _step(
    start: nn.Module, trial: nn.Module, stepper: Stepper, batches: Batches, endless: Iterator[tuple[int, int, Batch]]
) -> tuple[float, float]:
    """Return the loss of the start and of the trial on the batches of a step, and let the trial take it."""
    count, losses = batches.params.accumulate, []
    for number in range(count):
        epoch, step, batch = next(endless)
        seed = int(generator(batches.seed, batches.name, "range test", epoch, step).integers(2**31))
        torch.manual_seed(seed)  # both drop out the same
        with torch.no_grad():
            before = float(batches.loss(start, batch, epoch, step))
        torch.manual_seed(seed)
        loss = batches.loss(trial, batch, epoch, step)
        losses.append((before, float(loss.detach())))
        stepper.take(loss, complete=number + 1 == count)
    return tuple(np.mean(losses, axis=0).tolist())


def _risen_by(tried: Sequence[tuple[float, float, float]]) -> float:
    """Return the change from which on a loss counts as risen."""
    return _RISE * float(np.mean([loss - change for _, loss, change in tried])) if tried else math.inf


def _has_risen(tried: Sequence[tuple[float, float, float]]) -> bool:
    last = [change for *_, change in tried[-_WINDOW:]]
    return len(last) == _WINDOW and float(np.mean(last)) > _risen_by(tried)


def _endless(batches: Batches) -> Generator[tuple[int, int, Batch]]:
    """Yield (epoch, step, batch) of one epoch after another."""
    for epoch in itertools.count(1):
        for step, batch in enumerate(batches.epoch(epoch)):
            yield epoch, step, batch
