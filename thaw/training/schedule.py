"""Pure functions of a step or an epoch: the learning rate, the order of samples, the view of each."""

import hashlib
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


Schedule = Literal["cosine", "one-cycle", "constant"]
_ONE_CYCLE_START = 1 / 25  # of the peak, where one-cycle begins


def rate_factor(step: int, num_steps: int, warmup: float, schedule: Schedule = "cosine") -> float:
    """Return the factor on the peak rate at a step, always in (0, 1].

    `cosine`: a linear rise over `warmup` of the steps, then a cosine to zero (annealing without restarts, Loshchilov
    and Hutter 2017, arXiv:1608.03983, equation 5). `one-cycle`: the rise is half a cosine too, from a twenty-fifth of
    the peak (Smith and Topin 2018, arXiv:1708.07120). `constant`: the linear rise, then the peak.
    """
    num_warmup = round(warmup * num_steps)
    if step < num_warmup:
        share = (step + 1) / num_warmup
        if schedule != "one-cycle":
            return share
        return _ONE_CYCLE_START + (1 - _ONE_CYCLE_START) * 0.5 * (1 - math.cos(math.pi * share))
    if schedule == "constant":
        return 1.0
    progress = (step - num_warmup + 0.5) / max(num_steps - num_warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Return the steps of an epoch: whole batches only, the rest comes up in another epoch; at least one."""
    return max(num_samples // batch_size, 1)


def epoch_order(num_samples: int, *, seed: int, phase: str, epoch: int) -> Rows:
    """Return the order in which an epoch visits its samples, a permutation that depends on nothing else."""
    return generator(seed, phase, "order", epoch).permutation(num_samples)


def balanced_order(labels: Rows, *, seed: int, phase: str, epoch: int) -> Rows:
    """Return as many positions as there are labels, drawn so that each class comes up equally often on average."""
    shares = 1 / np.bincount(labels)[labels]
    drawn = generator(seed, phase, "balanced", epoch).choice(len(labels), len(labels), p=shares / shares.sum())
    return np.asarray(drawn, np.int64)


def epoch_views(num_samples: int, num_views: int, *, seed: int, phase: str, epoch: int) -> Rows:
    """Return each sample's view in an epoch (counted from 1).

    With a bank, a sample goes round its views from a start of its own, so that it sees each one equally often;
    without a bank (`num_views` 0) each epoch has a view of its own, which view 0 is not.
    """
    if num_views == 0:
        return np.full(num_samples, epoch, dtype=np.int64)
    start = generator(seed, phase, "view", 0).integers(0, num_views, num_samples)
    return (start + epoch) % num_views


def representatives(labels: Rows, limit: int, *, seed: int, purpose: str) -> Rows:
    """Return the positions, ascending, of at most `limit` examples drawn at random, with every class among them.

    All of them where there are no more; more than `limit` only if there are more classes.
    """
    if len(labels) <= limit:
        return np.arange(len(labels))
    order = generator(seed, purpose).permutation(len(labels))
    _, first = np.unique(labels[order], return_index=True)
    rest = np.delete(np.arange(len(order)), first)
    return np.sort(order[np.concatenate([first, rest])[: max(limit, len(first))]])


def generator(seed: int, *words: str | int) -> np.random.Generator:
    """Return a generator keyed by a seed and words: counter-based, so that resuming needs nothing but integers."""
    key = hashlib.sha256(repr((seed, *words)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "big")))
