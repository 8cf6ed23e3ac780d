"""Clones in which the whole pipeline has run; two run side by side, each on one thread.

They are made once for all processes of a session: the first that needs them makes them, and the others wait for it.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from filelock import FileLock

from tests.pipeline.clone import Clone, make_clone

MEMORY_BYTES = 4 * 2**30
"""What a process may take where faults are tried: `Clone.memory_bytes`."""


@dataclass(frozen=True)
class Run:
    """A clone, and what its last `dvc repro` printed."""

    clone: Clone
    output: str


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the clones, the same in all processes of a session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def fresh(place: Path) -> tuple[Run, Run]:
    """Two clones after a first, forced repro.

    The second is elsewhere, in another locale, with another hash seed, time zone and umask; its folders list the images
    in another order, and two processes decode them.
    """
    here, other = Clone(place / "thaw"), {"PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    there = Clone(place / "another place", other, cold=True, umask=0o077)
    with FileLock(place / "fresh.lock"):
        if not _output(here).exists():
            make_clone(here.root)
            here.copy(there.root)
            there.update({"compute.workers": 2})
            _list_otherwise(there.root / "data" / "tiny")
            _run_all([(here, _forced), (there, _forced)])
    return _read(here), _read(there)


@pytest.fixture(scope="session")
def finished(fresh: tuple[Run, Run]) -> Run:
    """A clone after its first repro; no test changes it."""
    return fresh[0]


@pytest.fixture
def copy(finished: Run, tmp_path: Path) -> Clone:
    """A copy of the finished clone, to change; its commands have a limit of memory."""
    return replace(finished.clone.copy(tmp_path / "thaw"), memory_bytes=MEMORY_BYTES)


@pytest.fixture(scope="session")
def variants(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Copies of the finished clone, each changed in one way and reproduced, as far as `evaluate`."""
    folder = tmp_path_factory.mktemp("variants")
    changes = [
        (finished.clone.copy(folder / change.__name__.strip("_")), change)
        for change in (_other_head, _other_phases, _manifest)
    ]
    _run_all(changes)
    return {clone.root.name: _read(clone) for clone, _ in changes}


def _run_all(changes: Sequence[tuple[Clone, Callable[[Clone], str]]]) -> None:
    """Run each function on its clone, two at a time, and then keep what they printed beside the clones."""
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda pair: pair[1](pair[0]), changes))
    for (clone, _), output in zip(reversed(changes), reversed(outputs), strict=True):
        _output(clone).write_text(output, encoding="utf-8")


def _list_otherwise(folder: Path) -> None:
    """Write files anew, the last one first: a folder may list them in the order in which they came."""
    for path in sorted((path for path in folder.rglob("*") if path.is_file()), reverse=True):
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)


def _output(clone: Clone) -> Path:
    return clone.root.with_suffix(".txt")


def _read(clone: Clone) -> Run:
    return Run(clone, _output(clone).read_text(encoding="utf-8"))


def _forced(clone: Clone) -> str:
    return clone.succeed("dvc", "repro", "--force")


def _other_head(clone: Clone) -> str:
    clone.update({"head.hidden": [8], "head.epochs": 3})
    return clone.succeed("dvc", "repro", "evaluate")


def _other_phases(clone: Clone) -> str:
    top = clone.params()["unfreeze"]["phases"]["top"]
    clone.update({"unfreeze.phases.mid": {"lr": 0.0003, "epochs": 1}, "unfreeze.phases.side": {**top, "depth": 2}})
    return (
        clone.succeed("dvc", "repro", "select") + "-- select is done --\n" + clone.succeed("dvc", "repro", "evaluate")
    )


def _manifest(clone: Clone) -> str:
    clone.update({"data.raw": "data/tiny.csv", "data.labels": "data/tiny.csv"})
    return clone.succeed("dvc", "repro", "head")
