"""Bring folders that dvc.lock knows and the workspace lacks, from DVC's cache or its remote.

`dvc repro --pull` brings a stage's deps only where their path is not there. `select` depends on models/phases, a folder
of one out for each phase, which is there as soon as one phase is; the others would stay missing.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from thaw.errors import ArtifactError
from thaw.pipeline.artifacts import remove


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
