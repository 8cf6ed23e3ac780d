"""A part of `python -m tests.faults.kill`, and proof that it notices what a kill could spoil."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.kill import plans
from tests.faults.killing import AT_RANDOM, MOMENTS, Attempt, Outcome, Plan, Reference, kill, saves
from tests.pipeline.clone import STAGES, Clone, wait_for
from tests.pipeline.fixtures import Run
from thaw.pipeline import artifacts


@pytest.fixture(scope="module")
def reference(finished: Run) -> Reference:
    """The finished clone, as the copies must be in the end."""
    return Reference(finished.clone)


@pytest.fixture
def attempt(reference: Reference, tmp_path: Path) -> Attempt:
    """A copy in which `select` is to run again."""
    plan = Plan("select", AT_RANDOM, "dvc")
    return Attempt(reference, plan, reference.copy(tmp_path / "copy"), Outcome())


@pytest.mark.parametrize(
    "plan",
    [
        Plan("unfreeze@mid", "epoch", "group", fraction=0.5),
        Plan("select", "dvc.lock", "dvc", command="thaw repro"),
    ],
    ids=lambda plan: f"{plan.stage}, {plan.moment}",
)
def test_row_19_after_a_kill_the_next_run_leaves_what_a_run_without_one_leaves(
    reference: Reference, tmp_path: Path, plan: Plan
) -> None:
    outcome = kill(reference, plan, tmp_path / "copy")
    assert outcome.failures == []
    assert outcome.kills == 1
    assert [line.partition(":")[0] for line in outcome.mended] == (
        ["dvc.lock is empty"] if plan.moment == "dvc.lock" else []
    )
    assert outcome.epochs == {"unfreeze@mid": 12}.get(plan.stage, 0)


def test_the_campaign_comes_to_every_stage_and_every_moment_and_is_the_same_again() -> None:
    planned = plans(72, 0, STAGES)
    assert planned == plans(72, 0, STAGES)
    assert {plan.moment for plan in planned} == {AT_RANDOM, *MOMENTS}
    assert min(Counter(plan.stage for plan in planned)[stage] for stage in STAGES) >= 5
    for plan in planned:
        moment = MOMENTS.get(plan.moment)
        assert moment is None or (plan.target in moment.targets and ("@" in plan.stage or not moment.training))
    assert {plan.stage for plan in plans(30, 1, ["code"])} == {"code"}


def test_what_a_kill_has_lost_or_torn_is_noticed(attempt: Attempt) -> None:
    root = attempt.clone.root
    artifacts.remove(root / "models" / "final")
    assert list(attempt.lost()) == []
    (root / "data" / "prepared" / "samples.csv").unlink()
    (root / "reports" / "selection.json").unlink()
    (root / "reports" / "selection.json").write_text("{")
    (root / "params.yaml").write_text("")
    assert list(attempt.lost()) == [
        "data/prepared/samples.csv is lost after the kill",
        "reports/selection.json is not what it was after the kill",
        "after the kill git says  M params.yaml",
    ]


def test_what_the_next_run_leaves_otherwise_is_noticed(attempt: Attempt) -> None:
    root = attempt.clone.root
    (root / "models" / ".final.partial").mkdir()
    (root / ".dvc" / "cache" / "files" / "md5" / "ab").mkdir(exist_ok=True)
    (torn := root / ".dvc" / "cache" / "files" / "md5" / "ab" / ("c" * 30)).write_text("torn")
    (root / "reports" / "index.html").unlink()
    assert list(attempt.differences()) == [
        "dvc.lock is another one",
        "reports/index.html is another one",
        f"{torn} is torn",
        f"never cleared away: ['{root / 'models' / '.final.partial'}']",
    ]


def test_a_process_that_stays_is_noticed(attempt: Attempt) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], cwd=attempt.clone.root, stdin=subprocess.PIPE)
    assert attempt.processes() == [f"{sleeper.pid} {sys.executable} -c input()"]
    sleeper.communicate()
    assert attempt.processes() == []


@pytest.mark.usefixtures("scratch")
def test_an_epoch_that_is_written_twice_is_noticed_and_one_that_was_put_back_is_not(
    attempt: Attempt, tmp_path: Path
) -> None:
    part = tmp_path / ".thaw" / "checkpoints" / "key" / "part-00"

    def save(epoch: int, seen: set[tuple[str, int]]) -> None:
        with artifacts.new_folder(part) as folder:
            (folder / "state.json").write_text(json.dumps({"epoch": epoch}))
        wait_for(lambda: ("part-00", epoch) in seen, "the sight of it")

    with saves(Clone(tmp_path)) as first:
        save(1, first)
        save(2, first)
    part.rename(part.with_name(".part-00.old.partial"))
    with saves(Clone(tmp_path)) as second:
        artifacts.put_back(part)
        save(3, second)
    assert (first, second) == ({("part-00", 1), ("part-00", 2)}, {("part-00", 3)})
    attempt.saves = [first, second]
    attempt.count_epochs()
    assert attempt.outcome.failures == ["3 of 0 epochs have written a checkpoint"]
    attempt.saves.append({("part-00", 3)})
    attempt.count_epochs()
    assert "trained twice, although there was a checkpoint: [('part-00', 3)]" in attempt.outcome.failures
