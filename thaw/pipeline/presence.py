"""Make the folders of the phases those of params.yaml, before `select` runs.

`select` depends on models/phases, a folder of one out for each phase. `dvc repro --pull` brings a stage's deps only
where their path is not there, and this path is there as soon as one phase is: `bring` brings the others. DVC leaves the
out of a removed stage where it is, and its entry in dvc.lock: `take_out` removes both.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from thaw.errors import ArtifactError
from thaw.pipeline.artifacts import remove, write_text

LOCK = Path("dvc.lock")
_SILENCE_S = 120.0  # without a byte more on disk, until the remote counts as dead
# An entry as DVC writes it: the name of a stage of `unfreeze`, indented by two, then lines that are indented further.
_ENTRY = re.compile(r"^  unfreeze@(?P<phase>\w+):\n(?:   .*\n)*", re.MULTILINE)


def settle(root: Path, phases: Collection[str]) -> None:
    """Leave the head and these phases in `root`, and no other. Raises: ArtifactError if one cannot be had."""
    take_out(root, phases)
    bring([root / name for name in ("head", *phases)])


def bring(folders: Sequence[Path]) -> None:
    """Bring those of these outs that are missing: by `dvc get`, since a stage runs under the locks of its repro.

    All at once, since each takes a second and a half to start. Raises: ArtifactError with DVC's reason if one cannot be
    had.
    """
    if missing := [folder for folder in folders if not folder.exists()]:
        with ThreadPoolExecutor(len(missing)) as pool:
            list(pool.map(_bring, missing))


def _bring(folder: Path) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    remove(partial)
    command = [sys.executable, "-m", "dvc", "get", ".", folder.as_posix(), "--out", str(partial)]
    if reason := _failure(command, partial):
        remove(partial)
        raise ArtifactError(f"{folder} is missing, and DVC cannot bring it ({reason}); run `dvc repro`")
    partial.rename(folder)
    print(f"{folder} was missing, and is brought from DVC's cache or remote", flush=True)


def recorded(path: str, target: Path) -> bool:
    """Copy a file of an out, as dvc.lock has it, from DVC's cache or remote to `target`; return whether it was there.

    For a stage whose own out DVC has removed before it called the stage.
    """
    out = path.rpartition("/")[0]
    if not LOCK.exists() or f"- path: {out}\n" not in LOCK.read_text(encoding="utf-8"):
        return False
    return not _failure([sys.executable, "-m", "dvc", "get", ".", path, "--out", str(target)], target)


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


def take_out(root: Path, phases: Collection[str]) -> None:
    """Take phases that are not among `phases` out of dvc.lock, and their folders in `root` off the disk.

    A folder that dvc.lock does not list stays, since DVC's cache may have no copy. DVC writes its lock only after a
    stage has ended, and reads it anew for that.
    """
    text = LOCK.read_text(encoding="utf-8") if LOCK.exists() else ""
    removed = [found["phase"] for found in _ENTRY.finditer(text) if found["phase"] not in phases]
    if not removed:
        return
    for name in removed:
        remove(root / name)
        print(
            f"{root / name} is no phase of params.yaml any more; it leaves dvc.lock, DVC's cache keeps it", flush=True
        )
    write_text(LOCK, _ENTRY.sub(lambda found: "" if found["phase"] in removed else found[0], text))
