"""What DVC promises of a pipeline holds in every clone: with no data, with a part of it, and after a push."""

from pathlib import Path

import pytest

from tests.pipeline.clone import Clone, stages_run
from tests.pipeline.fixtures import Run

_GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
_RATE = {"unfreeze.phases.mid.lr": 2e-4}


@pytest.fixture(scope="module")
def pushed(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone that has committed its lock and pushed data and runs to a folder as its remote."""
    place = tmp_path_factory.mktemp("team")
    ours = finished.clone.copy(place / "ours")
    ours.succeed("dvc", "remote", "add", "--default", "team", str(place / "remote"))
    _commit(ours, "a run")
    ours.succeed("dvc", "push", "--run-cache", "--quiet")
    return ours


@pytest.fixture
def bare(pushed: Clone, tmp_path: Path) -> Clone:
    """A fresh clone of the git repository, without any data."""
    pushed.succeed("git", "clone", "--quiet", ".", str(tmp_path / "theirs"))
    return Clone(tmp_path / "theirs")


def test_a_clone_without_data_is_up_to_date(bare: Clone) -> None:
    output = bare.succeed("dvc", "repro", "--allow-missing", "--dry")
    assert stages_run(output) == []
    assert not (bare.root / "models" / "phases").exists()


def test_where_a_rate_was_changed_a_clone_without_data_starts_at_its_phase(bare: Clone) -> None:
    bare.update(_RATE)
    output = bare.succeed("dvc", "repro", "--pull", "--allow-missing")
    assert stages_run(output)[0] == "unfreeze@mid"
    assert set(stages_run(output)) <= {"unfreeze@mid", "select", "evaluate", "report", "export"}


def test_what_another_clone_has_run_and_pushed_is_not_run_again(pushed: Clone, bare: Clone, tmp_path: Path) -> None:
    theirs = pushed.copy(tmp_path / "other")
    theirs.update(_RATE)
    assert "unfreeze@mid" in stages_run(theirs.succeed("dvc", "repro"))
    theirs.succeed("dvc", "push", "--run-cache", "--quiet")
    bare.update(_RATE)
    output = bare.succeed("dvc", "repro", "--pull", "--allow-missing")
    assert stages_run(output) == ["select"], "DVC does not bring the other phases: presence.py"
    bare.succeed("dvc", "pull", "--quiet", "dvc.yaml")
    assert bare.hashes() == theirs.hashes()
    assert (bare.root / "dvc.lock").read_bytes() == (theirs.root / "dvc.lock").read_bytes()


def test_a_trial_that_stops_at_select_reads_no_test_image_and_leaves_no_test_figure(
    pushed: Clone, tmp_path: Path
) -> None:
    ours = pushed.copy(tmp_path / "trial")
    output = ours.succeed("dvc", "exp", "run", "--name", "slower", "-S", "unfreeze.phases.mid.lr=2e-4", "select")
    assert stages_run(output) == ["unfreeze@mid", "select"]
    shown = ours.succeed("dvc", "exp", "show", "--csv")
    header, *rows = [line.split(",") for line in shown.splitlines()]
    assert any("slower" in row for row in rows)
    assert not [name for name in header if name.startswith(("test", "majority", "change", "verdict", "phases"))]
    assert {"validation.mid.accuracy", "validation.mid.log_loss", "chosen"} <= set(header)


def _commit(clone: Clone, message: str) -> None:
    clone.succeed("git", "add", "--all")
    clone.succeed(*_GIT, "commit", "--quiet", "-m", message)
