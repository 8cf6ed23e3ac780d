"""Seconds of a trial that stops at `select`, against one that runs all stages, and columns of `dvc exp show`.

    python -m bench.trials             on the sample: about 20 minutes alone on two cores, most of it the first run
    python -m bench.trials --rounds 3

Both sides are `dvc exp run -S unfreeze.phases.mid.lr=RATE` in a clone of the last commit, after a whole run.
Each trial has a rate of its own, so that no run cache has it. Its activations are in the cache, as those of any later
trial.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from bench import _tools
from thaw.config.reader import read_tree
from thaw.pipeline import artifacts

_FIRST_RATE = 3e-4
_GIT = ("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "commit.gpgsign=false")


def main() -> None:
    """Measure both kinds of trial in turn and print one JSON line: median seconds, their ratio, columns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="how often each side is measured")
    given = parser.parse_args()
    _tools.report("trials", lambda: measure(given.rounds))


def measure(num_rounds: int) -> _tools.Facts:
    """Return the median seconds of both sides, their ratio, and how many columns `dvc exp show` has."""
    tree = read_tree(Path("params.yaml"))
    folder = _tools.clone(artifacts.digest(["trials", _tools.committed_code()]), tree)
    _run(folder, "dvc", "repro")
    _run(folder, *_GIT, "add", "--all")
    _run(folder, *_GIT, "commit", "--quiet", "--allow-empty", "-m", "a run")
    found = []
    for number in range(num_rounds):
        rates = iter(_FIRST_RATE + 1e-6 * (2 * number + place) for place in range(2))
        sides = {
            "select": lambda rates=rates: _seconds(folder, next(rates), "select"),
            "whole": lambda rates=rates: _seconds(folder, next(rates)),
        }
        found.append(_tools.in_turn(sides, number))
    result = summary(found) | {
        "columns": _columns(folder),
        "columns_only_changed": _columns(folder, "--only-changed"),
    }
    artifacts.remove(folder)
    return result


def summary(found: list[_tools.Facts]) -> _tools.Facts:
    """Return the median seconds of both sides and the share that a trial up to `select` takes of a whole one."""
    seconds = {name: _tools.median(found, name) for name in ("select", "whole")}
    return {"seconds": seconds, "ratio": round(seconds["select"] / seconds["whole"], 2), "rounds": len(found)}


def _seconds(folder: Path, rate: float, *targets: str) -> float:
    command = ("dvc", "exp", "run", "-S", f"unfreeze.phases.mid.lr={rate:.6g}", *targets)
    return round(_tools.seconds_of(lambda: _run(folder, *command)), 1)


def _columns(folder: Path, *options: str) -> int:
    command = ("dvc", "exp", "show", "--csv", *options)
    done = subprocess.run(command, cwd=folder, env=_environment(folder), check=True, capture_output=True, text=True)
    return len(done.stdout.splitlines()[0].split(","))


def _run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, env=_environment(folder), check=True, stdout=sys.stderr)


def _environment(folder: Path) -> dict[str, str]:
    """Return a clone's environment, without a PYTHONPATH that would put this folder's code before the clone's."""
    return {name: value for name, value in _tools.environment(folder).items() if name != "PYTHONPATH"} | {
        "PYTHONPATH": os.fspath(folder.resolve())
    }


if __name__ == "__main__":
    main()
