"""Transfer in a chain on real data: polycrystalline cells from a model of monocrystalline ones, or from ImageNet.

    python -m bench.chain                    three seeds, both starts: about 25 minutes alone on two cores
    python -m bench.chain --parent poly      the other way round: monocrystalline cells from a model of the others
    python -m bench.chain --part 0.2         with a fifth of the training images of the second type
    python -m bench.chain --seeds 1

Each seed draws a split of its own. The shipped params with the phase `top` alone are run three times: on the 1,074
monocrystalline cells from ImageNet; on the 1,550 polycrystalline ones from the model that came out (`backbone.source:
model:...`); and on the same from ImageNet. Both sides are tested on the same cells. The modules of the two types are
different ones, so no cell of the first run is a neighbour of one that is tested in the second. Where `select` kept the
head of the parent, its network is ImageNet's and both sides are the same: `parent_phase` says what it kept.

Resumable: a run that is done at the same params is read back from .thaw/bench/, with the commit that it was run at;
delete that folder to measure anew.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import _cells, _tools
from bench.views import paired
from thaw.config.reader import read_tree
from thaw.pipeline import artifacts

_SIDES = ("imagenet", "chain")
_KINDS = {"mono": "poly", "poly": "mono"}


def main() -> None:
    """Run the seeds that are not done yet and print one JSON line: test accuracy from both starts, and differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0 on")
    parser.add_argument("--parent", choices=_KINDS, default="mono", help="the type that the parent is trained on")
    parser.add_argument("--part", type=float, default=1.0, help="share of the training images of the other type")
    given = parser.parse_args()

    def run() -> _tools.Facts:
        tree = _cells.with_phase(read_tree(Path("params.yaml")))
        runs = [_run_seed(tree | {"seed": seed}, given.parent, given.part) for seed in range(given.seeds)]
        return {"parent_type": given.parent, "part": given.part, **summary(runs)}

    _tools.report("chain", run)


def settings(tree: dict[str, Any], kind: str, part: float, *, parent: bool) -> dict[str, Any]:
    """Return the params of a run on cells of one type, from the model in `parent/` or from ImageNet."""
    folder = f"data/{kind}-{part:g}"
    tree = tree | {"data": {"raw": folder, "labels": folder}}
    if not parent:
        return tree
    return tree | {"backbone": tree["backbone"] | {"source": "model:parent", "sha256": None}}


def summary(runs: Sequence[dict[str, dict[str, Any]]]) -> _tools.Facts:
    """Return test accuracy and log loss of head and final model for both starts, and how much the chain is better."""
    each = {side: [_figures(run[side]) for run in runs] for side in _SIDES}
    return {
        "seeds": len(runs),
        "num_test": [run["chain"]["metrics"]["test"]["n"] for run in runs],
        "mean": {side: _cells.mean_of(values) for side, values in each.items()},
        "chain_less_imagenet": {
            key: paired([chain[key] - plain[key] for plain, chain in zip(*each.values(), strict=True)])
            for key in each["chain"][0]
        },
        "parent": [_figures(run["parent"]) for run in runs],
        "parent_phase": [run["parent"]["metrics"]["final"]["phase"] for run in runs],
        "seconds": {side: [run[side]["seconds"] for run in runs] for side in ("parent", *_SIDES)},
        "commits": sorted({side["commit"] for run in runs for side in run.values()}),
    }


def _figures(run: dict[str, Any]) -> dict[str, float]:
    metrics = run["metrics"]
    return {
        "head_accuracy": metrics["head"]["accuracy"],
        "accuracy": metrics["test"]["accuracy"],
        "log_loss": metrics["test"]["log_loss"],
    }


def _run_seed(tree: dict[str, Any], first: str, part: float) -> dict[str, dict[str, Any]]:
    name, second = f"chain-{first}", _KINDS[first]
    kept = _cells.keep_model(f"{name}-{tree['seed']}")

    def keep(clone: Path) -> dict[str, Any]:
        _cells.copy_model(clone / "models" / "final", kept)
        return {"model": artifacts.verify(kept)}

    def furnish_child(clone: Path) -> None:
        _furnish(tree, second, part)(clone)
        _cells.copy_model(kept, clone / "parent")

    parent = _tools.pipeline(
        name, settings(tree, first, 1.0, parent=False), furnish=_furnish(tree, first, 1.0), gather=keep
    )
    chain = _tools.pipeline(name, settings(tree, second, part, parent=True), furnish=furnish_child)
    plain = _tools.pipeline(name, settings(tree, second, part, parent=False), furnish=_furnish(tree, second, part))
    return {"parent": parent, "chain": chain, "imagenet": plain}


def _furnish(tree: dict[str, Any], kind: str, part: float) -> Callable[[Path], None]:
    def furnish(clone: Path) -> None:
        table = _cells.split_of(tree)
        table = _cells.part_of(table[table["type"] == kind], part, tree["seed"])
        _cells.lay_out(table, clone / "data" / f"{kind}-{part:g}")

    return furnish


if __name__ == "__main__":
    main()
