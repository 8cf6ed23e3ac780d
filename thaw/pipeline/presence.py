"""Bring folders that dvc.lock knows and the workspace lacks, from DVC's cache or its remote.

`dvc repro --pull` brings a stage's deps only where their path is not there. `select` depends on models/phases, a folder
of one out for each phase, which is there as soon as one phase is; the others would stay missing.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from thaw.errors import ArtifactError
from thaw.pipeline.artifacts import remove

_SILENCE_S = 120.0  # without a byte more on disk, until the remote counts as dead


def bring(folders: Sequence[Path]) -> None:
    """Bring those of these outs that are missing: by `dvc get`, since a stage runs under the locks of its repro.

    Raises: ArtifactError with DVC's reason if one cannot be had.
    """
    for folder in folders:
        if folder.exists():
            continue
        partial = folder.with_name(f".{folder.name}.partial")
        remove(partial)
        command = [sys.executable, "-m", "dvc", "get", ".", folder.as_posix(), "--out", str(partial)]
        if reason := _failure(command, partial):
            remove(partial)
            raise ArtifactError(f"{folder} is missing, and DVC cannot bring it ({reason}); run `dvc repro`")
        partial.rename(folder)
        print(f"{folder} was missing, and is brought from DVC's cache or remote", flush=True)


def _failure(command: Sequence[str], partial: Path) -> str:
    """Run a command that fills a folder; return why it failed, or nothing. If no byte comes for long, it is ended."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        size, last = 0, time.monotonic()
        try:
            while process.poll() is None:
                time.sleep(0.1)
                if (found := _size(partial)) != size:
                    size, last = found, time.monotonic()
                elif time.monotonic() - last > _SILENCE_S:
                    return f"its remote has sent nothing for {_SILENCE_S:.0f} s"
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        lines = said.read().strip().splitlines() or [f"`dvc get` ended with {process.returncode}"]
        return lines[0] if process.returncode else ""


def _size(path: Path) -> int:
    """Return the bytes of all files below a folder; a file may go while this counts."""
    total = 0
    for file in path.rglob("*"):
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total
