"""A team's project from its first command to its report: `thaw.fine_tune` on a tiny set; the project's own tests."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.photos import ROOT, as_installed, write_photos
from tests.pipeline.clone import stages_run
from thaw.errors import DataError, RunError
from thaw.pipeline import tables
from thaw.project.fine_tuning import FineTuned, fine_tune
from thaw.project.layout import Wish, new_project
from thaw.version import VERSION

_BACKBONE = "timm:test_resnet"
_SMALL = {
    "backbone.pretrained": False,
    "backbone.input_px": 64,
    "prepare.size_px": 64,
    "augment.flip": "horizontal",
    "unfreeze.phases": {
        "top": {"start": "head", "depth": 1, "epochs": 1, "views": 1},
        "mid": {"start": "top", "depth": 2, "epochs": 1, "views": 1},
    },
    "select.folds": 2,
    "select.draws": 100,
    "evaluate.draws": 100,
    "compute.threads": 1,
    "compute.workers": 0,
    "compute.frozen_engine": "torch",
}
_ALL = [
    "code", "prepare", "backbone", "features", "head", "advise", "unfreeze@top", "unfreeze@mid", "select", "evaluate",
    "report", "export",
]  # fmt: skip


@dataclass(frozen=True)
class Tuned:
    """The photos, the result of the first run on them, and what it printed."""

    photos: Path
    result: FineTuned
    printed: str


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages of a project find this Thaw as an installed one, and no state of the machine's."""
    monkeypatch.setenv("PYTHONPATH", as_installed(tmp_path / "installed"))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A project in which fine_tune has run; no test changes it."""
    place = tmp_path_factory.mktemp("notebook")
    photos = write_photos(place / "photos", images_a_class=30)
    script = (
        "import sys; from pathlib import Path; from thaw.project.fine_tuning import fine_tune\n"
        f"fine_tune({str(photos)!r}, {str(place / 'demo')!r}, backbone={_BACKBONE!r}, params={_SMALL!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": as_installed(place / "installed"), "DVC_SITE_CACHE_DIR": str(place / "site")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return Tuned(photos, _again(place / "demo"), done.stdout)


def _again(project: Path) -> FineTuned:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", as_installed(project.parent / "installed"))
        patch.setenv("DVC_SITE_CACHE_DIR", str(project.parent / "site"))
        return fine_tune(None, project)


def _printed(project: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=project, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def copy(tuned: Tuned, tmp_path: Path, surroundings: None) -> Path:
    """A copy of the finished project, to change."""
    subprocess.run(["cp", "-a", str(tuned.result.project), str(tmp_path / "demo")], check=True)
    return tmp_path / "demo"


def test_fine_tune_makes_a_project_runs_every_stage_and_shows_its_progress(tuned: Tuned) -> None:
    assert sorted(stages_run(tuned.printed)) == sorted(_ALL)
    assert (tuned.result.project / "dvc.lock").exists()


def test_the_lines_of_the_readme_give_accuracy_report_and_answers(tuned: Tuned) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    photo = min(tuned.photos.glob("*/*.jpg")).relative_to(tuned.photos.parent).as_posix()
    place = tuned.result.project.parent
    done = subprocess.run(
        [sys.executable, "-c", blocks[0].replace("photos/rust/c.jpg", photo)],
        cwd=place,
        env=os.environ | {"PYTHONPATH": as_installed(place / "installed"), "DVC_SITE_CACHE_DIR": str(place / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *_, figures, answers = done.stdout.splitlines()
    assert figures == f"{tuned.result.metrics.test['accuracy']} {tuned.result.report}"
    assert answers.startswith("['bright', 'dark'] [[")


def test_the_result_has_typed_metrics_the_report_and_a_model_that_answers(tuned: Tuned) -> None:
    result = tuned.result
    samples = tables.read(result.project / "data" / "prepared" / "samples.csv")
    assert result.metrics.test["n"] == (samples["split"] == "test").sum() > 5
    assert 0 <= result.metrics.test["accuracy"] <= 1
    assert result.metrics.final.phase in {"head", "top", "mid"}
    assert "<html" in result.report.read_text(encoding="utf-8")
    photos = sorted(tuned.photos.glob("*/*.png"))
    probabilities = result.model.predict(photos)
    assert result.model.classes == ["bright", "dark"]
    assert probabilities.shape == (len(photos), 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_after_the_run_dvc_is_clean_and_git_has_only_what_is_to_commit(tuned: Tuned) -> None:
    project = tuned.result.project
    python = [sys.executable, "-m", "dvc"]
    assert _printed(project, *python, "status") == "Data and pipelines are up to date.\n"
    untracked = _printed(project, "git", "status", "--porcelain", "--untracked-files=all").splitlines()
    names = {line.removeprefix("?? ") for line in untracked}
    assert {"dvc.lock", "data/images.dvc", "params.yaml"} <= names
    assert not [name for name in names if name.endswith((".png", ".npy", ".safetensors", ".onnx", ".html", ".pyc"))]
    assert not [name for name in names if name.startswith((".thaw/", "data/images/", "data/prepared/", "data/code/"))]


def test_a_second_call_runs_nothing(tuned: Tuned, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = fine_tune(tuned.photos, copy, backbone=_BACKBONE, params=_SMALL)
    assert again.metrics == tuned.result.metrics
    assert stages_run(capsys.readouterr().out) == []


def test_a_changed_setting_reruns_what_depends_on_it(
    tuned: Tuned, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine_tune(None, copy, params={"evaluate.draws": 200})
    # So few test images need no more evaluations: metrics.json stays as it was, and export with it.
    assert stages_run(capsys.readouterr().out) == ["evaluate", "report"]
    assert "draws: 200" in (copy / "params.yaml").read_text(encoding="utf-8")


def test_other_images_replace_those_of_the_project_and_a_stage_that_fails_is_named(
    tuned: Tuned, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tuned.photos, tmp_path / "photos")
    for path in (tmp_path / "photos" / "dark").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(RunError, match=r"^`thaw repro` failed in .*: 30 of 60 files cannot be used, more than prepare"):
        fine_tune(tmp_path / "photos", copy)
    assert stages_run(capsys.readouterr().out) == ["prepare"]
    assert {path.read_bytes() for path in (copy / "data" / "images" / "dark").iterdir()} == {b"no image"}


@pytest.mark.usefixtures("surroundings")
def test_without_project_and_images_there_is_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no project yet, and images is None"):
        fine_tune(None, tmp_path / "demo")
    with pytest.raises(DataError, match="which is no file; give a CSV"):
        fine_tune(tmp_path / "nowhere", tmp_path / "demo")


def test_the_stages_refuse_a_project_of_a_newer_thaw_where_thaw_is_installed(copy: Path, tmp_path: Path) -> None:
    record = (copy / ".thaw-project.json").read_text(encoding="utf-8")
    (copy / ".thaw-project.json").write_text(
        record.replace(f'"thaw": "{VERSION}"', '"thaw": "99.0.0"'), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "stages.select"],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": as_installed(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"{copy} is a project of Thaw 99.0.0, and {VERSION} is installed; run `pip install -r requirements.txt` there\n"
    )


@pytest.mark.usefixtures("surroundings")
def test_the_tests_of_a_new_project_pass_in_it(tmp_path: Path) -> None:
    new_project(Wish(tmp_path / "demo"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path / "demo",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
