"""The stages of the pipeline, one file each. Each first makes sure that it runs in the right interpreter."""

import importlib.util
import sys

if any(importlib.util.find_spec(name) is None for name in ("torch", "pydantic", "psutil", "pandas", "yaml")):
    sys.exit(
        f"{sys.executable} lacks Thaw's requirements; run `make install`, then `make repro` (or `dvc repro` with "
        ".venv/bin first on PATH)"
    )
