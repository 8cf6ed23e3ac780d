"""Accuracy of a bank of views against fresh augmentation: the real `dvc repro select` in a clone, paired over seeds.

    python -m bench.views                                    bank of 4 against fresh, five seeds: about 45 minutes
    python -m bench.views --views 2 4 8                      several banks, each against the same fresh runs
    python -m bench.views --seeds 1 --epochs 1 --images 80   to try it, on generated pictures

Per seed, with a split of its own, the phase `top` (depth 3, 8 epochs) starts from the same head twice: with a bank of
views, and with `views: 0`, a new view of each image in every epoch. Nothing else differs. The augmentation is one that
no bank can exhaust (crops and rotations; mirror images alone are finite), and there are more epochs than views, or the
bank would be as fresh as the other. Reported are the differences on validation, bank less fresh, and their mean with
its standard error over the seeds: above 0 is better for accuracy, below 0 for the log loss.

Needs the installation only; the clone is of the last commit. Resumable: a seed and side that is done at the same params
is read back from .thaw/bench/, with the commit that it was run at; delete that folder to measure anew.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import _tools
from bench._photos import write_photos
from bench.accuracy import overlaid
from thaw.config.reader import read_tree
from thaw.pipeline import artifacts

_NAME = "top"
_AUGMENT = {"crop_scale": 0.7, "rotate_deg": 10.0}
_FRESH = 0
_PHOTOS_PX = 64


def main() -> None:
    """Run the seeds and sides that are not done yet and print one JSON line: each bank's differences to fresh views."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, nargs="+", default=[4], help="sizes of the banks")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0 on")
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--images", type=int, help="take this many generated pictures instead of params.yaml's data")
    given = parser.parse_args()

    def run() -> _tools.Facts:
        tree = settings(read_tree(Path("params.yaml")), given.depth, given.epochs, given.images)
        sides = [_FRESH, *given.views]
        runs = [_run_seed(tree | {"seed": seed}, sides, given.images) for seed in range(given.seeds)]
        return {"depth": given.depth, "epochs": given.epochs, "augment": _AUGMENT, **summary(runs)}

    _tools.report("views", run)


def settings(tree: dict[str, Any], depth: int, epochs: int, num_images: int | None) -> dict[str, Any]:
    """Return params.yaml with one phase alone and an augmentation without end."""
    phase = tree["unfreeze"]["phases"][_NAME] | {"depth": depth, "epochs": epochs}
    tree = overlaid(tree, {"augment": _AUGMENT, "unfreeze": {"phases": {_NAME: phase}}})
    small = {
        "data": dict.fromkeys(("raw", "labels"), "data/photos"),
        "prepare": {"size_px": _PHOTOS_PX},
        "backbone": {"input_px": _PHOTOS_PX},
    }
    return tree if num_images is None else overlaid(tree, small)


def summary(runs: Sequence[dict[int, dict[str, Any]]]) -> _tools.Facts:
    """Return, for each bank, the paired differences to fresh views; `runs` holds the sides of each seed by views."""
    banks = [views for views in runs[0] if views != _FRESH]
    return {
        "seeds": len(runs),
        "banks": {
            str(views): {key: paired([run[views][key] - run[_FRESH][key] for run in runs]) for key in _FIGURES}
            for views in banks
        },
        "mean": {
            _label(views): {key: round(statistics.fmean(run[views][key] for run in runs), 4) for key in _FIGURES}
            for views in runs[0]
        },
        "seconds": {_label(views): [run[views]["seconds"] for run in runs] for views in runs[0]},
        "commits": sorted({side["commit"] for run in runs for side in run.values()}),
    }


_FIGURES = ("accuracy", "log_loss")


def paired(differences: Sequence[float]) -> _tools.Facts:
    """Return the mean of paired differences with its standard error (None for a single pair), and each of them."""
    count = len(differences)
    error = statistics.stdev(differences) / count**0.5 if count > 1 else None
    return {
        "mean_difference": round(statistics.fmean(differences), 4),
        "standard_error": None if error is None else round(error, 4),
        "each": [round(value, 4) for value in differences],
    }


def _label(views: int) -> str:
    return "fresh" if views == _FRESH else f"bank of {views}"


def _run_seed(tree: dict[str, Any], sides: Sequence[int], num_images: int | None) -> dict[int, dict[str, Any]]:
    """Return what validation says of each side; the sides share a clone, and so split, features and head."""
    key = artifacts.digest({name: value for name, value in tree.items() if name != "compute"} | {"images": num_images})
    found = {}
    for views in sides:
        phase = tree["unfreeze"]["phases"][_NAME] | {"views": views}
        done = _tools.kept("views", {"seed": key, "views": views})
        if not done.exists():
            clone = _tools.clone(key, overlaid(tree, {"unfreeze": {"phases": {_NAME: phase}}}))
            if num_images is not None:
                write_photos(clone / "data" / "photos", num_images, _PHOTOS_PX)
            artifacts.write_json(done, _run_side(clone))
        found[views] = artifacts.read_json(done)
    artifacts.remove(_tools.clone_folder(key))
    return found


def _run_side(clone: Path) -> dict[str, Any]:
    subprocess.run(["dvc", "repro", "select"], cwd=clone, env=_tools.environment(clone), check=True, stdout=sys.stderr)
    seen = artifacts.read_json(clone / "reports" / "selection.json")["candidates"][_NAME]
    timing = artifacts.read_json(clone / ".thaw" / "timings" / f"unfreeze@{_NAME}.json")
    return {
        **{key: seen[key] for key in _FIGURES},
        "seconds": timing["seconds"],
        "commit": _tools.commit(clone),
    }


if __name__ == "__main__":
    main()
