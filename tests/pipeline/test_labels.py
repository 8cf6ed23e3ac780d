"""Labels in git beside images in DVC, by the commands of docs/guide/labels.md: only `prepare` runs."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from tests.photos import ROOT, as_installed
from tests.pipeline.clone import Clone, stages_run
from thaw.data.packed import PackedImages
from thaw.project import files

_PERSON = {f"GIT_{role}_{what}": "test@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
_PREPARE = ("dvc", "repro", "prepare")


def _image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a hard link into DVC's cache
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)


def _guide(heading: str) -> list[str]:
    """The commands below a heading of the guide."""
    text = (ROOT / "docs" / "guide" / "labels.md").read_text(encoding="utf-8")
    return str(re.findall(rf"## {heading}.*?```sh\n(.*?)```", text, re.DOTALL)[0]).splitlines()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A project with twenty images whose labels the guide's commands have brought into git; no test changes it."""
    place = tmp_path_factory.mktemp("labels")
    root = place / "project"
    texts = files.project_files()
    tree = yaml.safe_load(files.params_text())
    tree["data"], tree["compute"] = {"raw": "photos", "labels": "photos"}, {"workers": 0}
    tree["prepare"] |= {"size_px": 16}
    texts |= {files.PARAMS: yaml.safe_dump(tree, sort_keys=False), files.REQUIREMENTS: files.requirements_text()}
    for name, text in (texts | files.git_ignores(texts["dvc.yaml"])).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    for number in range(20):
        _image(root / "photos" / ("crack", "ok")[number % 2] / f"{number:02d}.png", number)
    clone = Clone(root, {"PYTHONPATH": as_installed(place / "installed"), **_PERSON})
    for command in (["git", "init", "-q", "-b", "main"], ["dvc", "add", "-q", "photos"], _PREPARE, ["thaw", "setup"]):
        clone.succeed(*command)
    for line in _guide("Begin"):
        clone.succeed("sh", "-c", line)
    return clone


@pytest.fixture
def project(labelled: Clone, tmp_path: Path) -> Clone:
    return labelled.copy(tmp_path / "project", **labelled.environment)


def _relabel(clone: Clone, name: str, label: str) -> None:
    path = clone.root / "labels.csv"
    path.write_text(re.sub(rf"^{name},\w+$", f"{name},{label}", path.read_text(), flags=re.MULTILINE))
    clone.succeed("git", "commit", "--quiet", "--all", "--message", f"{name} is {label}")


def _labels(clone: Clone) -> dict[str, str]:
    table = pd.read_csv(clone.root / "data" / "prepared" / "samples.csv", dtype=str)
    return dict(zip(table["path"], table["label"], strict=True))


def test_the_same_labels_from_the_file_give_the_same_data_set(labelled: Clone) -> None:
    assert labelled.succeed("git", "ls-files", "labels.csv") == "labels.csv\n"
    entry = labelled.lock()["prepare"]
    assert {dep["path"] for dep in entry["deps"]} == {"data/code/prepare.json", "photos", "labels.csv"}
    assert _labels(labelled)["crack/00.png"] == "crack"
    assert labelled.succeed("dvc", "status", "prepare") == "Data and pipelines are up to date.\n"


def test_neighbouring_images_relabelled_on_two_branches_merge_and_prepare_runs(project: Clone) -> None:
    project.succeed("git", "checkout", "--quiet", "-b", "other")
    _relabel(project, "crack/00.png", "ok")
    project.succeed("git", "checkout", "--quiet", "main")
    _relabel(project, "crack/02.png", "ok")
    project.succeed("git", "merge", "--no-edit", "other")
    output = project.succeed(*_PREPARE)
    assert stages_run(output) == ["prepare"]
    assert {name: label for name, label in _labels(project).items() if name in ("crack/00.png", "crack/02.png")} == {
        "crack/00.png": "ok", "crack/02.png": "ok",
    }  # fmt: skip
    shown = project.succeed(sys.executable, "-m", "thaw", "data", "diff")
    assert "crack -> ok" in shown


def test_the_same_image_relabelled_on_both_branches_is_a_conflict_that_prepare_names(project: Clone) -> None:
    project.succeed("git", "checkout", "--quiet", "-b", "other")
    _relabel(project, "crack/00.png", "scratch")
    project.succeed("git", "checkout", "--quiet", "main")
    _relabel(project, "crack/00.png", "ok")
    code, output = project.run("git", "merge", "--no-edit", "other")
    assert code == 1
    assert "labels.csv: both sides changed crack/00.png; it is merged as text." in output
    code, output = project.run(*_PREPARE)
    assert code != 0
    assert "labels.csv: line 2 is `<<<<<<< ours`, a conflict of git; resolve it, and run `dvc repro`" in output


def test_a_replaced_image_runs_prepare_and_an_added_one_asks_for_its_row(project: Clone) -> None:
    _image(project.root / "photos" / "ok" / "01.png", 100)
    assert stages_run(project.succeed(*_PREPARE)) == ["prepare"]
    _image(project.root / "photos" / "ok" / "new.png", 101)
    code, output = project.run(*_PREPARE)
    assert code != 0
    assert "photos holds 1 files that labels.csv does not name (ok/new.png); add a row for each" in output
    for line in _guide("Add images"):
        project.succeed("sh", "-c", line)
    assert _labels(project)["ok/new.png"] == "ok"


def test_without_the_driver_git_merges_lines_that_are_apart(project: Clone) -> None:
    subprocess.run(["git", "config", "--remove-section", "merge.thaw-labels"], cwd=project.root, check=True)
    project.succeed("git", "checkout", "--quiet", "-b", "other")
    _relabel(project, "crack/00.png", "ok")
    project.succeed("git", "checkout", "--quiet", "main")
    _relabel(project, "ok/19.png", "crack")
    project.succeed("git", "merge", "--no-edit", "other")
    text = (project.root / "labels.csv").read_text()
    assert "crack/00.png,ok\n" in text
    assert "ok/19.png,crack\n" in text


def test_images_that_are_added_leave_the_shards_of_before_as_they_are(project: Clone) -> None:
    prepared = project.root / "data" / "prepared"
    shard, before = (prepared / "images-00000.npy").read_bytes(), project.lock()["prepare"]["outs"]
    for number in (3, 30):
        _image(project.root / "photos" / "crack" / f"added {number}.png", 100 + number)
    project.succeed("dvc", "add", "-q", "photos")
    table = (project.root / "labels.csv").read_text()
    added = "".join(f"crack/added {number}.png,crack\n" for number in (3, 30))
    (project.root / "labels.csv").write_text(table + added)
    project.succeed(*_PREPARE)
    assert (prepared / "images-00000.npy").read_bytes() == shard
    images = PackedImages.open(prepared)
    assert [len(part) for part in images.shards] == [20, 2]
    for path, pixels in zip(images.samples["path"], images.read(np.arange(22)), strict=True):
        expected = np.asarray(Image.open(project.root / "photos" / path))
        assert np.array_equal(pixels, expected), path
    after = project.lock()["prepare"]["outs"]
    assert after != before
    project.succeed(*_PREPARE, "--force", "--single-item")
    assert project.lock()["prepare"]["outs"] == after, "the same images in the same shards"
