"""`thaw setup`: what git does in a clone with the merge drivers, without them, and with one that is gone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.utils.serialize import dumps_yaml

from tests.photos import ROOT
from thaw.cli import app, run_command
from thaw.errors import RunError
from thaw.project import git_setup
from thaw.project.git_setup import configure, set_up

_PERSON = {f"GIT_{role}_{what}": "test@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
_ENVIRONMENT = {"PYTHONPATH": str(ROOT), "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, **_PERSON}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git repository in which two branches, main and other, have changed two stages of dvc.lock each, and labels."""
    root = tmp_path / "demo"
    root.mkdir()
    _git(root, "init", "--quiet", "--initial-branch=main")
    (root / ".gitattributes").write_bytes((ROOT / ".gitattributes").read_bytes())
    (root / "dvc.yaml").write_text("stages: {}\n")
    _commit(root, prepare=1, head=1, evaluate=1)
    _git(root, "checkout", "--quiet", "-b", "other")
    _commit(root, prepare=1, head=2, evaluate=2)
    _git(root, "checkout", "--quiet", "main")
    _commit(root, prepare=3, head=1, evaluate=3)
    return root


def _git(root: Path, *arguments: str, code: int = 0) -> str:
    """Return what git printed, errors included; it must end with this exit code."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=root,
        env=os.environ | _ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def _lock(**sizes: int) -> str:
    """A dvc.lock; an entry differs from another version of it in a line."""
    stages = {name: {"cmd": f"run {name}", "outs": [{"path": name, "size": size}]} for name, size in sizes.items()}
    return str(dumps_yaml({"schema": "2.0", "stages": stages}))


def _labels(*labels: int) -> str:
    return "".join(["path,label\n", *(f"{number}.png,{label}\n" for number, label in enumerate(labels))])


def _commit(root: Path, **sizes: int) -> None:
    (root / "dvc.lock").write_text(_lock(**sizes))
    (root / "labels.csv").write_text(_labels(sizes["prepare"], sizes["head"]))
    _git(root, "add", "--all")
    _git(root, "commit", "--quiet", "--message", f"{sizes}")


def _config(root: Path) -> str:
    return (root / ".git" / "config").read_text()


def test_git_merges_by_the_drivers_and_says_which_stages_are_left_to_dvc(project: Path) -> None:
    set_up(project)
    lines = _git(project, "merge", "--no-edit", "other").splitlines()
    assert "dvc.lock: changed on both sides, so `dvc repro` decides: evaluate" in lines
    assert (project / "dvc.lock").read_text() == _lock(prepare=3, head=2)
    assert (project / "labels.csv").read_text() == _labels(3, 2)
    assert _git(project, "status", "--porcelain") == ""


def test_a_rebase_and_a_worktree_use_the_drivers_as_well(project: Path) -> None:
    set_up(project)
    worktree = project.parent / "worktree"
    _git(project, "worktree", "add", "--quiet", str(worktree), "other")
    _git(worktree, "rebase", "--quiet", "main")
    assert (worktree / "dvc.lock").read_text() == _lock(prepare=3, head=2)


def test_one_image_relabelled_on_both_sides_is_an_ordinary_conflict_of_that_line(project: Path) -> None:
    set_up(project)
    for branch, label in (("main", 7), ("other", 8)):
        _git(project, "checkout", "--quiet", branch)
        (project / "labels.csv").write_text(_labels(1, label))
        _git(project, "commit", "--quiet", "--all", "--message", f"relabelled as {label}")
    printed = _git(project, "merge", "main", code=1)
    assert "labels.csv: both sides changed 1.png; it is merged as text." in printed
    assert "<<<<<<< ours\n1.png,8\n=======\n1.png,7\n>>>>>>> theirs\n" in (project / "labels.csv").read_text()


def test_without_the_drivers_git_merges_as_text(project: Path) -> None:
    assert "CONFLICT (content): Merge conflict in dvc.lock" in _git(project, "merge", "other", code=1)
    assert "<<<<<<< HEAD\n" in (project / "dvc.lock").read_text()


@pytest.mark.parametrize("python", ["gone", "no module"])
def test_a_driver_that_is_gone_leaves_a_conflict_with_both_sides(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, python: str
) -> None:
    program = tmp_path / "python"
    if python != "gone":
        program.write_text(f'#!/bin/sh\nunset PYTHONPATH\nexec {sys.executable} -S "$@"\n')
        program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    configure(project)
    assert "CONFLICT (content): Merge conflict in dvc.lock" in _git(project, "merge", "other", code=1)
    text = (project / "dvc.lock").read_text()
    assert (
        text.index("<<<<<<< ours\n")
        < text.rindex("size: 3\n")
        < text.rindex("size: 2\n")
        < text.index(">>>>>>> theirs")
    )


def test_a_lock_with_conflict_markers_leaves_a_conflict_and_a_line(project: Path) -> None:
    set_up(project)
    path = project / "dvc.lock"
    path.write_text(path.read_text().replace("  head:", "<<<<<<< HEAD\n  head:"))
    _git(project, "commit", "--quiet", "--all", "--message", "damaged")
    printed = _git(project, "merge", "other", code=1)
    assert "dvc.lock: ours is not valid YAML at line 9; it is merged as text. " in printed
    assert _git(project, "diff", "--name-only", "--diff-filter=U") == "dvc.lock\n"
    assert "size: 3\n" in path.read_text()
    assert "size: 2\n" in path.read_text()


def test_a_python_below_a_folder_with_an_odd_name_is_found(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = project.parent / "it's 100% ours; $HOME" / "python"
    program.parent.mkdir()
    program.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(ROOT), *(path for path in sys.path if "site-packages" in path)])
    )
    configure(project)
    done = subprocess.run(["git", "merge", "--no-edit", "other"], cwd=project, env=os.environ | _PERSON, check=False)
    assert done.returncode == 0


def test_a_module_in_the_working_tree_is_not_taken_for_the_drivers(project: Path) -> None:
    set_up(project)
    for name in ("yaml.py", "json.py", "thaw.py"):
        (project / name).write_text("raise SystemExit('imported')\n")
    assert "imported" not in _git(project, "merge", "--no-edit", "other")


def test_run_again_it_changes_nothing_and_says_so(project: Path) -> None:
    first = set_up(project)
    before = _config(project)
    assert [line.partition(" (")[0] for line in first] == [
        ".gitattributes: as it was", "git config merge.thaw-lock: set", "git config merge.thaw-labels: set",
        "hook post-checkout: set", "hook pre-commit: set", "hook pre-push: set",
    ]  # fmt: skip
    assert [line.partition(" (")[0] for line in set_up(project)] == [
        line.partition(" (")[0].replace("set", "as it was") for line in first
    ]
    assert _config(project) == before


def test_the_drivers_of_another_python_are_replaced(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(project)
    monkeypatch.setattr(sys, "executable", "/elsewhere/bin/python")
    assert configure(project)[0].startswith("git config merge.thaw-lock: replaced (")
    assert _config(project).count("/elsewhere/bin/python -P") == 2
    assert configure(project)[0].startswith("git config merge.thaw-lock: as it was (")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "RULES"),
        ("*.png binary", "*.png binary\ndvc.lock merge=thaw-lock\nlabels.csv merge=thaw-labels\n"),
        ("dvc.lock merge=thaw-lock\n", "dvc.lock merge=thaw-lock\n\nlabels.csv merge=thaw-labels\n"),
    ],
)
def test_rules_that_gitattributes_lacks_are_added(project: Path, before: str | None, after: str) -> None:
    path, rules = project / ".gitattributes", (ROOT / ".gitattributes").read_text()
    path.unlink()
    if before is not None:
        path.write_text(before)
    assert set_up(project)[0].startswith(".gitattributes: ")
    assert path.read_text() == (rules if after == "RULES" else after)
    assert set_up(project)[0] == ".gitattributes: as it was"


def test_the_rules_reach_every_lock_and_the_labels_and_nothing_else() -> None:
    names = ("dvc.lock", "data/sample/dvc.lock", "labels.csv", "params.yaml", "labels.txt")
    printed = _git(ROOT, "check-attr", "merge", *names).splitlines()
    assert [line.rpartition(": ")[2] for line in printed] == [
        "thaw-lock", "thaw-lock", "thaw-labels", "unspecified", "unspecified",
    ]  # fmt: skip


def test_what_is_no_project_in_a_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no dvc.yaml, so it is no project; run from a project's folder$"):
        set_up(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(RunError, match=r"^`git rev-parse` failed in .*: fatal: not a git repository"):
        set_up(tmp_path)


def test_without_git_or_an_installed_thaw_a_line_says_what_to_install(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(git_setup, "_MODULE", "thaw.nowhere")
        with pytest.raises(RunError, match=r"finds no installed Thaw; run `pip install -e .` in the clone of Thaw"):
            set_up(project)
    monkeypatch.setenv("PATH", str(project))
    with pytest.raises(RunError, match="git is not on PATH; install git"):
        set_up(project)


def test_the_command_prints_what_it_did(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(SystemExit) as left:
        run_command(lambda: app(["setup"]))
    assert left.value.code == 0
    assert capsys.readouterr().out.splitlines() == [
        ".gitattributes: as it was",
        f"git config merge.thaw-lock: set (dvc.lock stage by stage, by {sys.executable})",
        f"git config merge.thaw-labels: set (labels.csv image by image, by {sys.executable})",
        "hook post-checkout: set (`dvc checkout` of what lies in the cache)",
        "hook pre-commit: set (`dvc status`)",
        "hook pre-push: set (stops while data is not in the remote)",
    ]
