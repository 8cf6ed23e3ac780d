"""Seconds of a phase of 8 epochs with 4 views: Thaw's, its bank included, against two loops without a cache.

    python -m bench.phase                                                 depth 3, about 20 minutes
    python -m bench.phase --depth 6
    python -m bench.phase --images 64 --epochs 1 --rounds 1 --workers 0

The phase is `top` of params.yaml with other epochs, views and depth. Each side trains the same blocks with the same
batch size, norm mode and optimizer groups, and validates once an epoch on plain images:

- `thaw`: `run_phase` from an empty scratch folder: export, bank, refit, every epoch, and the averaged answers at the
  end. The whole of it is measured in each round, and in which part (as
  thaw/pipeline/timings.py has them) its seconds went.
- `default`: what common tools do: the file of each image opened, made RGB, resized, mirrored at random and normalised
  in every epoch by a DataLoader with a worker a core, and the whole network in eager, in the default memory format. It
  is a good loop of its kind: the frozen part is in eval mode under no_grad, so no gradient is kept for it (fastai, for
  one, also trains its norm layers, which costs more).
- `packed`: the same in channels_last, from packed images instead of files, with fresh views as `views: 0` has them.

An epoch without a cache costs as much as any other, so one of each loop is measured in a round, whole, on the same
images, after a warm-up; the median times the epochs is its time, and `epochs_measured` says how many there were. Its
start is not counted. Needs data.raw, data/prepared, models/backbone and models/phases/head: `dvc repro head`.
"""

import argparse
import functools
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import nn

from bench import _tools
from bench._loop import Batch, ImageFiles, Loop, loader, rendered
from bench._workspace import Workspace, open_workspace
from thaw.activations.engine import use_threads
from thaw.activations.prefix import Views
from thaw.augment.draws import epoch_order
from thaw.config.schema import PhaseParams
from thaw.data.packed import labelled
from thaw.head.examples import soft_targets
from thaw.pipeline import timings
from thaw.training import phase_folder
from thaw.training.groups import lowest_block, param_groups, rules_of
from thaw.training.loop import Classifier
from thaw.training.norms import train_with_norms
from thaw.training.phase import run_phase, settle_phase

_NAME = "top"
_WARM_UP = 2


def main() -> None:
    """Measure the three sides and print one JSON line: seconds, ratios, and where Thaw's seconds went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, help="blocks to unfreeze; default: as in params.yaml")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="how often Thaw's phase and an epoch are measured")
    parser.add_argument("--images", type=int, help="take this many images, evenly spaced, instead of all")
    parser.add_argument("--workers", type=int, help="processes that decode for the default loop; default: one a core")
    given = parser.parse_args()

    def run() -> _tools.Facts:
        workspace = open_workspace(given.images)
        changes = {"depth": given.depth, "views": given.views, "epochs": given.epochs}
        params = workspace.phase(_NAME, **changes)
        return measure(workspace, params, num_rounds=given.rounds, workers=given.workers)

    _tools.report("phase", run)


def measure(workspace: Workspace, params: PhaseParams, *, num_rounds: int, workers: int | None) -> _tools.Facts:
    """Return the seconds of the three sides, their ratios, and the parts of Thaw's."""
    use_threads(workspace.params.compute)
    sides: dict[str, Callable[[], object]] = {
        "thaw": functools.partial(run_thaw, workspace, params),
        "default": _default_epoch(workspace, params, workers),
        "packed": _packed_epoch(workspace, params),
    }
    settings = {"data": workspace.images.fingerprint, "params": workspace.params.model_dump()}
    found = _tools.rounds(
        "phase",
        settings | {"phase": params.model_dump(), "workers": workers},
        num_rounds,
        lambda number: _tools.in_turn(sides, number),
    )
    return {
        "images": {split: len(workspace.images.rows(split)) for split in ("train", "val")},
        "depth": params.depth,
        "views": params.views,
        **summary(found, params.epochs),
    }


def summary(found: list[_tools.Facts], epochs: int) -> _tools.Facts:
    """Return median seconds of the sides, those of the loops for all epochs, the ratios to Thaw's, and its parts."""
    seconds = {"thaw": _tools.median([entry["thaw"] for entry in found], "total")}
    loops = ("default", "packed")
    seconds |= {name: epochs * _tools.median(found, name) for name in loops}
    parts = sorted({name for entry in found for name in entry["thaw"]} - {"total"})
    whole = [{name: entry["thaw"].get(name, 0.0) for name in parts} for entry in found]
    return {
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "ratio": {name: round(seconds[name] / seconds["thaw"], 2) for name in loops},
        "parts": {name: round(_tools.median(whole, name), 1) for name in parts},
        "epochs": epochs,
        "epochs_measured": {"thaw": epochs * len(found), "default": len(found), "packed": len(found)},
        "each_round": [{"thaw": entry["thaw"]} | {name: round(entry[name], 2) for name in loops} for entry in found],
    }


def run_thaw(workspace: Workspace, params: PhaseParams) -> dict[str, float]:
    """Return the seconds of a phase from nothing, `total`, and of its parts; `other` is in no part."""
    backbone = workspace.network(workspace.images.channels)
    before = timings.spent()
    with _tools.empty_scratch():
        total = _tools.seconds_of(
            lambda: run_phase(
                _NAME,
                params,
                images=workspace.images,
                backbone=backbone,
                start=workspace.start,
                augment=workspace.augment,
                seed=workspace.params.seed,
                compute=workspace.params.compute,
                on_epoch=lambda _: None,
            )
        )
    parts = {name: spent - before.get(name, 0.0) for name, spent in timings.spent().items()}
    parts = {name: spent for name, spent in parts.items() if spent > 0}
    found = {"total": total, **parts, "other": total - sum(parts.values())}
    return {name: round(spent, 2) for name, spent in found.items()}


def network(
    workspace: Workspace, params: PhaseParams, channels: int, memory_format: torch.memory_format, *, fused: bool
) -> Loop:
    """Return a plain loop over the same halves of the same network, with the same optimizer groups."""
    backbone = workspace.network(channels)
    index = lowest_block(params, backbone)
    head = phase_folder.assemble(backbone, workspace.start.tensors, workspace.start.model)
    prefix, suffix = backbone.split(len(backbone.units) - index)
    trained = Classifier(suffix, head)
    rules = rules_of(params, backbone, index)
    groups = param_groups(trained.named_parameters(), rules, params.weight_decay)
    mode = settle_phase(_NAME, params, rules, trained).norm_mode
    optimizer = torch.optim.AdamW(groups, fused=fused)

    def to_train_mode(module: nn.Module) -> None:
        train_with_norms(module, mode)

    return Loop(prefix, trained, optimizer, to_train_mode, memory_format)


def _default_epoch(workspace: Workspace, params: PhaseParams, workers: int | None) -> Callable[[], float]:
    """Return an epoch of the default loop, in seconds, warmed up."""
    loop = network(workspace, params, 3, torch.contiguous_format, fused=False)
    spec, flip = workspace.spec, workspace.augment.flip
    loaders = []
    for split in ("train", "val"):
        examples, train = labelled(workspace.images, split), split == "train"
        targets = soft_targets(examples.labels, examples.confidence, len(workspace.images.classes)).numpy()
        images = ImageFiles(
            workspace.files(examples.rows), targets if train else examples.labels, spec, flip=flip if train else "none"
        )
        loaders.append(loader(images, batch_size=params.batch_size, workers=workers, train=train))
    loop.epoch(*(itertools.islice(batches, _WARM_UP) for batches in loaders))
    return lambda: _tools.seconds_of(lambda: loop.epoch(*loaders))


def _packed_epoch(workspace: Workspace, params: PhaseParams) -> Callable[[], float]:
    """Return an epoch of the loop over packed images in channels_last, in seconds, warmed up."""
    loop = network(workspace, params, workspace.images.channels, torch.channels_last, fused=True)
    views = Views(workspace.images, workspace.spec, workspace.params.seed, workspace.augment)
    train, val = (labelled(workspace.images, split) for split in ("train", "val"))
    targets = soft_targets(train.labels, train.confidence, len(workspace.images.classes))
    num_seen = len(train.rows) // params.batch_size * params.batch_size or len(train.rows)
    epochs = itertools.count(1)

    def batches() -> tuple[Iterator[Batch], Iterator[Batch]]:
        number = next(epochs)
        order = epoch_order(len(train.rows), seed=workspace.params.seed, phase=_NAME, epoch=number)[:num_seen]
        size = params.batch_size
        return (
            rendered(views, train.rows[order], targets[order], view=number, batch_size=size),
            rendered(views, val.rows, torch.from_numpy(val.labels), view=0, batch_size=size),
        )

    loop.epoch(*(itertools.islice(part, _WARM_UP) for part in batches()))
    return lambda: _tools.seconds_of(lambda: loop.epoch(*batches()))


if __name__ == "__main__":
    main()
