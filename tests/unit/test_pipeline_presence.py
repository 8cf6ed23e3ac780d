"""A phase that was removed from params.yaml leaves dvc.lock and the disk."""

from pathlib import Path

import pytest
import yaml

from thaw.pipeline import presence

ENTRY = {"cmd": "python", "outs": [{"path": "b", "md5": "2"}]}
STAGES = ("head", "unfreeze@top", "unfreeze@mid", "unfreeze@side", "select")


@pytest.fixture
def phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """models/phases with folders of a head and of four phases, of which dvc.lock lists three."""
    monkeypatch.chdir(tmp_path)
    for name in ("head", "top", "mid", "side", "own"):
        (tmp_path / "models" / "phases" / name).mkdir(parents=True)
    entries = (f"  {name}:\n    cmd: python\n    outs:\n    - path: b\n      md5: '2'\n" for name in STAGES)
    presence.LOCK.write_text("".join(["schema: '2.0'\nstages:\n", *entries]), encoding="utf-8")
    return Path("models/phases")


def test_a_removed_phase_leaves_both_and_what_the_lock_does_not_list_stays(phases: Path) -> None:
    presence.take_out(phases, ["top"])
    lock = yaml.safe_load(presence.LOCK.read_text(encoding="utf-8"))
    assert lock == {"schema": "2.0", "stages": dict.fromkeys(("head", "unfreeze@top", "select"), ENTRY)}
    assert sorted(path.name for path in phases.iterdir()) == ["head", "own", "top"]


def test_where_all_phases_are_there_the_lock_is_not_written(phases: Path) -> None:
    before = presence.LOCK.stat()
    presence.take_out(phases, ["top", "mid", "side"])
    assert (presence.LOCK.stat().st_ino, presence.LOCK.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_without_a_lock_nothing_is_removed(phases: Path) -> None:
    presence.LOCK.unlink()
    presence.take_out(phases, [])
    assert (phases / "mid").exists()
