"""Is the advice right? What it names, beside an exhaustive grid of depth and rate, on test images.

    python -m bench.advise                                            every set, two sizes: hours on two cores
    python -m bench.advise --sets digits emoji --sizes 320 --draws 2

Each draw takes development images out of a set, as `bench.small` does, of which a fifth is validation. The head is
solved, the trials of the stage `advise` are made, then a phase from the head is trained at each depth and rate by the
shipped code, at 112 px, and all are scored on the set's test images. What is advised is trained as it would be, step
after step. Beside it: the head alone, a fixed depth of a third at 3e-4, everything at 3e-4, and the best of the grid.

A draw that is done is read back from .thaw/bench/advise/; delete that folder to measure anew.
"""

import argparse
import contextlib
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from bench import _tools, small
from thaw.advice.advise import Setting, advise
from thaw.advice.ground import ground_of
from thaw.advice.trials import DEPTHS, RATES
from thaw.config.reader import load_params
from thaw.config.schema import AugmentParams, Params, PhaseParams
from thaw.data.packed import LabelledRows, PackedImages, labelled
from thaw.head import features
from thaw.pipeline import artifacts, scratch
from thaw.training.parts import Start
from thaw.training.phase import Trained, run_phase

SIZES = (320, 960)
MOST_IMAGES = 640
_FIXED = ("1/3", 3e-4)
_EVERYTHING = ("all", 3e-4)


def main() -> None:
    """Take the draws that are not there yet, and print one JSON line: what the advice is worth, overall and by set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=small.SETS, default=list(small.SETS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="development images")
    parser.add_argument("--draws", type=int, default=1)
    given = parser.parse_args()
    wanted = [(name, size, draw) for draw in range(given.draws) for size in given.sizes for name in given.sets]
    params = load_params()
    _tools.report("advise", lambda: summary([outcome(params, *one) for one in wanted]))


def outcome(params: Params, name: str, size: int, draw: int) -> dict[str, Any]:
    """Return what a draw showed, which is taken unless it is kept."""
    path = scratch.folder() / "bench" / "advise" / f"{name}-{size}-{draw}.json"
    if not path.exists():
        artifacts.write_json(path, {"set": name, "size": size, "draw": draw} | take(params, name, size, draw))
    return artifacts.read_json(path)


def one_split(images: PackedImages) -> PackedImages:
    """Return a draw of five folds as one split: the first fold is validation."""
    fold, dev = images.samples["fold"].to_numpy(), (images.samples["split"] != "test").to_numpy()
    split = np.where(dev, np.where(fold == 0, "val", "train"), "test")
    return replace(images, samples=images.samples.assign(split=split, fold=np.where(fold == 0, 0, -1)))


def take(params: Params, name: str, size: int, draw: int) -> dict[str, Any]:
    """Return the advice of a draw, and the test accuracy of the head, of what is advised and of each of the grid."""
    images = one_split(small.drawn(name, size, draw))
    with _tools.empty_scratch() as folder, contextlib.redirect_stdout(io.StringIO()):
        test = labelled(images, "test")
        _, start, augment, on_test = small.head_of(params, images, folder / "features", test)
        setting = Setting(small.network, augment, params.unfreeze.defaults, draw, small.COMPUTE)
        began = time.process_time()
        data = features.read(folder / "features")
        advice = advise(ground_of(images, data, start.model, most=MOST_IMAGES, seed=draw), start.model, setting)
        trials_s = time.process_time() - began
        advised, following = float((on_test.argmax(axis=1) == test.labels).mean()), start
        head = advised
        for step in advice.steps:
            advised, trained = _phase(params, images, augment, draw, test, following, step.depth_blocks, step.lr)
            following = Start(trained.outcome.tensors, trained.model)
        began, grid = time.process_time(), {}
        for depth in DEPTHS:
            for lr in RATES:
                grid[f"{depth} {lr:g}"] = _phase(params, images, augment, draw, test, start, depth, lr)[0]
        grid_s = time.process_time() - began
    return {
        "regime": advice.regime,
        "steps": [[step.depth_blocks, step.lr] for step in advice.steps],
        "head": head,
        "advised": advised,
        "grid": grid,
        "gains": {f"{tried.depth_blocks} {tried.lr:g}": -tried.change for tried in advice.trials if not tried.start},
        "seconds": {"trials": round(trials_s, 1), "grid": round(grid_s, 1)},
    }


def _phase(
    params: Params,
    images: PackedImages,
    augment: AugmentParams,
    seed: int,
    test: LabelledRows,
    start: Start,
    depth: int | str,
    lr: float,
) -> tuple[float, Trained]:
    """Return the test accuracy of a phase after its last epoch, and the phase."""
    usual = params.unfreeze.defaults.model_dump(exclude={"depth", "lr"})
    watch = small.Watch(test)
    trained = run_phase(
        "phase",
        PhaseParams.model_validate(usual | {"start": "head", "depth": depth, "lr": lr}),
        images=images,
        backbone=small.network(),
        start=start,
        augment=augment,
        seed=seed,
        compute=small.COMPUTE,
        on_epoch=watch,
    )
    return float((watch.test[-1].argmax(axis=1) == test.labels).mean()), trained


def summary(draws: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean test accuracies, the regret to the best of the grid, and the share of its time, with errors."""
    table = pd.DataFrame([row(draw) for draw in draws])

    return {
        "all": small.figures(table),
        "sets": {str(name): small.figures(part) for name, part in table.groupby("set")},
        "regimes": {f"{draw['set']}-{draw['size']}-{draw['draw']}": draw["regime"] for draw in draws},
    }


def row(draw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a draw: accuracies, regret, share of time, and rank correlation of trials and truth."""
    grid, depth = draw["grid"], {blocks: share for share, blocks in zip(DEPTHS, _blocks(), strict=True)}
    known = {f"{depth[int(key.split()[0])]} {key.split()[1]}": gain for key, gain in draw["gains"].items()}
    pairs = [(gain, grid[key]) for key, gain in known.items()]
    return {
        "set": draw["set"],
        "size": draw["size"],
        "head": draw["head"],
        "advised": draw["advised"],
        "a third": grid["{} {:g}".format(*_FIXED)],
        "everything": grid["{} {:g}".format(*_EVERYTHING)],
        "best": max(draw["head"], *grid.values()),
        "regret": max(draw["head"], *grid.values()) - draw["advised"],
        "share of time": draw["seconds"]["trials"] / draw["seconds"]["grid"],
        "rank": float(spearmanr(*zip(*pairs, strict=True)).statistic) if len(pairs) > 2 else float("nan"),
    }


def _blocks() -> list[int]:
    network = small.network()
    return [len(network.blocks) - network.cut_index(depth) for depth in DEPTHS]


if __name__ == "__main__":
    main()
