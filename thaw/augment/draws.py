"""What is drawn at random: a pure function of the seed and of what it is for."""

import hashlib

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


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

    With a fixed number of views, a sample goes round them from a start of its own, so that it sees each equally often;
    with fresh views (`num_views` 0) each epoch has a view of its own, which view 0 is not.
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
