"""The stages of the pipeline, one file each.

Each first makes sure that it runs in the right interpreter, and that it will end with the `dvc` that started it: before
torch is imported, which takes seconds in which a kill must not leave an orphan.
"""

import importlib.util
import sys

if any(importlib.util.find_spec(name) is None for name in ("torch", "pydantic", "psutil", "pandas", "yaml")):
    sys.exit(
        f"{sys.executable} lacks Thaw's requirements; run `make install`, then `make repro` (or `dvc repro` with "
        ".venv/bin first on PATH)"
    )

from thaw.pipeline.guard import leave_with_dvc  # after the check: it needs the requirements

leave_with_dvc()
