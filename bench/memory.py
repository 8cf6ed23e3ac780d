"""Peak memory of every stage of this workspace, its worker processes included: `python -m bench.memory`.

Each stage runs once, without DVC and without caches or checkpoints of earlier runs; its outs are written anew, with the
same content. On the sample, with the shipped params, that takes as long as `make demo`.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from bench import _tools
from thaw.config.reader import load_params
from thaw.config.schema import PhaseParams
from thaw.pipeline import scratch


def main() -> None:
    """Run the stages in order and print one JSON line: the peak of each in MiB, and the seconds it took."""
    params = load_params()
    stages = [["sample"]] if params.data.raw == "data/sample/images" else []
    stages = [["code"], *stages, ["prepare"], ["backbone"], ["features"], ["head"], ["advise"]]
    stages += [["unfreeze", name] for name in in_order(params.unfreeze.phases)] + [["select"], ["evaluate"]]
    scratch.folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch.folder()) as folder:
        environment = os.environ | {"THAW_SCRATCH": folder}
        found = {
            "@".join(stage): _tools.peak_of(
                [sys.executable, "-m", f"stages.{stage[0]}", *stage[1:]], cwd=Path(), environment=environment
            )
            for stage in stages
        }
    peaks = {name: peak for name, (peak, _) in found.items()}
    seconds = {name: spent for name, (_, spent) in found.items()}
    print(
        json.dumps({"bench": "memory", "unit": "MiB", "peak": max(peaks.values()), "stages": peaks, "seconds": seconds})
    )


def in_order(phases: dict[str, PhaseParams]) -> list[str]:
    """Return the names of the phases, each after the one that it starts from."""
    done: list[str] = []
    while len(done) < len(phases):
        done += [name for name, phase in phases.items() if name not in done and phase.start in {"head", *done}]
    return done


if __name__ == "__main__":
    main()
