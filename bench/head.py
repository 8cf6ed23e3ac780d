"""Seconds for a head on a frozen network: Thaw's stages `features` and `head`, against the loop of common tools.

    python -m bench.head                                             about 8 minutes
    python -m bench.head --images 64 --rounds 1 --workers 0

Thaw's side is the two real stages, each a process of its own that starts Python, from an empty scratch folder: export,
every view that params.yaml asks for, and the solved head. The other side is a loop of 30 epochs that pushes every image
through the network in torch eager in each epoch: the file opened, made RGB, resized and normalised by a DataLoader with
a worker a core, the backbone in the default memory format, in eval mode and under no_grad, a linear layer trained by
AdamW, and validation once an epoch. An epoch costs as much as any other, so only one is measured in each round, whole,
on the same images, and the median is taken times 30; `epochs_measured` says how many there were. The loop's start is
not counted. Needs data.raw, data/prepared, models/backbone and models/phases/head: `dvc repro head`.
"""

import argparse
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from bench import _tools
from bench._loop import ImageFiles, Loop, loader
from bench._workspace import Workspace, open_workspace
from thaw.activations.engine import use_threads
from thaw.data.packed import PackedImages
from thaw.pipeline import artifacts, code, facts, tables
from thaw.pipeline.data_facts import ClassNames

_STAGES = ("features", "head")
_BATCH = 32
_LR = 0.001


def main() -> None:
    """Measure both sides and print one JSON line: seconds of each, their ratio, what they rest on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30, help="epochs of the loop")
    parser.add_argument("--rounds", type=int, default=3, help="how often Thaw's side and an epoch are measured")
    parser.add_argument("--images", type=int, help="take this many images, evenly spaced, instead of all")
    parser.add_argument("--workers", type=int, help="processes that decode for the loop; default: one a core")
    given = parser.parse_args()
    _tools.report(
        "head",
        lambda: measure(
            open_workspace(given.images), num_rounds=given.rounds, epochs=given.epochs, workers=given.workers
        ),
    )


def measure(workspace: Workspace, *, num_rounds: int, epochs: int, workers: int | None) -> _tools.Facts:
    """Return seconds of both sides and their ratio."""
    use_threads(workspace.params.compute)
    epoch = _loop_epoch(workspace, workers)
    settings = {"data": workspace.images.fingerprint, "params": workspace.params.model_dump(), "workers": workers}

    def one_round(number: int) -> _tools.Facts:
        sides = {"thaw": lambda: _run_stages(workspace), "loop_epoch": lambda: _tools.seconds_of(epoch)}
        return _tools.in_turn(sides, number)

    found = _tools.rounds("head", settings, num_rounds, one_round)
    splits = workspace.images.samples["split"].value_counts()
    return {
        "images": {split: int(splits.get(split, 0)) for split in ("train", "val")},
        "views": workspace.params.features.views,
        **summary(found, epochs),
    }


def summary(found: list[_tools.Facts], epochs: int) -> _tools.Facts:
    """Return the median seconds of both sides, the loop's for all its epochs, and their ratio."""
    thaw, loop = _tools.median(found, "thaw"), epochs * _tools.median(found, "loop_epoch")
    return {
        "seconds": {"thaw": round(thaw, 1), "loop": round(loop, 1)},
        "ratio": round(loop / thaw, 1),
        "epochs": epochs,
        "epochs_measured": len(found),
        "each_round": [{name: round(seconds, 1) for name, seconds in entry.items()} for entry in found],
    }


def _run_stages(workspace: Workspace) -> float:
    """Return the seconds that the stages take in a folder of their own, with nothing kept from an earlier run."""
    with _tools.empty_scratch() as scratch, _folder(workspace, scratch / "workspace") as folder:
        environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "THAW_SCRATCH": str(scratch)}
        return _tools.seconds_of(
            lambda: [
                subprocess.run(
                    [sys.executable, "-m", f"stages.{name}"], cwd=folder, env=environment, check=True, stdout=sys.stderr
                )
                for name in _STAGES
            ]
        )


@contextmanager
def _folder(workspace: Workspace, folder: Path) -> Iterator[Path]:
    """Yield a folder with what the stages read: params.yaml, the images, the backbone."""
    for name in ("data", "models"):
        (folder / name).mkdir(parents=True)
    shutil.copy("params.yaml", folder)
    code.write(folder / code.FOLDER, code.running())
    (folder / "models" / "backbone").symlink_to(Path("models/backbone").resolve())
    prepared = Path("data/prepared").resolve()
    if artifacts.verify(prepared) == workspace.images.fingerprint:
        (folder / "data" / "prepared").symlink_to(prepared)
    else:
        write_prepared(folder / "data" / "prepared", workspace.images, prepared / "settings.json")
    yield folder


def write_prepared(folder: Path, images: PackedImages, settings: Path) -> None:
    """Write images as `prepare` does, as far as later stages read it."""
    with artifacts.new_folder(folder) as partial:
        for number, shard in enumerate(images.shards):
            np.save(partial / f"images-{number:05d}.npy", shard)
        tables.write(partial / "samples.csv", images.samples)
        facts.write(partial / "classes.json", ClassNames(classes=images.classes))
        shutil.copy(settings, partial / "settings.json")


def _loop_epoch(workspace: Workspace, workers: int | None) -> Callable[[], float]:
    """Return one epoch of the loop, training and validation; its first batches have gone before."""
    torch.manual_seed(0)
    backbone = workspace.network(3)
    whole, _ = backbone.split(0)
    layer = nn.Linear(backbone.num_features, len(workspace.images.classes))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=_LR)
    loop = Loop(whole, layer, optimizer, nn.Module.train, torch.contiguous_format)

    def batches(split: str, num_images: int | None = None) -> DataLoader[Any]:
        rows = workspace.images.rows(split)[:num_images]
        images = ImageFiles(workspace.files(rows), workspace.images.labels(rows), backbone.spec)
        return loader(images, batch_size=_BATCH, workers=workers if num_images is None else 0, train=split == "train")

    loop.epoch(batches("train", 2 * _BATCH), batches("val", _BATCH))
    return functools.partial(loop.epoch, batches("train"), batches("val"))


if __name__ == "__main__":
    main()
