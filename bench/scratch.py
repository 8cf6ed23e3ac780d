"""From scratch against fine-tuned, on 10, 30 and 100 % of the sample's training images; with a plot for the guide.

    python -m bench.scratch                                  six runs: about 45 minutes alone on two cores
    python -m bench.scratch --parts 0.1 --epochs 5           to try it
    python -m bench.scratch --plot docs/images/scratch.svg   where the plot goes

Both sides see the same images at 112 px (half the usual side, a quarter of the time), are validated on the same images
and tested on the same ones; only the training images become fewer.

- `fine_tuned`: the shipped params with the phase `top` alone: a head on ImageNet weights, then three blocks for 4
  epochs.
- `scratch`: `backbone.pretrained: false`, every block trained (`depth: all`) at 0.001, the rate that is usual for AdamW
  from random weights. It needs more steps than a pretrained network and gets them: 20 epochs on all images, and
  20 / sqrt(p) on a part p of them, so 37 and 63.

Resumable: a run that is done at the same params is read back from .thaw/bench/, with the commit that it was run at;
delete that folder to measure anew.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench import _cells, _tools
from bench.accuracy import overlaid
from thaw.config.reader import read_tree
from thaw.config.schema import Params

_SIDES = {"fine_tuned": "fine-tuned from ImageNet", "scratch": "from scratch"}
_INPUT_PX, _PACKED_PX = 112, 128
_SCRATCH_LR = 0.001
PLOT = Path("docs/images/scratch.svg")


def main() -> None:
    """Run what is not done yet, draw the plot and print one JSON line: test accuracy of both sides by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=float, nargs="+", default=[0.1, 0.3, 1.0], help="shares of the training images")
    parser.add_argument("--epochs", type=int, default=20, help="epochs from scratch on all training images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, default=PLOT)
    given = parser.parse_args()

    def run() -> _tools.Facts:
        tree = read_tree(Path("params.yaml")) | {"seed": given.seed}
        found = {part: _run_part(tree, part, given.epochs) for part in sorted(given.parts)}
        facts = summary(found)
        draw(facts, given.plot)
        return {"input_px": _INPUT_PX, "seed": given.seed, "plot": str(given.plot), **facts}

    _tools.report("scratch", run)


def settings(tree: dict[str, Any], part: float, epochs: int, *, pretrained: bool) -> dict[str, Any]:
    """Return the params of one side on a part of the training images."""
    small = {"prepare": {"size_px": _PACKED_PX}, "backbone": {"input_px": _INPUT_PX}, "augment": {"flip": "both"}}
    tree = _cells.with_phase(overlaid(tree, small | {"data": {"raw": _raw(part), "labels": _raw(part)}}))
    if pretrained:
        return tree
    longer = round(epochs / part**0.5)
    tree = _cells.with_phase(tree, depth="all", lr=_SCRATCH_LR, epochs=longer)
    return overlaid(tree, {"backbone": {"pretrained": False, "sha256": None}})


def summary(found: Mapping[float, Mapping[str, Mapping[str, Any]]]) -> _tools.Facts:
    """Return, for each part, the training images, and test accuracy with its 95 % interval of both sides."""
    last = next(iter(found.values()))["fine_tuned"]["metrics"]
    return {
        "num_test": last["test"]["n"],
        "majority": round(last["majority"]["accuracy"], 4),
        "parts": [
            {"part": part, "num_train": sides["fine_tuned"]["num_train"]}
            | {side: _figures(sides[side]) for side in _SIDES}
            for part, sides in sorted(found.items())
        ],
        "commits": sorted({side["commit"] for sides in found.values() for side in sides.values()}),
    }


def _figures(run: Mapping[str, Any]) -> dict[str, Any]:
    test = run["metrics"]["test"]
    figures = {key: round(test[key], 4) for key in ("accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy")}
    return {**figures, "epochs": run["epochs"], "seconds": run["seconds"]}


def draw(facts: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy over the number of training images, a line a side with its 95 % intervals, as SVG or PNG."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    counts = [entry["num_train"] for entry in facts["parts"]]
    for side, name in _SIDES.items():
        values = [entry[side] for entry in facts["parts"]]
        middle = [value["accuracy"] for value in values]
        below = [value["accuracy"] - value["accuracy_low"] for value in values]
        above = [value["accuracy_high"] - value["accuracy"] for value in values]
        axes.errorbar(counts, middle, yerr=[below, above], marker="o", capsize=3, label=name)
    axes.axhline(facts["majority"], color="grey", linestyle="--", label="always the commonest class")
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("training images")
    axes.set_ylabel(f"test accuracy ({facts['num_test']} images)")
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _run_part(tree: dict[str, Any], part: float, epochs: int) -> dict[str, dict[str, Any]]:
    table = _cells.part_of(_cells.split_of(tree), part, tree["seed"])
    num_train = int((table["split"] == "train").sum())

    def furnish(clone: Path) -> None:
        _cells.lay_out(table, clone / _raw(part))

    def side(*, pretrained: bool) -> dict[str, Any]:
        wanted = settings(tree, part, epochs, pretrained=pretrained)
        (phase,) = Params.model_validate(wanted).unfreeze.phases.values()
        found = _tools.pipeline("scratch", wanted, furnish=furnish)
        return found | {"num_train": num_train, "epochs": phase.epochs}

    return {"fine_tuned": side(pretrained=True), "scratch": side(pretrained=False)}


def _raw(part: float) -> str:
    return f"data/cells-{part:g}"


if __name__ == "__main__":
    main()
