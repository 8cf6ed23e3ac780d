"""Seconds a thousand images and peak memory of every stage, on 2,000, 10,000 and 50,000 generated images.

    python -m bench.scale                              all three sizes: about 30 minutes, 3 GB of disk
    python -m bench.scale --sizes 2000 10000
    python -m bench.scale --sizes 60 120               to try it

The images are JPEG files of 96 px in two classes that differ a little; the network sees 96 px, `top` trains for one
epoch on its bank, everything else is as params.yaml ships it. The stages run one after another without DVC, in a clone
of the last commit. `slowdown` is the cost of an image at the largest size over that at the smallest: 1 is flat, and
what a stage costs once (starting Python, the export) pulls it below 1. `marginal` is without that: the seconds of each
thousand images more, from one size to the next. `growth` is the peak memory at the largest size over that at the
smallest, each the peak of all stages.

Needs the installation only. Resumable: a size that is done at the same params and code is read back from .thaw/bench/,
with the commit; delete that folder to measure anew.
"""

import argparse
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import _tools
from bench._photos import write_photos
from bench.accuracy import overlaid
from thaw.config.reader import read_tree
from thaw.pipeline import artifacts

_SIZES = (2_000, 10_000, 50_000)
_SIDE_PX = 96
_NAME = "top"
_STAGES = (["code"], ["prepare"], ["backbone"], ["features"], ["head"], ["unfreeze", _NAME])
_WITH_IMAGES = ("prepare", "features", "head", f"unfreeze@{_NAME}")

Stages = Mapping[str, Mapping[str, float]]


def main() -> None:
    """Run the sizes that are not done yet and print one JSON line: seconds and peak of each stage at each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES, help="numbers of images")
    given = parser.parse_args()

    def run() -> _tools.Facts:
        tree = settings(read_tree(Path("params.yaml")))
        found = {size: _run_size(tree, size) for size in sorted(given.sizes)}
        return {"side_px": _SIDE_PX, **summary({size: entry["stages"] for size, entry in found.items()})} | {
            "commits": sorted({entry["commit"] for entry in found.values()})
        }

    _tools.report("scale", run)


def settings(tree: dict[str, Any]) -> dict[str, Any]:
    """Return params.yaml for small images and one epoch of one phase."""
    phase = tree["unfreeze"]["phases"][_NAME] | {"epochs": 1}
    small = {
        "data": dict.fromkeys(("raw", "labels"), "data/photos"),
        "prepare": {"size_px": _SIDE_PX},
        "backbone": {"input_px": _SIDE_PX},
    }
    return overlaid(tree, small | {"unfreeze": {"phases": {_NAME: phase}}})


def summary(found: Mapping[int, Stages]) -> _tools.Facts:
    """Return seconds a thousand images and peaks by size and stage, and how both grow; `found` is by size and stage."""
    sizes = sorted(found)
    seconds = {size: {name: found[size][name]["seconds"] for name in _WITH_IMAGES} for size in sizes}
    seconds = {size: part | {"all": sum(part.values())} for size, part in seconds.items()}
    peaks = {size: {name: entry["peak_mib"] for name, entry in found[size].items()} for size in sizes}
    each = {size: {name: 1000 * value / size for name, value in part.items()} for size, part in seconds.items()}
    steps = list(itertools.pairwise(sizes))
    first, last = sizes[0], sizes[-1]
    return {
        "seconds_a_thousand": {str(size): _rounded(part) for size, part in each.items()},
        "slowdown": _rounded({name: each[last][name] / max(each[first][name], 1e-9) for name in each[first]}),
        "marginal": {
            f"{low} to {high}": _rounded(
                {name: 1000 * (seconds[high][name] - seconds[low][name]) / (high - low) for name in seconds[low]}
            )
            for low, high in steps
        },
        "peak_mib": {str(size): {**part, "all": max(part.values())} for size, part in peaks.items()},
        "growth": round(max(peaks[last].values()) / max(peaks[first].values()), 2),
    }


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


def _run_size(tree: dict[str, Any], size: int) -> dict[str, Any]:
    """Return seconds and peak of each stage on that many images."""
    settings = {"params": tree, "size": size, "code": _tools.committed_code()}
    done = _tools.kept("scale", settings)
    if done.exists():
        return artifacts.read_json(done)
    key = artifacts.digest(settings)
    artifacts.remove(_tools.clone_folder(key))  # of an interrupted run: its caches would make this one faster
    clone = _tools.clone(key, tree)
    print(f"scale: {size} images are made", file=sys.stderr, flush=True)
    write_photos(clone / "data" / "photos", size, _SIDE_PX)
    stages = {}
    for stage in _STAGES:
        command = [sys.executable, "-m", f"stages.{stage[0]}", *stage[1:]]
        peak, seconds = _tools.peak_of(command, cwd=clone, environment=_tools.environment(clone))
        stages["@".join(stage)] = {"seconds": seconds, "peak_mib": peak}
    result = {"stages": stages, "commit": _tools.commit(clone)}
    artifacts.write_json(done, result)
    artifacts.remove(clone)
    return result


if __name__ == "__main__":
    main()
