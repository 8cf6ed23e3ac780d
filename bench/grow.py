"""A third class for a model of two, on real data: recall of the old classes before and after, on the same test images.

    python -m bench.grow                     three seeds: about 35 minutes alone on two cores
    python -m bench.grow --seeds 1

The experts who labelled the sample were sure of 2,223 cells (defect probability 0 or 1) and not of 401 (1/3 or 2/3).
Each seed draws a split of its own and runs the shipped params with the phase `top` alone three times: `before`, on the
sure cells, two classes; `grown`, on all of them with a third class `uncertain`, the head grown from that model
(`head.grow_from`) and `top` from there, without a refit; `anew`, the same three classes from ImageNet. Recalls of the
grown head before any further training are reported as well (`grown_head`).

Resumable: a run that is done at the same params is read back from .thaw/bench/, with the commit that it was run at;
delete that folder to measure anew.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench import _cells, _tools
from thaw.config.reader import load_params, read_tree
from thaw.config.schema import ComputeParams
from thaw.data.packed import PackedImages
from thaw.evaluation import test_answers
from thaw.pipeline import artifacts, facts
from thaw.pipeline.model_facts import ModelFacts
from thaw.training import model

NEW = "uncertain"
_FINAL = "models/final"


def main() -> None:
    """Run the seeds that are not done yet and print one JSON line: the recall of each class before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0 on")
    given = parser.parse_args()

    def run() -> _tools.Facts:
        tree = _cells.with_phase(read_tree(Path("params.yaml")))
        return summary([_run_seed(tree | {"seed": seed}) for seed in range(given.seeds)])

    _tools.report("grow", run)


def settings(tree: dict[str, Any], *, three: bool, grown: bool) -> dict[str, Any]:
    """Return the params of a run on two or three classes, grown from the model in `parent/` or not."""
    folder = _raw(three=three)
    tree = tree | {"data": {"raw": folder, "labels": folder}}
    if not grown:
        return tree
    tree = _cells.with_phase(tree, warm_start=False)  # a refit would solve the grown head anew
    return tree | {
        "backbone": tree["backbone"] | {"source": "model:parent", "sha256": None},
        "head": tree["head"] | {"grow_from": "model:parent"},
    }


def three_classes(table: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with those that the experts were not sure of as a class of their own."""
    unsure = (table["probability"] > 0) & (table["probability"] < 1)
    return table.assign(label=table["label"].where(~unsure, NEW))


def recalls(labels: NDArray[np.int64], probabilities: NDArray[np.float64], classes: Sequence[str]) -> dict[str, float]:
    """Return the share of each class's images that are given its name, and the mean over the old classes."""
    right = probabilities.argmax(axis=1) == labels
    found = {name: float(right[labels == number].mean()) for number, name in enumerate(classes)}
    found["old_classes"] = float(np.mean([value for name, value in found.items() if name != NEW]))
    return {name: round(value, 4) for name, value in found.items()}


def summary(runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> _tools.Facts:
    """Return the recall of each class for each model, as means over the seeds and seed by seed."""
    names = {"before": ("before", "final"), "grown_head": ("grown", "head"), "grown": ("grown", "final")}
    names |= {"anew": ("anew", "final")}
    each = {name: [run[side]["recalls"][which] for run in runs] for name, (side, which) in names.items()}
    return {
        "seeds": len(runs),
        "num_test": [run["grown"]["num_test"] for run in runs],
        "recall": {name: _cells.mean_of(values) for name, values in each.items()},
        "each": each,
        "chosen": [run["grown"]["metrics"]["final"]["phase"] for run in runs],
        "on_validation": [run["grown"]["grown_from"] for run in runs],
        "seconds": {side: [run[side]["seconds"] for run in runs] for side in runs[0]},
        "commits": sorted({side["commit"] for run in runs for side in run.values()}),
    }


def recall_of(
    folder: Path, images: PackedImages, rows: NDArray[np.int64], compute: ComputeParams, backbone: Path | None = None
) -> dict[str, float]:
    """Return the recalls of a model, or of what a phase makes of the backbone in a folder, on rows of a data set."""
    one = model.load(folder) if backbone is None else model.load_phase(folder, backbone)
    answers = test_answers.answer({"it": one}, images, rows, compute=compute, label=f"grow: {folder.name}")
    return recalls(images.labels(rows), answers["it"], images.classes)


def gather(clone: Path, compute: ComputeParams) -> dict[str, Any]:
    """Return the recalls of head and final model on the test images of a finished run, and how many there are."""
    images = PackedImages.open(clone / "data" / "prepared")
    rows, head = images.rows("test"), clone / "models" / "phases" / "head"
    labels, grown = images.labels(rows), facts.read(head / "model.json", ModelFacts).head.grown_from
    return {
        "recalls": {
            "head": recall_of(head, images, rows, compute, clone / "models" / "backbone"),
            "final": recall_of(clone / _FINAL, images, rows, compute),
        },
        "num_test": {name: int((labels == number).sum()) for number, name in enumerate(images.classes)},
        "grown_from": grown and grown.model_dump(mode="json"),
    }


def _run_seed(tree: dict[str, Any]) -> dict[str, dict[str, Any]]:
    kept, compute = _cells.keep_model(f"grow-{tree['seed']}"), load_params().compute

    def keep(clone: Path) -> dict[str, Any]:
        _cells.copy_model(clone / _FINAL, kept)
        return gather(clone, compute) | {"model": artifacts.verify(kept)}

    def furnish_grown(clone: Path) -> None:
        _furnish(tree, three=True)(clone)
        _cells.copy_model(kept, clone / "parent")

    def look(clone: Path) -> dict[str, Any]:
        return gather(clone, compute)

    before = settings(tree, three=False, grown=False)
    grown, anew = settings(tree, three=True, grown=True), settings(tree, three=True, grown=False)
    return {
        "before": _tools.pipeline("grow", before, furnish=_furnish(tree, three=False), gather=keep),
        "grown": _tools.pipeline("grow", grown, furnish=furnish_grown, gather=look),
        "anew": _tools.pipeline("grow", anew, furnish=_furnish(tree, three=True), gather=look),
    }


def _furnish(tree: dict[str, Any], *, three: bool) -> Callable[[Path], None]:
    def furnish(clone: Path) -> None:
        table = three_classes(_cells.split_of(tree))
        _cells.lay_out(table if three else table[table["label"] != NEW], clone / _raw(three=three))

    return furnish


def _raw(*, three: bool) -> str:
    return "data/three" if three else "data/two"


if __name__ == "__main__":
    main()
