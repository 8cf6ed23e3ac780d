"""The scratch folder: checkpoints, caches, locks and timings, shared by all trials of a clone."""

import os
from pathlib import Path


def folder() -> Path:
    """Return the folder for checkpoints, caches and timings: `.thaw/` of the repository, or `$THAW_SCRATCH`.

    A trial of `dvc queue` runs in a throw-away copy below `.dvc/tmp/exps`; it shares the repository's folder.
    """
    if (chosen := os.environ.get("THAW_SCRATCH")) is not None:
        return Path(chosen)
    here = Path.cwd()
    for parent in here.parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2] / ".thaw"
    return here / ".thaw"
