"""`thaw update`: what the team has not changed is rewritten, what it has is shown and left."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from thaw import DISTRIBUTION
from thaw.cli import app, run_command
from thaw.config.reader import load_params
from thaw.errors import ParamsError, RunError
from thaw.pipeline.artifacts import sha256_of
from thaw.pipeline.record import RECORD_FILE, ProjectRecord
from thaw.project import files
from thaw.project.layout import Wish, new_project
from thaw.project.updating import plan_update
from thaw.version import VERSION


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of this version; no test changes it."""
    return new_project(Wish(tmp_path_factory.mktemp("projects") / "demo")).root


@pytest.fixture
def project(laid_out: Path, tmp_path: Path) -> Path:
    """A project as version 0.0.1 might have left it: an older stage, a stage less, a file more, keys of that time."""
    root = tmp_path / "demo"
    shutil.copytree(laid_out, root)
    hashes = ProjectRecord.read(root, installed=VERSION).files
    (root / "stages" / "head.py").write_text("# the head of 0.0.1\n")
    (root / "stages" / "old.py").write_text("# no longer there\n")
    (root / "stages" / "report.py").unlink()
    for name in ("stages/head.py", "stages/old.py"):
        hashes[name] = sha256_of(root / name)
    del hashes["stages/report.py"]
    ProjectRecord(thaw="0.0.1", files=hashes).write(root)
    _edit(root / "params.yaml", r"min_win_rate:", "confidence:")
    _edit(root / "requirements.txt", rf"=={re.escape(VERSION)}", "==0.0.1")
    return root


def _edit(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)


def _contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_project_of_this_version_has_nothing_to_update(laid_out: Path) -> None:
    before = _contents(laid_out)
    update = plan_update(laid_out)
    update.apply()
    assert list(update.in_words()) == [f"nothing to do: this is a project of Thaw {VERSION}"]
    assert _contents(laid_out) == before


def test_files_that_the_team_has_not_changed_become_those_of_the_installed_version(
    project: Path, laid_out: Path
) -> None:
    plan_update(project).apply()
    assert _contents(project) == _contents(laid_out)


def test_a_second_update_changes_nothing(project: Path) -> None:
    plan_update(project).apply()
    update = plan_update(project)
    assert (update.written, update.removed, update.diffs, update.notes) == ({}, [], {}, [])


def test_planning_an_update_writes_nothing(project: Path) -> None:
    before = _contents(project)
    assert set(plan_update(project).written) == {
        "stages/head.py", "stages/report.py", "params.yaml", "requirements.txt",
    }  # fmt: skip
    assert _contents(project) == before


def test_an_edited_stage_is_shown_as_a_diff_and_left(project: Path) -> None:
    (project / "stages" / "head.py").write_text("# ours\n")
    update = plan_update(project)
    update.apply()
    assert (project / "stages" / "head.py").read_text() == "# ours\n"
    lines = update.diffs["stages/head.py"].splitlines()
    assert lines[:2] == ["--- stages/head.py (here)", f"+++ stages/head.py (Thaw {VERSION})"]
    assert "-# ours" in lines
    assert any(line.startswith("+def main()") for line in lines)
    assert any(line.startswith("left, since changed here: stages/head.py;") for line in update.in_words())
    assert set(plan_update(project).diffs) == {"stages/head.py"}, "it is shown until it is merged"


def test_a_stage_that_the_team_alone_has_edited_or_removed_is_nobodys_business(project: Path) -> None:
    (project / "stages" / "select.py").write_text("# ours\n")
    (project / "pytest.ini").unlink()
    update = plan_update(project)
    update.apply()
    assert update.diffs == {}
    assert (project / "stages" / "select.py").read_text() == "# ours\n"
    assert not (project / "pytest.ini").exists()


def test_a_file_that_the_new_version_brings_does_not_replace_one_of_that_name(project: Path) -> None:
    (project / "stages" / "report.py").write_text("# ours\n")
    update = plan_update(project)
    update.apply()
    assert (project / "stages" / "report.py").read_text() == "# ours\n"
    assert set(update.diffs) == set(plan_update(project).diffs) == {"stages/report.py"}


def test_a_file_of_the_earlier_version_that_was_edited_is_not_removed(project: Path) -> None:
    (project / "stages" / "old.py").write_text("# ours\n")
    update = plan_update(project)
    update.apply()
    assert (project / "stages" / "old.py").exists()
    assert "stages/old.py is no longer needed, and left since it was changed here" in update.notes


def test_keys_of_earlier_versions_are_renamed_with_their_values_and_comments(project: Path) -> None:
    _edit(project / "params.yaml", r"confidence: [\d.]+", "confidence: 0.75  # agreed in May")
    update = plan_update(project)
    update.apply()
    assert "min_win_rate: 0.75  # agreed in May" in (project / "params.yaml").read_text()
    assert load_params(project / "params.yaml").select.min_win_rate == 0.75
    assert "params.yaml: select.confidence -> select.min_win_rate" in update.notes


def test_keys_that_are_gone_are_removed_and_those_that_stages_name_are_added(project: Path) -> None:
    path = project / "params.yaml"
    _edit(path, r"    epochs: 4\n", "    epochs: 4\n    patience: 3  # ours\n")
    _edit(path, r"(    mid:\n)", r"\1      patience: 2\n")
    _edit(path, r"  folds: .*\n", "")
    _edit(path, r"  labels: .*\n", "")
    _edit(path, r"export: \{\}\n", "")
    with pytest.raises(
        ParamsError, match=r"unfreeze\.phases\.mid\.patience is gone: a phase takes all its epochs, and"
    ):
        load_params(path)
    update = plan_update(project)
    update.apply()
    assert "patience" not in path.read_text()
    assert load_params(path).select.folds == "auto"
    assert "folds: auto" in path.read_text()
    raw = load_params(path).data.raw
    assert load_params(path).data.labels == raw
    assert {note for note in update.notes if "patience" in note or "added" in note} == {
        "params.yaml: unfreeze.defaults.patience is gone, and was removed",
        "params.yaml: unfreeze.phases.mid.patience is gone, and was removed",
        "params.yaml: select.folds: auto was added",
        "params.yaml: export: {} was added",
        f"params.yaml: data.labels: {raw} was added, which is data.raw",
    }


def test_outs_that_git_had_until_now_are_dvcs_and_ignored(project: Path) -> None:
    for name, text in {
        "reports/metrics.json": "{}", "reports/.gitignore": "/plots\n/ours", "models/phases/.gitignore": "/*\n",
        "models/phases/top/model.json": "{}",
    }.items():  # fmt: skip
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    _git(project, "init", "--quiet")
    _git(project, "add", "--force", "reports", "models")
    update = plan_update(project)
    update.apply()
    assert _git(project, "ls-files", "reports", "models").split() == ["models/.gitignore", "reports/.gitignore"]
    assert (project / "reports" / "metrics.json").read_text() == "{}"
    assert not (project / "models" / "phases" / ".gitignore").exists()
    assert {"/plots", "/ours", "/metrics.json", "/validation.json"} <= set(_lines(project / "reports" / ".gitignore"))
    assert "/phases" in _lines(project / "models" / ".gitignore")
    assert any("reports/metrics.json" in note and "git no longer does" in note for note in update.notes)
    again = plan_update(project)
    assert (again.written, again.removed) == ({}, [])


def _git(project: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=project, check=True, capture_output=True, text=True).stdout


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_a_params_file_that_stays_invalid_stops_the_update_before_it_writes(project: Path) -> None:
    _edit(project / "params.yaml", r"seed: 0", "seed: -1")
    before = _contents(project)
    with pytest.raises(ParamsError, match=r"^params.yaml: seed is -1; it must be at least 0$"):
        plan_update(project)
    assert _contents(project) == before


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"{DISTRIBUTION}[train]==0.0.1", f"{DISTRIBUTION}[train]=={VERSION}"),
        (f"{DISTRIBUTION}[train,serve] == 0.0.1  # ours", f"{DISTRIBUTION}[train,serve] == {VERSION}  # ours"),
        ("thaw @ https://example.org/thaw.whl", None),
    ],
)
def test_the_pin_of_thaw_is_raised_where_there_is_one(project: Path, line: str, expected: str | None) -> None:
    (project / "requirements.txt").write_text(f"torch==2.14.1\n{line}\n")
    update = plan_update(project)
    update.apply()
    assert (project / "requirements.txt").read_text() == f"torch==2.14.1\n{expected or line}\n"
    if expected is None:
        assert any(note.startswith("requirements.txt has no line") for note in update.notes)


def test_an_update_that_was_stopped_halfway_is_run_again(project: Path, laid_out: Path) -> None:
    update = plan_update(project)
    (project / "stages" / "head.py").write_text(update.written["stages/head.py"])
    (project / "params.yaml").write_text(update.written["params.yaml"])
    plan_update(project).apply()
    assert _contents(project) == _contents(laid_out)


def test_a_project_of_a_newer_thaw_is_refused(project: Path) -> None:
    path = project / RECORD_FILE
    path.write_text(json.dumps({"thaw": "0.10.0" if VERSION < "0.9" else "99", "files": {}, "format": 2}))
    before = _contents(project)
    with pytest.raises(RunError, match=rf"^{project} is a project of Thaw .*, and {VERSION} is installed; run `pip"):
        plan_update(project)
    assert _contents(project) == before


@pytest.mark.parametrize("text", ["", "[]", '{"thaw": []}', '{"thaw": "x", "files": {}}', '{"thaw": "0.0.1"}'])
def test_a_damaged_record_is_one_line_that_says_how_to_restore_it(project: Path, text: str) -> None:
    (project / RECORD_FILE).write_text(text)
    with pytest.raises(RunError, match=r"cannot be read; restore it with `git checkout -- .thaw-project.json`$"):
        plan_update(project)


def test_what_is_no_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is missing, so this is no project that `thaw new` made"):
        plan_update(tmp_path)


def test_the_command_updates_the_project_in_the_current_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(SystemExit) as left:
        run_command(lambda: app(["update"]))
    assert left.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "rewritten: stages/head.py, stages/report.py",
        "removed: stages/old.py",
        "params.yaml: select.confidence -> select.min_win_rate",
        f"requirements.txt: {DISTRIBUTION} 0.0.1 -> {VERSION}",
    ]


def test_the_template_gives_every_file_once_and_no_placeholder() -> None:
    texts = files.project_files() | {"requirements.txt": files.requirements_text()}
    assert not [name for name, text in texts.items() if re.search(r"\{(version|distribution)\}", text)]
    assert files.project_graph(texts["dvc.yaml"]) == texts["dvc.yaml"]
