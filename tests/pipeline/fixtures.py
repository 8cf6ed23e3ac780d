"""Clones in which the whole pipeline has run, made once a session; two run side by side, each on one thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.pipeline.clone import Clone, make_clone


@dataclass(frozen=True)
class Run:
    """A clone, and what its last `dvc repro` printed."""

    clone: Clone
    output: str


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Two clones after a first, forced repro: the second elsewhere, in another locale, decoding in two processes."""
    here = make_clone(tmp_path_factory.mktemp("clone") / "thaw")
    there = here.copy(
        tmp_path_factory.mktemp("elsewhere") / "another place", PYTHONHASHSEED="7", LC_ALL="C", TZ="Asia/Tokyo"
    )
    there.update({"compute.workers": 2})
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda clone: clone.succeed("dvc", "repro", "--force"), (here, there)))
    return Run(here, outputs[0]), Run(there, outputs[1])


@pytest.fixture(scope="session")
def finished(fresh: tuple[Run, Run]) -> Run:
    """A clone after its first repro; no test changes it."""
    return fresh[0]


@pytest.fixture
def copy(finished: Run, tmp_path: Path) -> Clone:
    """A copy of the finished clone, to change."""
    return finished.clone.copy(tmp_path / "thaw")


@pytest.fixture(scope="session")
def variants(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Copies of the finished clone, each changed in one way and reproduced, as far as `evaluate`."""
    with ThreadPoolExecutor(2) as pool:
        futures: dict[str, Future[Run]] = {}
        for function in (_other_head, _other_phases, _manifest):
            clone = finished.clone.copy(tmp_path_factory.mktemp("variant") / "thaw")
            futures[function.__name__.strip("_")] = pool.submit(_reproduced, function, clone)
    return {name: future.result() for name, future in futures.items()}


def _reproduced(change: Callable[[Clone], str], clone: Clone) -> Run:
    return Run(clone, change(clone))


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
