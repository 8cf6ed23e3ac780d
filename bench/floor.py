"""How near a phase comes to its floor: the arithmetic that it cannot do without, over the time that it takes.

    python -m bench.floor                                             the shipped `top`, about 10 minutes
    python -m bench.floor --images 64 --rounds 1 --epochs 1

The floor of a phase is what its prefix and its suffix must compute, at the best rates that were measured:

    views x training images x prefix  +  epochs x training steps x step
    + answers x validation images x prefix  +  (epochs + 1 + answers) x validation images x forward pass of the suffix

(views that differ, and no more than there are epochs). The second line is validation, which every epoch needs as well;
`ratio_training_only` is without it. The real time is that of `run_phase` from an empty scratch folder, so that reading
and resizing images, the export, writing and reading the bank, refit, checkpoints and hashes all count against the
ratio. Rates are taken in the same rounds as the run: the prefix in its engine on rendered batches, the step (forward,
backward, AdamW) and the forward pass on activations in memory. A round's rate is the median of a number of batches; the
best round counts for the floor, the median run for the real time. Needs data.raw, data/prepared, models/backbone and
models/phases/head: `dvc repro head`.
"""

import argparse
import functools
import statistics
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bench import _tools
from bench._loop import Loop, step
from bench._workspace import Rows, Workspace, open_workspace
from bench.phase import network, run_thaw
from thaw.activations.engine import use_threads
from thaw.activations.prefix import Prefix, Views
from thaw.activations.sources import Fresh
from thaw.augment.views import num_answers, num_distinct
from thaw.config.schema import PhaseParams
from thaw.head.examples import soft_targets
from thaw.training.schedule import steps_per_epoch

_NAME = "top"
_BATCH = 32  # images that Thaw sends through the prefix at a time
_EVAL_BATCH = 64  # and through the suffix, in validation
_WARM_UP = 3


def main() -> None:
    """Measure rates and runs and print one JSON line: the ratio of floor to real time, and what it is made of."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often the phase runs and the rates are measured")
    parser.add_argument("--batches", type=int, default=20, help="batches behind each rate in a round")
    parser.add_argument("--epochs", type=int, help="epochs of the phase; default: as in params.yaml")
    parser.add_argument("--images", type=int, help="take this many images, evenly spaced, instead of all")
    given = parser.parse_args()

    def run() -> _tools.Facts:
        workspace = open_workspace(given.images)
        params = workspace.phase(_NAME, epochs=given.epochs)
        return measure(workspace, params, num_rounds=given.rounds, num_batches=given.batches)

    _tools.report("floor", run)


def measure(workspace: Workspace, params: PhaseParams, *, num_rounds: int, num_batches: int) -> _tools.Facts:
    """Return the ratio of floor to real time, the floor's terms, and the rates."""
    use_threads(workspace.params.compute)
    with _tools.empty_scratch():
        loop = network(workspace, params, workspace.images.channels, torch.channels_last, fused=True)
        views = Views(workspace.images, workspace.spec, workspace.params.seed, workspace.augment)
        prefix = Prefix(views, loop.frozen, identity="bench", compute=workspace.params.compute)
        works = _works(workspace, params, loop, prefix)  # which calls the engine, so that it is open from here on
    paces = {name: functools.partial(_pace, work, num_batches) for name, work in works.items()}

    def one_round(number: int) -> _tools.Facts:
        return _tools.in_turn(paces, number) | {"run": run_thaw(workspace, params)["total"]}

    settings: _tools.Facts = {"data": workspace.images.fingerprint, "params": workspace.params.model_dump()}
    settings |= {"phase": params.model_dump(), "batches": num_batches}
    found = _tools.rounds("floor", settings, num_rounds, one_round)
    num_train, num_val = (len(workspace.images.rows(split)) for split in ("train", "val"))
    num_views = num_distinct(params.views, workspace.augment) or params.epochs
    needed = counts(params, num_train, num_val, num_views=num_views, num_answers=num_answers(workspace.augment))
    return {"engine": prefix.engine.name, **summary(found, needed)}


def counts(
    params: PhaseParams, num_train: int, num_val: int, *, num_views: int, num_answers: int
) -> dict[str, dict[str, float]]:
    """Return how many batches of each kind a phase needs, for training and for validation."""
    return {
        "training": {
            "prefix": min(num_views, params.epochs) * num_train / _BATCH,
            "step": params.epochs * steps_per_epoch(num_train, params.batch_size),
        },
        "validation": {
            "prefix": num_answers * num_val / _BATCH,
            "forward": (params.epochs + 1 + num_answers) * num_val / _EVAL_BATCH,
        },
    }


def summary(found: list[_tools.Facts], needed: dict[str, dict[str, float]]) -> _tools.Facts:
    """Return the floor over the real time; `found` holds seconds a batch, and of the run, for each round."""
    best = {name: min(entry[name] for entry in found) for name in ("prefix", "step", "forward")}
    terms = {use: {name: best[name] * number for name, number in batches.items()} for use, batches in needed.items()}
    training, validation = (sum(terms[use].values()) for use in ("training", "validation"))
    real = _tools.median(found, "run")
    return {
        "ratio": round((training + validation) / real, 3),
        "ratio_training_only": round(training / real, 3),
        "seconds": {"real": round(real, 1), "floor": round(training + validation, 1)},
        "floor": {use: {name: round(value, 2) for name, value in part.items()} for use, part in terms.items()},
        "seconds_a_batch": {name: round(value, 4) for name, value in best.items()},
        "each_round": [{name: round(value, 4) for name, value in entry.items()} for entry in found],
    }


def _works(workspace: Workspace, params: PhaseParams, loop: Loop, prefix: Prefix) -> dict[str, Callable[[], object]]:
    """Return a batch's work for the prefix, a training step and a validation pass, each on what it would really see."""

    def some(split: str, num_images: int) -> Rows:
        return np.resize(workspace.images.rows(split), num_images)

    def boundary(rows: Rows) -> tuple[Tensor, ...]:
        return tuple(Fresh(prefix).batch(rows, np.zeros(len(rows), np.int64)))

    trained_on = some("train", min(params.batch_size, len(workspace.images.rows("train"))))
    labels = workspace.images.labels(trained_on)
    targets = soft_targets(labels, np.ones(len(labels)), len(workspace.images.classes))
    images, seen, looked_at = (
        prefix.views.plain(some("train", _BATCH)),
        boundary(trained_on),
        boundary(some("val", _EVAL_BATCH)),
    )

    def take_step() -> None:
        loop.to_train_mode(loop.trained)
        step(loop.trained, loop.optimizer, seen, targets)

    def pass_forward() -> None:
        loop.trained.eval()
        with torch.inference_mode():
            loop.trained(*looked_at)

    return {"prefix": lambda: prefix.engine(images), "step": take_step, "forward": pass_forward}


def _pace(work: Callable[[], object], num_batches: int) -> float:
    """Return the median seconds of a batch's work, after a warm-up."""
    spent = [_tools.seconds_of(work) for _ in range(_WARM_UP + num_batches)]
    return statistics.median(spent[_WARM_UP:])


if __name__ == "__main__":
    main()
