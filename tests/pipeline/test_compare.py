"""`thaw compare` in a small repository of git and DVC: answers and models of other revisions come from a remote."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.compared import Told, write_export, write_run
from tests.pipeline.clone import ROOT, Clone
from thaw.pipeline import artifacts

OUTS = ("raw", "data/prepared", "reports/predictions.csv", "reports/classes.json", "models/export")
GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
NAMES = ("dark", "light")


def told(numbers: Sequence[int], wrong: Sequence[int] = ()) -> list[Told]:
    """Return images that are dark and light in turn, answered wrongly on some."""
    return [Told(number, NAMES[number % 2], NAMES[(number + (number in wrong)) % 2]) for number in numbers]


def commit(clone: Clone, tag: str, images: Sequence[Told], margin: float) -> None:
    """Commit a run and push what DVC tracks of it."""
    for out in OUTS:
        artifacts.remove(clone.root / out)
    write_run(clone.root, images)
    write_export(clone.root)
    tree = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tree |= {"data": {"raw": "raw"}, "compare": {"margin": margin}}
    (clone.root / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    clone.succeed("dvc", "add", "-q", *OUTS)
    clone.succeed("dvc", "push", "-q")
    clone.succeed("git", "add", "-A")
    clone.succeed(*GIT, "commit", "-qm", tag)
    clone.succeed("git", "tag", tag)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A repository with two runs, the second of more images and worse, whose objects are in a remote alone."""
    root = tmp_path_factory.mktemp("compare")
    clone = Clone(root / "project", {"PYTHONPATH": str(ROOT)})
    clone.root.mkdir()
    clone.succeed("git", "init", "-q", "-b", "main")
    clone.succeed("dvc", "init", "-q")
    clone.succeed("dvc", "config", "core.analytics", "false")
    clone.succeed("dvc", "remote", "add", "-q", "-d", "storage", str(root / "remote"))
    commit(clone, "v1", told(range(60), range(3)), 0.0)
    commit(clone, "v2", [*told(range(60), range(20)), Told(200, "light", "light"), Told(210, "light", "light")], 0.05)
    shutil.rmtree(clone.root / ".dvc" / "cache")
    return clone


def compare(clone: Clone, *arguments: str) -> tuple[int, str]:
    return clone.run("python", "-m", "thaw", "compare", *arguments)


def test_the_workspace_is_compared_with_a_tag_whose_answers_and_model_are_in_the_remote(made: Clone) -> None:
    code, printed = compare(made, "v1", "--json", "--gate")
    found: dict[str, Any] = json.loads(printed)
    assert code == 1
    assert found["challenger"]["revision"] == "workspace"
    assert (found["champion"]["revision"], len(found["champion"]["commit"])) == ("v1", 40)
    assert found["images"] == {
        "compared": 62, "common": 60, "relabelled": 0, "new": 2, "seen": 0, "asked": 2, "gone": 0,
    }  # fmt: skip
    assert found["champion"]["metrics"]["accuracy"] == pytest.approx(59 / 62)
    assert found["challenger"]["metrics"]["accuracy"] == pytest.approx(42 / 62)
    assert (found["word"], found["gate"]) == ("worse", {"margin": 0.05, "passed": False})
    assert found["notes"] == []


def test_two_revisions_are_compared_without_the_workspace(made: Clone, tmp_path: Path) -> None:
    clone = made.copy(tmp_path / "clone")
    shutil.rmtree(clone.root / "reports")
    shutil.rmtree(clone.root / "raw")
    code, printed = compare(clone, "v1", "--with", "v2", "--md", "--gate")
    lines = printed.splitlines()
    assert code == 1
    assert lines[0].startswith("**The challenger, v2 (")
    assert "| 62 test images | champion | challenger | change | 95 % interval |" in lines
    code, printed = compare(clone, "v2", "--with", "v1", "--gate")
    assert (code, "is better than the champion" in printed) == (0, True)


def test_what_the_workspace_lacks_is_read_as_its_dvc_files_name_it(made: Clone, tmp_path: Path) -> None:
    clone = made.copy(tmp_path / "clone")
    for out in OUTS:
        artifacts.remove(clone.root / out)
    assert json.loads(compare(clone, "v1", "--json")[1])["images"]["asked"] == 2
    clone.succeed("git", "rm", "-q", "reports/predictions.csv.dvc")
    code, printed = compare(clone, "v1")
    assert (code, printed) == (
        2,
        "reports/predictions.csv is not in the workspace; run `dvc pull reports/predictions.csv`, or `dvc repro`\n",
    )


def test_answers_that_are_nowhere_and_revisions_that_are_none_leave_with_2_and_one_line(
    made: Clone, tmp_path: Path
) -> None:
    clone = made.copy(tmp_path / "clone")
    code, printed = compare(clone, "v9", "--gate")
    assert (code, len(printed.splitlines())) == (2, 1)
    assert printed.startswith("'v9' is no commit, branch, tag or experiment here")
    clone.succeed("dvc", "remote", "modify", "storage", "url", str(tmp_path / "empty"))
    code, printed = compare(clone, "v1", "--gate")
    assert (code, len(printed.splitlines())) == (2, 1)
    assert "reports/classes.json of v1 is neither in DVC's cache nor in a remote that answers" in printed
    assert "`dvc push --all-commits reports/classes.json`" in printed
    code, printed = compare(clone, "v1", "--md", "--json")
    assert code == 2
