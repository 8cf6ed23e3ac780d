"""Same in, same out: what is kept in `.thaw/` can save time and nothing else, and what changes a result says so."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.clone import Clone, stages_run
from tests.pipeline.fixtures import Run
from thaw.pipeline import artifacts

TOP = Path("models", "phases", "top")


def _delete(scratch: Path) -> None:
    artifacts.remove(scratch)


def _damage(scratch: Path) -> None:
    """Change a bit in the middle of every file."""
    for path in [path for path in scratch.rglob("*") if path.is_file() and path.stat().st_size]:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.unlink()
        path.write_bytes(data)


@pytest.mark.parametrize("change", [_delete, _damage])
def test_a_scratch_folder_that_is_gone_or_damaged_costs_time_only(
    finished: Run, copy: Clone, change: Callable[[Path], None]
) -> None:
    assert any((copy.root / ".thaw" / "cache").iterdir())
    change(copy.root / ".thaw")
    copy.forget("unfreeze@top")
    assert stages_run(copy.succeed("dvc", "repro")) == ["unfreeze@top"]
    assert copy.hashes() == finished.clone.hashes()
    assert copy.lock() == finished.clone.lock()


def test_a_result_of_another_number_of_threads_says_so(finished: Run, copy: Clone) -> None:
    copy.update({"compute.threads": 2})
    assert stages_run(copy.succeed("dvc", "repro", "unfreeze@top")) == [], "the result is there, whoever computed it"
    copy.forget("unfreeze@top")
    copy.succeed("dvc", "repro", "unfreeze@top")
    one, two = (
        json.loads((clone.root / TOP / "model.json").read_text(encoding="utf-8"))["lineage"]
        for clone in (finished.clone, copy)
    )
    assert one["computed_on"].endswith(", 1 thread")
    assert two == one | {"computed_on": one["computed_on"].replace(", 1 thread", ", 2 threads")}
    assert one["engine"] == "torch"
