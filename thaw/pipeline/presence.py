"""Make the folders of the phases those of params.yaml, before `select` runs.

`select` depends on models/phases, a folder of one out for each phase. `dvc repro --pull` brings a stage's deps only
where their path is not there, and this path is there as soon as one phase is: `bring` brings the others. DVC leaves the
out of a removed stage where it is, and its entry in dvc.lock: `take_out` removes both.
"""

import re
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from thaw.errors import ArtifactError
from thaw.pipeline.artifacts import remove, write_text

LOCK = Path("dvc.lock")
# An entry as DVC writes it: the name of a stage of `unfreeze`, indented by two, then lines that are indented further.
_ENTRY = re.compile(r"^  unfreeze@(?P<phase>\w+):\n(?:   .*\n)*", re.MULTILINE)


def settle(root: Path, phases: Collection[str]) -> None:
    """Leave the head and these phases in `root`, and no other. Raises: ArtifactError if one cannot be had."""
    take_out(root, phases)
    bring([root / name for name in ("head", *phases)])


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
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip().splitlines() or [f"`dvc get` ended with {done.returncode}"]
            raise ArtifactError(f"{folder} is missing, and DVC cannot bring it ({reason[0]}); run `dvc repro`")
        partial.rename(folder)
        print(f"{folder} was missing, and is brought from DVC's cache or remote", flush=True)


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
