"""Where a phase takes its activations from: the activation cache, or the prefix anew, whichever is cheaper."""

import time
from typing import Protocol

import numpy as np
from torch import Tensor

from thaw import memory
from thaw.activations.cache import Space, open_view, view_folder
from thaw.activations.costs import Work, decide, train_passes, val_passes
from thaw.activations.prefix import Prefix, narrow, widen
from thaw.augment.views import num_answers, num_distinct, still
from thaw.config.schema import ComputeParams, PhaseParams
from thaw.data.packed import PackedImages, Rows, development_of, folds_of
from thaw.pipeline import timings

_GIB = 2**30


class Source(Protocol):
    """Boundary activations of (row, view) pairs, cached or fresh."""

    def batch(self, rows: Rows, views: Rows) -> list[Tensor]:
        """Return the boundary tensors of each pair, float32."""


class Cached:
    """Boundary activations of a fixed set of rows and views, read from memory-mapped files."""

    def __init__(self, prefix: Prefix, rows: Rows, num_views: int, *, label: str) -> None:
        """Open the cached views, computing those that are missing or damaged."""
        self._position = np.full(int(rows.max()) + 1, -1)
        self._position[rows] = np.arange(len(rows))
        distinct = num_distinct(num_views, prefix.views.augment)
        opened = [open_view(prefix, rows, view, label) for view in range(distinct)]
        self._views = [opened[view % distinct][0] for view in range(num_views)]
        self.num_computed = sum(computed for _, computed in opened)
        prefix.engine.release()  # what is cached need not be computed again

    @timings.counted("read")
    def batch(self, rows: Rows, views: Rows) -> list[Tensor]:
        """Return the boundary tensors of each (row, view) pair, float32."""
        positions = self._position[rows]
        assert positions.min() >= 0, "a row that is not in this cache"
        num_tensors = len(self._views[0])
        tensors = [
            widen([self._views[view][part][position] for position, view in zip(positions, views, strict=True)])
            for part in range(num_tensors)
        ]
        memory.drop_pages(array for arrays in self._views for array in arrays)
        return tensors


class Fresh:
    """Boundary activations computed on every call; for views that are used once, or too many to keep."""

    def __init__(self, prefix: Prefix) -> None:
        self._prefix = prefix

    def batch(self, rows: Rows, views: Rows) -> list[Tensor]:
        """Return the boundary tensors of each (row, view) pair, float32.

        Raises: HalfOverflowError if one is beyond float16, in which the prefix says that they are kept.
        """
        return [widen(narrow(value, self._prefix.storage)) for value in self._prefix(rows, views)]


def sources_of(
    name: str, params: PhaseParams, prefix: Prefix, images: PackedImages, compute: ComputeParams
) -> tuple[Source, Source]:
    """Return the activations of the views to train on, and of those that answers are averaged over.

    With several folds both are of all development images, so that no fold computes anything again; where views only
    mirror, both are the same ones.
    Raises: HalfOverflowError if one is beyond float16, in which the prefix says that they are kept.
    """
    folds = folds_of(images)
    several = len(folds) > 1
    train, val = (development_of(images).rows,) * 2 if several else (folds[0].train.rows, folds[0].val.rows)
    passes = len(folds) if several else 1  # each image is in all folds but one, and in what is trained on all of them
    answers, mirrored = num_answers(prefix.views.augment), prefix.seen_as(still(prefix.views.augment))
    space = Space(int(compute.cache_gib * _GIB))
    to_train, to_answer = passes * train_passes(params), val_passes(params, answers)
    if several and params.views and mirrored.views.augment == prefix.views.augment:
        views = max(params.views, answers)
        both = _source(prefix, train, views, to_train + to_answer, space, f"{name}: activations")
        return both, both
    return (
        _source(prefix, train, params.views, to_train, space, f"{name}: train"),
        _source(mirrored, val, answers, to_answer, space, f"{name}: val"),
    )


def _source(prefix: Prefix, rows: Rows, num_views: int, passes: int, space: Space, label: str) -> Source:
    """Return the activations of some rows, cached or fresh, whichever is cheaper, and say which."""
    distinct = num_distinct(num_views, prefix.views.augment)
    folders = [view_folder(prefix, rows, view) for view in range(distinct)]
    work = Work(
        num_images=len(rows),
        num_views=distinct,
        missing_views=sum(not folder.exists() for folder in folders),
        passes=passes,
        bytes_an_image=prefix.bytes_an_image,
        seconds_an_image=prefix.trial.seconds_an_image,
    )
    decision = decide(work, space.left_bytes)
    print(f"{label}: {decision.reason}", flush=True)
    if not decision.cached:
        return Fresh(prefix)
    space.take(folders, work.cache_bytes)
    started = time.perf_counter()
    source = Cached(prefix, rows, num_views, label=label)
    seconds = time.perf_counter() - started
    # Not those that were missing before: another trial may have computed them meanwhile.
    print(f"{label}: {source.num_computed} of {distinct} views computed and cached in {seconds:.1f} s", flush=True)
    return source
