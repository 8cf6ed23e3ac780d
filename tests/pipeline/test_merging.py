"""Two clones that both ran a pipeline merge by the lines of docs/guide/merging.md, with real git and real DVC."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.photos import ROOT
from tests.pipeline.clone import stages_run

_PERSON = {f"GIT_{role}_{what}": "test@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
_GRAPH = """\
stages:
  prepare:
    cmd: cp images.txt prepared.txt
    deps: [images.txt]
    outs: [prepared.txt]
  backbone:
    cmd: cp source.txt weights.txt
    deps: [source.txt]
    outs: [weights.txt]
  evaluate:
    cmd: echo "{\\"weights\\":" $(cat weights.txt), "\\"images\\":" $(cat prepared.txt)} > reports/metrics.json
    deps: [prepared.txt, weights.txt]
    metrics: [reports/metrics.json]
  export:
    cmd: cp weights.txt exported.txt
    deps: [weights.txt]
    outs: [exported.txt]
"""


def _run(folder: Path, *command: str) -> str:
    """Return what a command printed in a clone; it must succeed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "DVC_"))}
    ours = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_EDITOR": "true",
        "DVC_SITE_CACHE_DIR": str(folder.parent / "site"),
    }
    done = subprocess.run(
        command,
        cwd=folder,
        env=inherited | ours | _PERSON,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done.stdout


def _run_and_push(clone: Path, branch: str, **texts: str) -> None:
    """Change inputs on a branch, run the pipeline, and push git's part and DVC's."""
    _run(clone, "git", "checkout", "--quiet", "-B", branch)
    for name, text in texts.items():
        (clone / f"{name}.txt").write_text(f"{text}\n")
    _run(clone, "dvc", "repro", "--quiet")
    _run(clone, "git", "add", "--all")
    _run(clone, "git", "commit", "--quiet", "--message", branch)
    _run(clone, "dvc", "push", "--quiet")
    _run(clone, "git", "push", "--quiet", "origin", branch)


@pytest.fixture
def clones(tmp_path: Path) -> tuple[Path, Path]:
    """Two clones of one repository, each with an own branch pushed: one has other images, one another network."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    _run(tmp_path, "git", "init", "--quiet", "--bare", "--initial-branch=main", "hub.git")
    _run(tmp_path, "git", "clone", "--quiet", "hub.git", "ours")
    _run(ours, "dvc", "init", "--quiet")
    _run(ours, "dvc", "config", "core.analytics", "false")
    _run(ours, "dvc", "remote", "add", "--quiet", "--default", "store", str(tmp_path / "store"))
    (ours / "dvc.yaml").write_text(_GRAPH)
    (ours / "reports").mkdir()
    (ours / ".gitattributes").write_bytes((ROOT / ".gitattributes").read_bytes())
    _run_and_push(ours, "main", images="100", source="1")
    _run(tmp_path, "git", "clone", "--quiet", "hub.git", "theirs")
    _run_and_push(theirs, "lower-rate", source="2")
    _run_and_push(ours, "more-images", images="200")
    return ours, theirs


def _guide() -> list[list[str]]:
    """The commands of each block of the guide."""
    text = (ROOT / "docs" / "guide" / "merging.md").read_text(encoding="utf-8")
    return [block.splitlines() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]


def _by_shell(clone: Path, line: str) -> str:
    return _run(clone, "sh", "-c", line)


def _entries(text: str) -> dict[str, object]:
    return dict(yaml.safe_load(text)["stages"])


def test_the_lines_of_the_guide_merge_two_branches_and_run_only_what_both_changed(clones: tuple[Path, Path]) -> None:
    ours, theirs = clones
    (setup,), (fetch, merge, pull, repro, commit), _ = _guide()
    assert "merge.thaw-lock: set" in _by_shell(ours, setup)
    _by_shell(ours, fetch)
    assert "dvc.lock: changed on both sides, so `dvc repro` decides: evaluate\n" in _by_shell(ours, merge)
    assert _run(ours, "git", "diff", "--name-only", "--diff-filter=U") == ""
    kept = _entries((ours / "dvc.lock").read_text())
    assert kept["prepare"] == _entries(_run(ours, "git", "show", "more-images:dvc.lock"))["prepare"]
    for stage in ("backbone", "export"):
        assert kept[stage] == _entries((theirs / "dvc.lock").read_text())[stage]
    assert set(kept) == {"prepare", "backbone", "export"}
    _by_shell(ours, pull)
    assert (ours / "exported.txt").read_text() == "2\n"
    changed = re.findall(r"^(\S+):$", _run(ours, "dvc", "status"), re.MULTILINE)
    assert changed == ["evaluate"]
    assert stages_run(_run(ours, "dvc", "repro", "--dry")) == ["evaluate"]
    assert stages_run(_by_shell(ours, repro)) == ["evaluate"]
    assert yaml.safe_load((ours / "reports" / "metrics.json").read_text()) == {"weights": 2, "images": 200}
    _by_shell(ours, commit)
    assert _run(ours, "git", "status", "--porcelain") == ""
    assert _run(ours, "dvc", "status") == "Data and pipelines are up to date.\n"
    assert len(_run(ours, "git", "log", "-1", "--format=%P").split()) == 2


def test_after_a_text_conflict_the_guide_takes_one_side_and_dvc_runs_what_that_leaves_open(
    clones: tuple[Path, Path],
) -> None:
    ours, _ = clones
    _run(ours, "git", "fetch", "--quiet")
    subprocess.run(["git", "merge", "--quiet", "origin/lower-rate"], cwd=ours, env=os.environ | _PERSON, check=False)
    assert _run(ours, "git", "diff", "--name-only", "--diff-filter=U").split() == ["dvc.lock"]
    *_, (take, repro) = _guide()
    _by_shell(ours, take)
    assert stages_run(_by_shell(ours, repro)) == ["backbone", "evaluate", "export"]
    assert yaml.safe_load((ours / "reports" / "metrics.json").read_text()) == {"weights": 2, "images": 200}
