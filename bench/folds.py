"""What five folds cost: the whole `dvc repro` on 240 development images of the sample, with five folds and with one.

    python -m bench.folds               three seeds, each side in turn: about 20 minutes
    python -m bench.folds --seeds 1     to try it

Both sides are clones of the last commit with the shipped params. A run at the same params is read back from
.thaw/bench/; delete that folder to measure anew.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

from bench import _cells, _tools
from thaw.config.reader import read_tree

_DEVELOPMENT = 240
_FOLDER = "data/few"
SIDES = {"one": 1, "five": 5}


def main() -> None:
    """Run both sides for each seed and print one JSON line: seconds, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    _tools.report("folds", lambda: summary([measure(seed) for seed in range(arguments.seeds)]))


def measure(seed: int) -> _tools.Facts:
    """Return the run of each side with this seed."""
    return _tools.in_turn({name: functools.partial(run, seed, folds) for name, folds in SIDES.items()}, seed)


def run(seed: int, folds: int) -> _tools.Facts:
    """Return what `dvc repro` gives on a few cells, split by this seed."""
    tree = read_tree(Path("params.yaml"))
    tree |= {"seed": seed, "data": {"raw": _FOLDER, "labels": _FOLDER}, "select": tree["select"] | {"folds": folds}}
    share = _DEVELOPMENT / (1 - tree["prepare"]["test_fraction"])
    table = _cells.split_of(tree).assign(split="train")
    few = _cells.part_of(table, share / len(table), seed).drop(columns="split")
    return _tools.pipeline("folds", tree, furnish=lambda clone: _cells.lay_out(few, clone / _FOLDER))


def summary(found: Sequence[_tools.Facts]) -> _tools.Facts:
    """Return the median seconds of both sides, whole and of the stages that run a network, and the ratios."""
    stages = sorted({stage for pair in found for stage in pair["one"]["stages"]})
    seconds = {name: [pair[name]["seconds"] for pair in found] for name in SIDES}
    each = [round(five / one, 2) for five, one in zip(seconds["five"], seconds["one"], strict=True)]
    return {
        "seconds": seconds,
        "ratio": _tools.median([{"ratio": ratio} for ratio in each], "ratio"),
        "each": each,
        "stages": {
            stage: {name: _tools.median([pair[name]["stages"] for pair in found], stage) for name in SIDES}
            for stage in stages
        },
        "images": {name: [pair[name]["metrics"]["test"]["n"] for pair in found] for name in SIDES},
        "commits": sorted({pair[name]["commit"] for pair in found for name in SIDES}),
    }


if __name__ == "__main__":
    main()
