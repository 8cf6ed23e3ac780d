"""Seconds of a `dvc repro` that has nothing to do, against DVC's own time on five empty stages.

    python -m bench.noop                                   about 4 minutes, most of it to run the pipeline once
    python -m bench.noop --repository ../finished-clone    measure there instead, on whatever data it has
    python -m bench.noop --rounds 2                        to try it

Thaw's side is a repository with the files of this one as they stand and a small slice of the sample, in which the
pipeline has run, as the pipeline tests make it. The other side is a repository with five stages, each of which writes
a word into a file. Both run once as a warm-up, then in turn. Needs requirements-dev.txt, git and a folder for temporary
files.
"""

import argparse
import functools
import sys
import tempfile
from pathlib import Path

import yaml

from bench import _tools
from tests.pipeline.clone import Clone, make_clone, stages_run

_NUM_STAGES = 5
_GIT = ("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "commit.gpgsign=false")


def main() -> None:
    """Measure both repositories in turn and print one JSON line: median seconds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="how often each side is measured")
    parser.add_argument("--repository", type=Path, help="a repository in which the pipeline has run; default: make one")
    given = parser.parse_args()
    _tools.report("noop", lambda: measure(given.repository, num_rounds=given.rounds))


def measure(repository: Path | None, *, num_rounds: int) -> _tools.Facts:
    """Return the median seconds of both sides and their ratio."""
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as folder:
        ours = make_clone(Path(folder, "thaw")) if repository is None else Clone(repository.resolve())
        if repository is None:
            print("noop: the pipeline runs once", file=sys.stderr, flush=True)
            ours.succeed("dvc", "repro")
            commit_all(ours)
        repositories = {"thaw": ours, "five_stages": five_stages(Path(folder, "empty"))}
        for clone in repositories.values():
            _repro(clone)
        sides = {name: functools.partial(_repro_seconds, clone) for name, clone in repositories.items()}
        return summary([_tools.in_turn(sides, number) for number in range(num_rounds)])


def summary(found: list[_tools.Facts]) -> _tools.Facts:
    """Return the median seconds of both sides and their ratio."""
    seconds = {name: _tools.median(found, name) for name in ("thaw", "five_stages")}
    return {
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "ratio": round(seconds["thaw"] / seconds["five_stages"], 2),
        "rounds": len(found),
        "each_round": [{name: round(value, 3) for name, value in entry.items()} for entry in found],
    }


def five_stages(root: Path) -> Clone:
    """Return a repository with five stages that have run, under the same DVC settings as ours."""
    root.mkdir()
    clone = Clone(root)
    for command in ((*_GIT, "init", "-q"), ("dvc", "init", "-q")):
        clone.succeed(*command)
    (root / ".dvc" / "config").write_bytes(Path(".dvc/config").read_bytes())
    stages = {
        f"stage{number}": {"cmd": f"echo {number} > {number}.txt", "outs": [f"{number}.txt"]}
        for number in range(_NUM_STAGES)
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False), encoding="utf-8")
    clone.succeed("dvc", "repro")
    commit_all(clone)
    return clone


def commit_all(clone: Clone) -> None:
    """Leave git nothing to commit."""
    for command in (("add", "--all"), ("commit", "-q", "-m", "what the pipeline left")):
        clone.succeed(*_GIT, *command)


def _repro_seconds(clone: Clone) -> float:
    return _tools.seconds_of(lambda: _repro(clone))


def _repro(clone: Clone) -> None:
    output = clone.succeed("dvc", "repro")
    if stages_run(output) or "up to date" not in output:
        sys.exit(f"`dvc repro` had something to do in {clone.root}, so nothing was measured:\n{output}")


if __name__ == "__main__":
    main()
