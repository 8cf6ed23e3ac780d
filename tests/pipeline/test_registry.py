"""A registered version: in another folder, without the repository, it answers, and another model starts from it."""

import csv
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests import tiny
from tests.exports import Twins
from tests.pipeline.clone import ROOT, Clone
from thaw.errors import BackboneError
from thaw.networks.sources import model
from thaw.networks.sources.opening import open_backbone
from thaw.pipeline import artifacts, elsewhere

_GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")


@dataclass(frozen=True)
class Registry:
    """A team's repository with the version classifier@v1.0.0, and a folder that knows nothing of it."""

    team: Clone
    stranger: Clone
    remote: Path

    @property
    def address(self) -> str:
        """The repository, as others name it."""
        return str(self.team.root)


@pytest.fixture
def registry(twins: Twins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A repository whose objects are in its remote alone."""
    monkeypatch.setenv("THAW_SCRATCH", str(tmp_path / "scratch"))
    identity = {"GIT_AUTHOR_NAME": "test", "GIT_AUTHOR_EMAIL": "t@localhost", "PYTHONPATH": str(ROOT)}
    team = Clone(tmp_path / "team", {**identity, "GIT_COMMITTER_NAME": "test", "GIT_COMMITTER_EMAIL": "t@localhost"})
    for folder, name in ((twins.final, "final"), (twins.exported, "export")):
        shutil.copytree(folder, team.root / "models" / name)
    described = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["artifacts"]
    (team.root / "dvc.yaml").write_text(yaml.safe_dump({"artifacts": described}), encoding="utf-8")
    team.succeed("git", "init", "--quiet")
    team.succeed("dvc", "init", "--quiet")
    team.succeed("dvc", "remote", "add", "--quiet", "--default", "team", str(tmp_path / "remote"))
    team.succeed("dvc", "add", "--quiet", "models/final", "models/export")
    team.succeed("git", "add", "--all")
    team.succeed(*_GIT, "commit", "--quiet", "--message", "cells")
    team.succeed("dvc", "push", "--quiet")
    team.succeed("gto", "register", "classifier", "--version", "v1.0.0")
    shutil.rmtree(team.root / ".dvc" / "cache")
    stranger = Clone(tmp_path / "elsewhere", {"PYTHONPATH": str(ROOT)})
    stranger.root.mkdir()
    Image.fromarray(tiny.pixels(1)[0]).save(stranger.root / "a.png")
    return Registry(team, stranger, tmp_path / "remote")


def rows(printed: str) -> list[dict[str, str]]:
    """Return the rows of a table; the lines before its header are DVC's."""
    return list(csv.DictReader(io.StringIO(printed[printed.index("path,class") :])))


def test_a_version_answers_in_a_folder_without_the_repository_and_each_answer_names_it(
    registry: Registry, twins: Twins
) -> None:
    registry.stranger.succeed(
        "dvc", "artifacts", "get", registry.address, "classifier", "--rev", "v1.0.0", "--out", "m"
    )
    (by_folder,) = rows(registry.stranger.succeed("python", "-m", "thaw", "predict", "a.png", "--model", "m"))
    assert by_folder["model"] == artifacts.verify(twins.exported)[:12]
    name = f"{registry.address}#models/export@classifier@v1.0.0"
    (by_name,) = rows(registry.stranger.succeed("python", "-m", "thaw", "predict", "a.png", "--model", name))
    assert by_name == {**by_folder, "model": "classifier@v1.0.0"}
    given = Clone(registry.stranger.root, {**registry.stranger.environment, "THAW_MODEL_VERSION": "classifier@v1.0.0"})
    assert rows(given.succeed("python", "-m", "thaw", "predict", "a.png", "--model", "m")) == [by_name]


def test_a_backbone_is_opened_at_a_version_and_once_it_is_here_the_repository_need_not_be(registry: Registry) -> None:
    source = f"model:{registry.address}#models/final@classifier@v1.0.0"
    first = open_backbone(source).module.state_dict()
    registry.team.root.rename(registry.team.root.with_name("away"))
    elsewhere._brought.cache_clear()
    again = open_backbone(source).module.state_dict()
    assert all((first[name] == again[name]).all() for name in first)
    (artifacts_here,) = (Path(registry.remote).parent / "scratch" / "downloads").iterdir()
    (artifacts_here / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(BackboneError, match=r"could not be brought: .*/team cannot be cloned \(No git rep.*\); see to"):
        open_backbone(source)


def test_a_version_that_is_not_there_names_those_that_are(registry: Registry) -> None:
    for version in ("1.0.1", "1.10.0", "1.9.0-rc.1"):
        registry.team.succeed("git", "tag", f"classifier@v{version}")
    registry.team.succeed("git", "tag", "other@v3.0.0")
    known = "classifier@v1.10.0, classifier@v1.9.0-rc.1, classifier@v1.0.1, classifier@v1.0.0"
    for name, words in (
        ("classifier@v2.0.0", f"has no revision classifier@v2.0.0; there are {known}"),
        ("cells@v1.0.0", "no version of cells is registered there, which `gto register NAME` does"),
    ):
        with pytest.raises(BackboneError) as caught:
            model.folder_of(f"{registry.address}#models/final@{name}")
        assert str(caught.value).endswith(words)
        assert "\n" not in str(caught.value)


def test_a_version_whose_model_nobody_pushed_says_so(registry: Registry) -> None:
    shutil.rmtree(registry.remote)
    with pytest.raises(BackboneError, match=r"if its remote lacks it, run `dvc push --all-commits` in a"):
        model.folder_of(f"{registry.address}#models/final@classifier@v1.0.0")
    with pytest.raises(BackboneError, match=r"has no models/finale at classifier@v1\.0\.0; correct the path$"):
        model.folder_of(f"{registry.address}#models/finale@classifier@v1.0.0")
