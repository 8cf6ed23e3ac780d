"""What every row of the fault list is held to: the real `dvc repro` in a copy of the finished clone. No test here.

A refusal is a line of the stage's own and an exit code that is not 0; it leaves no traceback, nothing half written and
no out of the stage. What recovers is a rerun that ends in the files and the dvc.lock of the finished clone.
"""

import os
import shutil
from pathlib import Path

import pytest

from tests.pipeline.clone import Clone
from tests.pipeline.fixtures import Run

SECONDS = 300
"""What one command may take: the slowest took 40 s beside much other work."""

UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
"""What a command of root's is put behind: root reads every file and writes to every folder, unless it gives that up."""
needs_no_privileges = pytest.mark.skipif(
    bool(UNPRIVILEGED) and shutil.which("setpriv") is None, reason="this is root, and setpriv is not here"
)


def accepted(clone: Clone, *command: str) -> str:
    """Return what a command printed; it must succeed in time."""
    code, output = clone.run(*command, seconds=SECONDS)
    assert code == 0, output
    return output


def refused(clone: Clone, *command: str, says: str, lacks: str) -> list[str]:
    """Return the lines that a command printed; it must fail in time, and one line begins with `says`.

    `lacks` is an out that must not be there afterwards: DVC deletes it before it calls its stage.
    """
    code, output = clone.run(*command, seconds=SECONDS)
    lines = output.splitlines()
    assert code != 0, output
    assert "Traceback" not in output, output
    assert [line for line in lines if line.startswith(says)], f"{says!r} is not in\n{output}"
    assert not (clone.root / lacks).exists()
    assert leftovers(clone) == []
    return lines


def leftovers(clone: Clone) -> list[Path]:
    """Return what a stage has left half written."""
    folders = (clone.root / name for name in ("data", "models", "reports"))
    return [path for folder in folders for path in folder.rglob(".*.partial")]


def recovers(clone: Clone, finished: Run, stage: str) -> None:
    """Rerun a stage whose input is as it was: the files and dvc.lock end as those of the finished clone."""
    accepted(clone, "dvc", "repro", stage)
    assert clone.hashes() == finished.clone.hashes()
    assert clone.lock() == finished.clone.lock()


def flip_a_bit(path: Path) -> None:
    """Replace a file, which may be a hard link, by one with another bit, read-only as before."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)
    path.chmod(0o444)
