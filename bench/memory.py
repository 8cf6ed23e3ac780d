"""Peak memory of every stage of this workspace, its worker processes included: `python -m bench.memory`.

Each stage runs once, without DVC and without caches or checkpoints of earlier runs; its outs are written anew, with the
same content. On the sample, with the shipped params, that takes as long as `make demo`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

import psutil

from thaw.params import PhaseParams, load_params
from thaw.run import scratch

_INTERVAL_S = 0.1
_MIB = 2**20


def main() -> None:
    """Run the stages in order and print one JSON line: the peak of each in MiB, and the seconds it took."""
    params = load_params()
    stages = [["sample"]] if params.data.raw == "data/sample/images" else []
    stages += [["prepare"], ["backbone"], ["features"], ["head"]]
    stages += [["unfreeze", name] for name in in_order(params.unfreeze.phases)] + [["select"], ["evaluate"]]
    scratch().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        found = {"@".join(stage): _measure(stage, folder) for stage in stages}
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


def _measure(stage: list[str], folder: str) -> tuple[float, float]:
    """Return the peak of a stage in MiB, and its seconds.

    The larger of two: what the kernel noted for the stage alone (it misses no moment), and the proportional set size of
    the stage with its workers, which share pages, sampled ten times a second.
    """
    started = time.perf_counter()
    command = [sys.executable, "-m", f"stages.{stage[0]}", *stage[1:]]
    process = subprocess.Popen(command, env=os.environ | {"THAW_SCRATCH": folder}, stdout=sys.stderr)
    seen = 0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        seen = max(seen, _proportional(process.pid))
        time.sleep(_INTERVAL_S)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"stages.{' '.join(stage)} ended with exit code {process.returncode}; nothing was measured")
    return round(max(seen, usage.ru_maxrss * 1024) / _MIB, 1), round(time.perf_counter() - started, 1)


def _proportional(pid: int) -> int:
    """Return the bytes that a process and its descendants hold, shared pages counted once."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return sum(int(member.memory_full_info().pss) for member in family)
    except psutil.Error:  # one of them ended meanwhile: the next sample counts
        return 0


if __name__ == "__main__":
    main()
