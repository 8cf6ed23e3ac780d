"""`thaw ci keep` on a pipeline of one line each: what is pushed, and what happens when somebody was faster."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.pipeline.clone import ROOT, Clone, stages_run
from thaw.project import ci

_PIPELINE = """stages:
  double:
    cmd: python -c "n = float(open('number').read()); open('double', 'w').write(str(2 * n))"
    deps: [number]
    outs: [double]
  square:
    cmd: python -c "n = float(open('side').read()); open('square', 'w').write(str(n * n))"
    deps: [side]
    outs: [square]
"""
_GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
_KEPT = "data, models and runs are in DVC's remote\n"


@dataclass(frozen=True)
class Team:
    """A bare repository, a DVC remote, and two clones in which the pipeline has run; the lock is not committed yet."""

    origin: Path
    remote: Path
    ours: Clone
    theirs: Clone


def write(clone: Clone, name: str, text: str) -> None:
    """Write a file of a clone."""
    (clone.root / name).write_text(text, encoding="utf-8")


def push(clone: Clone, message: str) -> None:
    """Commit all and push."""
    clone.succeed("git", "add", "--all")
    clone.succeed(*_GIT, "commit", "--quiet", "--message", message)
    clone.succeed("git", "push", "--quiet", "origin", "main")


def keep(clone: Clone, branch: str = "main") -> tuple[int, str]:
    """Run the command."""
    return clone.run("python", "-m", "thaw", "ci", "keep", branch)


@pytest.fixture
def team(tmp_path: Path) -> Team:
    """Numbers that both have, and the settings of a job's machine: nobody's name is known."""
    (tmp_path / "home").mkdir()
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home"), "GIT_CONFIG_NOSYSTEM": "1"}
    start = Clone(tmp_path / "ours", environment)
    start.root.mkdir()
    start.succeed("git", "init", "--quiet", "--initial-branch=main")
    start.succeed("git", "init", "--quiet", "--bare", "--initial-branch=main", str(tmp_path / "origin"))
    start.succeed("git", "remote", "add", "origin", str(tmp_path / "origin"))
    start.succeed("dvc", "init", "--quiet")
    start.succeed("dvc", "remote", "add", "--quiet", "--default", "team", str(tmp_path / "remote"))
    for name, text in (("dvc.yaml", _PIPELINE), ("number", "1"), ("side", "1"), (".gitignore", "/double\n/square\n")):
        write(start, name, text)
    push(start, "start")
    start.succeed("git", "clone", "--quiet", str(tmp_path / "origin"), str(tmp_path / "theirs"))
    start.succeed("dvc", "repro", "--quiet")
    return Team(tmp_path / "origin", tmp_path / "remote", start, Clone(tmp_path / "theirs", environment))


def test_a_committer_that_the_environment_names_is_the_author(team: Team) -> None:
    names = {f"GIT_{role}_{what}": "robot@team" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    assert keep(Clone(team.ours.root, team.ours.environment | names)) == (
        0, f"{_KEPT}dvc.lock is committed to main of origin\n",
    )  # fmt: skip
    assert team.ours.succeed("git", "log", "-1", "--format=%an") == "robot@team\n"


def test_data_and_lock_are_kept_once_and_another_clone_runs_nothing(team: Team) -> None:
    assert keep(team.ours) == (0, f"{_KEPT}dvc.lock is committed to main of origin\n")
    assert keep(team.ours) == (0, f"{_KEPT}dvc.lock is as it was committed\n")
    team.theirs.succeed("git", "pull", "--quiet", "origin", "main")
    assert team.theirs.succeed("git", "log", "-1", "--format=%an %s") == f"Thaw CI {ci.MESSAGE}\n"
    assert stages_run(team.theirs.succeed("dvc", "repro", "--allow-missing", "--dry")) == []
    team.theirs.succeed("dvc", "pull", "--quiet")
    assert (team.theirs.root / "double").read_text(encoding="utf-8") == "2.0"


def test_where_somebody_was_faster_our_commit_follows_theirs(team: Team) -> None:
    write(team.theirs, "README", "words")
    push(team.theirs, "words")
    write(team.ours, "number", "1")  # as committed: a clean tree
    write(team.ours, ".gitignore", "/double\n/square\n/more\n")  # what a job leaves behind is no part of the commit
    code, printed = keep(team.ours)
    assert (code, printed) == (0, f"{_KEPT}dvc.lock is committed to main of origin\n")
    team.theirs.succeed("git", "pull", "--quiet", "origin", "main")
    log = team.theirs.succeed("git", "log", "--format=%s").splitlines()
    assert log == [ci.MESSAGE, "words", "start"]
    assert (team.theirs.root / ".gitignore").read_text(encoding="utf-8") == "/double\n/square\n"


def test_where_the_branch_has_another_input_now_nothing_is_committed_to_it(team: Team) -> None:
    write(team.theirs, "side", "3")
    push(team.theirs, "another side")
    code, printed = keep(team.ours)
    assert code == 1
    assert printed == (
        "main of origin has changed, and square would run again there; run the job again (what it ran is in DVC's "
        "remote)\n"
    )
    team.theirs.succeed("git", "fetch", "--quiet")
    assert team.theirs.succeed("git", "log", "-1", "--format=%s", "origin/main") == "another side\n"
    # The next run of the job finds in the run cache what this one has pushed.
    team.theirs.succeed("git", "pull", "--quiet", "origin", "main")
    assert stages_run(team.theirs.succeed("dvc", "repro", "--pull")) == ["square"]


def test_where_both_have_a_lock_that_git_cannot_merge_the_job_is_to_run_again(team: Team) -> None:
    write(team.theirs, "number", "5")
    team.theirs.succeed("dvc", "repro", "--quiet")
    push(team.theirs, "another number")
    code, printed = keep(team.ours)
    assert (code, printed.splitlines()[-1]) == (
        1,
        "main of origin has changed where this run has; run the job again on what is there now",
    )
    assert team.ours.succeed("git", "status", "--porcelain") == ""


def test_a_push_that_is_not_allowed_says_what_to_do_and_loses_nothing(team: Team) -> None:
    hook = team.origin / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho 'protected branch' >&2\nexit 1\n", encoding="utf-8")
    hook.chmod(0o755)
    code, printed = keep(team.ours)
    (line,) = printed.splitlines()
    assert code == 1
    assert line.startswith("dvc.lock cannot be pushed to main of origin: ")
    assert "give the job the right to write there (the results are in DVC's remote" in line
    assert list((team.remote / "files").rglob("*"))


def test_without_a_remote_nothing_is_committed_either(team: Team) -> None:
    team.ours.succeed("dvc", "remote", "remove", "team")
    code, printed = keep(team.ours)
    assert (code, printed) == (
        0,
        "no DVC remote is set up, so nothing is kept; `dvc remote add --default NAME URL` sets one up\n",
    )
    assert "?? dvc.lock" in team.ours.succeed("git", "status", "--porcelain")


def test_a_remote_that_cannot_be_written_to_is_one_line_and_git_is_left_alone(team: Team, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    team.ours.succeed("dvc", "remote", "modify", "team", "url", str(tmp_path / "file"))
    code, printed = keep(team.ours)
    (line,) = printed.splitlines()
    assert code == 1
    assert line.startswith("`dvc push --run-cache` failed: ERROR: ")
    assert team.ours.succeed("git", "log", "--format=%s") == "start\n"
