"""`thaw data diff` between commits and the workspace, on twenty images that DVC tracks; only `prepare` runs."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.photos import as_installed
from tests.pipeline.clone import Clone
from thaw.project import files

_GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
_DIFF = (sys.executable, "-m", "thaw", "data", "diff")


def _write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a hard link into DVC's cache
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A project with twenty images, committed when `prepare` had run; no test changes it."""
    place = tmp_path_factory.mktemp("data_diff")
    root = place / "project"
    texts = files.project_files()
    tree = yaml.safe_load(files.params_text())
    tree["data"], tree["compute"] = {"raw": "data/images", "labels": "data/images"}, {"workers": 0}
    tree["prepare"] |= {"size_px": 16, "max_rejected": 0.1}
    texts |= {files.PARAMS: yaml.safe_dump(tree, sort_keys=False), files.REQUIREMENTS: files.requirements_text()}
    for name, text in (texts | files.git_ignores(texts["dvc.yaml"])).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    for number in range(20):
        _write(root / "data" / "images" / ("crack", "ok")[number % 2] / f"{number:02d}.png", number)
    clone = Clone(root, {"PYTHONPATH": as_installed(place / "installed")})
    clone.succeed("git", "init", "-q")
    clone.succeed(*_GIT, "commit", "-q", "--allow-empty", "-m", "empty")
    clone.succeed("dvc", "add", "-q", "data/images")
    clone.succeed("dvc", "repro", "prepare")
    clone.succeed("git", "add", "--all")
    clone.succeed(*_GIT, "commit", "-q", "-m", "twenty images")
    return clone


@pytest.fixture(scope="module")
def after(before: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Its copy, in which images were added, relabelled, replaced, removed and spoilt, and `prepare` ran again."""
    clone = before.copy(tmp_path_factory.mktemp("after") / "project", **before.environment)
    images = clone.root / "data" / "images"
    for number in range(5):
        _write(images / ("crack", "ok")[number % 2] / f"new{number}.png", 100 + number)
    for name in ("00.png", "02.png"):
        (images / "crack" / name).rename(images / "ok" / name)
    _write(images / "ok" / "01.png", 200)
    (images / "ok" / "03.png").unlink()
    data = bytearray((images / "ok" / "05.png").read_bytes())
    data[len(data) // 2] ^= 255
    (images / "ok" / "05.png").unlink()
    (images / "ok" / "05.png").write_bytes(data)
    return clone


def _json(clone: Clone, *revisions: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(clone.succeed(*_DIFF, *revisions, "--json"))
    return found


def _paths(items: list[dict[str, Any]]) -> list[str]:
    return [item["after"]["path"] if "after" in item else item["path"] for item in items]


def test_a_workspace_is_refused_until_prepare_has_run_and_then_every_change_is_found(after: Clone) -> None:
    code, output = after.run(*_DIFF)
    assert code == 1
    assert output == (
        "data/prepared in the workspace is out of date (changed deps: data/images); run `dvc repro prepare`\n"
    )
    after.succeed("dvc", "repro", "prepare")
    found = _json(after)
    assert _paths(found["added"]) == [
        "crack/new0.png",
        "crack/new2.png",
        "crack/new4.png",
        "ok/new1.png",
        "ok/new3.png",
    ]
    assert _paths(found["relabelled"]) == ["ok/00.png", "ok/02.png"]
    assert [pair["before"]["path"] for pair in found["relabelled"]] == ["crack/00.png", "crack/02.png"]
    assert _paths(found["replaced"]) == ["ok/01.png"]
    assert _paths(found["removed"]) == ["ok/03.png"]
    assert [(one["path"], one["before"]["label"]) for one in found["rejected"]] == [("ok/05.png", "ok")]
    assert found["images"] == {"before": 20, "after": 23}
    totals = {label: tuple(sum(count[side] for count in splits.values()) for side in ("before", "after"))
              for label, splits in found["counts"].items()}  # fmt: skip
    assert totals == {"crack": (10, 11), "ok": (10, 12)}

    page = after.root / "diff.html"
    output = after.succeed(*_DIFF, "--md", "--html", str(page))
    assert "- `ok/00.png`: `crack -> ok, " in output
    assert "Good before: 1 of the rejected." in output
    pictures = 1 + 2 + 2 + len(found["moved"]) + len(found["moved_folds"]) + 5 + 1
    assert page.read_text(encoding="utf-8").count('src="data:image/webp;base64,') == pictures

    after.succeed("git", "add", "--all")
    after.succeed(*_GIT, "commit", "-q", "-m", "changes")
    committed = _json(after, "HEAD~1", "HEAD")
    assert committed | {"before": "HEAD", "after": "workspace"} == found
    _check_the_gate(after)


def _check_the_gate(clone: Clone) -> None:
    """A good image that is rejected stops a change until data/accepted.csv has it, of the revision that is compared."""
    code, output = clone.run(*_DIFF, "HEAD~1", "HEAD", "--gate")
    assert code == 1
    assert output.splitlines()[-1].startswith("1 image that was good in HEAD~1 is rejected in HEAD (ok/05.png: damaged")
    accept = (*_DIFF[:-1], "accept", "--since", "HEAD~1")
    code, output = clone.run(*accept, "ok/07.png")
    assert (code, output) == (
        1,
        "ok/07.png is no image that was good in HEAD~1 and is rejected now; these are: ok/05.png\n",
    )
    assert clone.succeed(*accept).startswith("accepted: ok/05.png: damaged or cut short")
    clone.succeed(*_DIFF, "HEAD~1", "--gate")
    code, _ = clone.run(*_DIFF, "HEAD~1", "HEAD", "--gate")
    assert code == 1, "it is not committed yet"
    clone.succeed("git", "add", "data/accepted.csv")
    clone.succeed(*_GIT, "commit", "-q", "-m", "accepted")
    assert "; accepted" in clone.succeed(*_DIFF, "HEAD~2", "HEAD", "--gate")
    assert clone.succeed(*_DIFF[:-1], "accept") == "nothing to accept: no image that was good in HEAD is rejected now\n"
    assert clone.succeed("dvc", "status", "prepare").endswith("Data and pipelines are up to date.\n")


def test_nothing_changed_between_a_commit_and_its_own_workspace(before: Clone) -> None:
    output = before.succeed(*_DIFF)
    assert output.splitlines()[0] == "HEAD -> workspace: 20 images"
    assert len(output.splitlines()) == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "'nowhere' is no commit, branch, tag or experiment here; "),
        (["HEAD~1"], "HEAD~1 has no data/prepared/manifest.json: the pipeline had not written it when that was "),
        (["--md", "--json"], "--md and --json exclude each other"),
        (
            ["HEAD", "HEAD", "--html", "no/such/../../dvc.lock/x.html"],
            "no/such/../../dvc.lock/x.html cannot be written: ",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line(before: Clone, words: list[str], message: str) -> None:
    code, output = before.run(*_DIFF, *words)
    (line,) = [line for line in output.splitlines() if message[:12] in line]
    assert code == 1
    assert line.startswith(message)
    assert "Traceback" not in output


def test_outside_of_a_project_a_line_says_where_to_run(before: Clone, tmp_path: Path) -> None:
    code, output = Clone(tmp_path, before.environment).run(*_DIFF)
    assert (code, output) == (1, f"{tmp_path} is no DVC project; run this in the folder where dvc.yaml is\n")


def test_objects_are_read_from_the_remote_and_where_that_lacks_them_a_line_says_what_to_do(
    before: Clone, tmp_path: Path
) -> None:
    clone = before.copy(tmp_path / "project", **before.environment)
    clone.succeed("dvc", "remote", "add", "-q", "-d", "store", str(tmp_path / "store"))
    clone.succeed("dvc", "push", "-q", "data/prepared")
    shutil.rmtree(clone.root / ".dvc" / "cache")
    page = clone.root / "diff.html"
    output = clone.succeed(*_DIFF, "HEAD", "HEAD", "--html", str(page))
    assert output.startswith("HEAD -> HEAD: 20 images")
    shutil.rmtree(clone.root / "data" / "prepared")
    code, output = clone.run(*_DIFF)
    assert code == 1
    assert output.startswith("data/prepared is missing in the workspace; run `dvc repro prepare`, or `dvc pull ")
    shutil.rmtree(tmp_path / "store")
    code, output = clone.run(*_DIFF, "HEAD", "HEAD")
    assert code == 1
    assert output.startswith(
        "data/prepared/manifest.json of HEAD is neither in DVC's cache nor in a remote that answers"
    )
    assert "dvc fetch --all-commits -r REMOTE data/prepared" in output


def test_the_command_loads_no_torch(before: Clone) -> None:
    script = (
        "import sys\nfrom thaw.cli import app\n"
        "try: app(['data', 'diff', '--html', 'page.html'])\n"
        "finally: print('loaded', *({'torch', 'timm', 'onnxruntime', 'sklearn'} & {*sys.modules}))"
    )
    output = before.succeed(sys.executable, "-c", script)
    (before.root / "page.html").unlink()
    assert output.splitlines()[-1] == "loaded"
