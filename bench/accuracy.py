"""Test accuracy on the sample over several seeds, each with its own split: the real `dvc repro` in a fresh clone.

    python -m bench.accuracy                                        shipped params, seeds 0 to 4
    python -m bench.accuracy --overlay recipes/elpv-best.yaml --seeds 3

Resumable: a seed that is done at the same params is read back from .thaw/bench/, with the commit that it was run at;
delete that folder to measure anew.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from bench import _tools
from thaw.config.reader import read_tree


def main() -> None:
    """Run the seeds that are not done yet and print one JSON line: mean, spread, seconds, head and every phase."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overlay", type=Path, help="YAML file whose values replace those of params.yaml")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0 on")
    arguments = parser.parse_args()
    tree = read_tree(Path("params.yaml"))
    if arguments.overlay:
        tree = overlaid(tree, read_tree(arguments.overlay))
    runs = [_tools.pipeline("accuracy", tree | {"seed": seed}) for seed in range(arguments.seeds)]
    print(json.dumps({"bench": "accuracy", "overlay": str(arguments.overlay or ""), **_summary(runs)}))


def overlaid(tree: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """Return a tree with the values of an overlay put over it; `phases` are replaced as a whole."""
    merged = dict(tree)
    for key, value in overlay.items():
        deeper = isinstance(value, dict) and isinstance(merged.get(key), dict) and key != "phases"
        merged[key] = overlaid(merged[key], value) if deeper else value
    return merged


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    columns = {"final": [run["metrics"]["test"]["accuracy"] for run in runs]}
    columns["head"] = [run["metrics"]["head"]["accuracy"] for run in runs]
    columns["majority"] = [run["metrics"]["majority"]["accuracy"] for run in runs]
    for name in runs[0]["metrics"]["phases"]:
        columns[name] = [run["metrics"]["phases"][name]["accuracy"] for run in runs]
    return {
        "seeds": len(runs),
        "accuracy": {
            name: {"mean": statistics.fmean(values), "sd": _spread(values), "each": values}
            for name, values in columns.items()
        },
        "commits": sorted({run["commit"] for run in runs}),
        "chosen": [run["metrics"]["final"]["phase"] for run in runs],
        "seconds": [run["seconds"] for run in runs],
    }


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
