"""`thaw repro`: what `dvc repro` must not meet is found first, and then this process becomes `dvc repro`."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from thaw import DISTRIBUTION
from thaw.errors import RunError
from thaw.project import before_dvc


def repro(arguments: Sequence[str]) -> NoReturn:
    """Look at params and data, then call `dvc repro` with these arguments in the place of this process.

    So its options, its output, its exit code and the signals that reach it are those of `dvc repro`. Raises: ThawError
    with a line for each finding, and nothing is run.
    """
    before_dvc.check()
    if importlib.util.find_spec("dvc") is None:
        raise RunError(f"{sys.executable} lacks dvc; run `pip install '{DISTRIBUTION}[train]'`")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "dvc", "repro", *arguments])  # noqa: S606, no shell is wanted
