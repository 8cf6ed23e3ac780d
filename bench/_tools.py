"""What several benches need: the JSON line, rounds that resume, an empty scratch folder, clones, peak memory.

A bench takes its sides in turn, a round at a time, so that what slows the machine down slows down all of them; its
figures are medians over the rounds.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import yaml

from thaw.errors import ThawError
from thaw.pipeline import artifacts, guard, scratch
from thaw.pipeline import machine as machine_facts

Facts = dict[str, Any]

_INTERVAL_S = 0.1
_MIB = 2**20


def report(name: str, measure: Callable[[], Mapping[str, Any]]) -> None:
    """Print what `measure` returns as one JSON line, with cores, versions and commit; all else goes to stderr."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            facts = measure()
    except ThawError as error:
        sys.exit(str(error))
    print(json.dumps({"bench": name, **facts, "machine": machine()}))


def machine() -> Facts:
    """Return what a figure depends on beside the code: usable cores, versions, and the commit of the code itself."""
    return {
        "cores": machine_facts.usable_cores(),
        "python": ".".join(map(str, sys.version_info[:3])),
        **{name: version(name) for name in ("torch", "onnxruntime", "timm", "dvc")},
        "commit": commit(),
    }


def commit(folder: Path = Path()) -> str:
    """Return the short hash of the commit that a repository's code stands at, with `+` if it was changed since."""
    found = _git(folder, "rev-parse", "--short", "HEAD")
    return found + ("+" if _git(folder, "status", "--porcelain", "--", "thaw", "stages", "bench") else "")


def committed_code() -> str:
    """Return the hashes of the folders thaw/ and stages/ as they are committed: what a clone runs."""
    return _git(Path(), "rev-parse", "HEAD:thaw", "HEAD:stages")


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def rounds(name: str, settings: Mapping[str, Any], count: int, measure: Callable[[int], Facts]) -> list[Facts]:
    """Return what `measure(number)` gives in each of `count` rounds.

    Rounds of an interrupted run under the same settings and code are read back from the scratch folder; once all are
    there they are forgotten, so that the next run measures anew.
    """
    path = kept(name, {"settings": settings, "code": guard.code_digest()})
    found: list[Facts] = artifacts.read_json(path)["rounds"] if path.exists() else []
    while len(found) < count:
        found.append(measure(len(found)))
        artifacts.write_json(path, {"rounds": found})
        print(f"{name}: round {len(found)} of {count}: {json.dumps(found[-1])}", file=sys.stderr, flush=True)
    path.unlink()
    return found


def kept(name: str, settings: Mapping[str, Any]) -> Path:
    """Return the file in which a bench keeps what it measured under these settings."""
    return scratch.folder() / "bench" / f"{name}-{artifacts.digest(settings)[:16]}.json"


def median(measured: Sequence[Facts], key: str) -> float:
    """Return the median over rounds of one of their figures."""
    return statistics.median(float(entry[key]) for entry in measured)


def in_turn(sides: Mapping[str, Callable[[], Any]], number: int) -> Facts:
    """Return the figures of each side, taken one after another, another side first in each round."""
    names = list(sides)
    first = number % len(names)
    return {name: sides[name]() for name in names[first:] + names[:first]}


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextlib.contextmanager
def empty_scratch() -> Iterator[Path]:
    """Make an empty folder the scratch folder for a while: no cache, engine or checkpoint of another run is in it."""
    scratch.folder().mkdir(parents=True, exist_ok=True)
    before = os.environ.get("THAW_SCRATCH")
    with tempfile.TemporaryDirectory(dir=scratch.folder().resolve(), prefix="bench-") as folder:
        os.environ["THAW_SCRATCH"] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ["THAW_SCRATCH"]
            if before is not None:
                os.environ["THAW_SCRATCH"] = before


def clone_folder(key: str) -> Path:
    """Return where the clone of a key is kept."""
    return scratch.folder().resolve() / "bench" / f"clone-{key[:16]}"


def clone(key: str, tree: Mapping[str, Any]) -> Path:
    """Return a clone of the last commit, made unless it is there, with `tree` as its params.yaml."""
    folder = clone_folder(key)
    if not folder.exists():
        partial = folder.with_name(f".{folder.name}.partial")
        artifacts.remove(partial)
        subprocess.run(["git", "clone", "--quiet", ".", str(partial)], check=True)
        partial.rename(folder)
    artifacts.write_text(folder / "params.yaml", yaml.safe_dump(dict(tree), sort_keys=False))
    return folder


def pipeline(
    name: str,
    tree: Mapping[str, Any],
    *,
    furnish: Callable[[Path], None] | None = None,
    gather: Callable[[Path], Mapping[str, Any]] | None = None,
) -> Facts:
    """Return what `dvc repro` under these params gives in a clone of the last commit, `furnish`ed with data before.

    `gather` is called on the finished clone, which is then deleted, for more facts. A result at the same params is read
    back from the scratch folder, with the commit that it was run at.
    """
    key = artifacts.digest({section: value for section, value in tree.items() if section != "compute"})
    done = scratch.folder() / "bench" / f"{name}-{key[:16]}.json"
    if done.exists():
        return artifacts.read_json(done)
    folder = clone(key, tree)
    if furnish is not None:
        furnish(folder)
    started = time.perf_counter()
    subprocess.run(["dvc", "repro"], cwd=folder, env=environment(folder), check=True, stdout=sys.stderr)
    timings = (artifacts.read_json(path) for path in sorted((folder / ".thaw" / "timings").glob("*.json")))
    result = {
        "seed": tree["seed"],
        "commit": commit(folder),
        "seconds": round(time.perf_counter() - started, 1),
        "stages": {timing["stage"]: timing["seconds"] for timing in timings},
        "metrics": artifacts.read_json(folder / "reports" / "metrics.json"),
        "validation": artifacts.read_json(folder / "reports" / "selection.json")["candidates"],
    }
    if gather is not None:
        result |= gather(folder)
    artifacts.write_json(done, result)
    artifacts.remove(folder)
    return result


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which a clone runs: this interpreter first on PATH, a scratch folder of its own."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "THAW_SCRATCH": str(folder.resolve() / ".thaw"),
    }


def peak_of(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> tuple[float, float]:
    """Return the peak memory of a command in MiB, and its seconds.

    The larger of two: what the kernel noted for the process alone (it misses no moment), and the proportional set size
    of the process with its workers, which share pages, sampled ten times a second.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, env=dict(environment), stdout=sys.stderr)
    seen = 0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        seen = max(seen, _proportional(process.pid))
        time.sleep(_INTERVAL_S)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with exit code {process.returncode}; nothing was measured")
    return round(max(seen, usage.ru_maxrss * 1024) / _MIB, 1), round(time.perf_counter() - started, 1)


def _proportional(pid: int) -> int:
    """Return the bytes that a process and its descendants hold, shared pages counted once."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return sum(int(member.memory_full_info().pss) for member in family)
    except psutil.Error:  # one of them ended meanwhile: the next sample counts
        return 0
