"""Where a phase takes its activations from: the bank of views, or the prefix anew, whichever is cheaper."""

import time

import numpy as np

from thaw.images.pack import PackedImages
from thaw.images.views import num_answers, num_distinct, still
from thaw.network.boundary import Fresh, Prefix
from thaw.params import ComputeParams, PhaseParams
from thaw.training.bank import Cached, Space, view_folder
from thaw.training.costs import Work, decide, train_passes, val_passes
from thaw.training.loop import LabelledRows, Source

_GIB = 2**30


def sources_of(
    name: str, params: PhaseParams, prefix: Prefix, images: PackedImages, compute: ComputeParams
) -> tuple[tuple[Source, LabelledRows], tuple[Source, LabelledRows]]:
    """Return the training and the validation images, each with the activations of their views."""
    train, val = (labelled(images, split) for split in ("train", "val"))
    mirrored = prefix.seen_as(still(prefix.views.augment))
    answers = num_answers(prefix.views.augment)
    space = Space(int(compute.cache_gib * _GIB))
    return (
        (_source(prefix, train, params.views, train_passes(params), space, f"{name}: train"), train),
        (_source(mirrored, val, answers, val_passes(params, answers), space, f"{name}: val"), val),
    )


def labelled(images: PackedImages, split: str) -> LabelledRows:
    """Return the rows of a split with their labels and confidences."""
    rows = images.rows(split)
    return LabelledRows(rows, images.labels(rows), images.samples["confidence"].to_numpy(np.float64)[rows])


def _source(prefix: Prefix, examples: LabelledRows, num_views: int, passes: int, space: Space, label: str) -> Source:
    """Return the activations of a split, cached or fresh, whichever is cheaper, and say which."""
    rows, distinct = examples.rows, num_distinct(num_views, prefix.views.augment)
    bank = [view_folder(prefix, rows, view) for view in range(distinct)]
    work = Work(
        num_images=len(rows),
        num_views=distinct,
        missing_views=sum(not folder.exists() for folder in bank),
        passes=passes,
        bytes_an_image=prefix.trial.bytes_an_image,
        seconds_an_image=prefix.trial.seconds_an_image,
    )
    decision = decide(work, space.left_bytes)
    print(f"{label}: {decision.reason}", flush=True)
    if not decision.cached:
        return Fresh(prefix)
    space.take(bank, work.bank_bytes)
    started = time.perf_counter()
    source = Cached(prefix, rows, num_views, label=label)
    seconds = time.perf_counter() - started
    print(f"{label}: {work.missing_views} of {distinct} views computed and cached in {seconds:.1f} s", flush=True)
    return source
