"""The stages of the pipeline, one file each.

Each first makes sure that it runs in the right interpreter, and that it will end with the `dvc` that started it: before
torch is imported, which takes seconds in which a kill must not leave an orphan, and an edit must not go unseen.
"""

import gc
import importlib.util
import sys
from pathlib import Path

if any(importlib.util.find_spec(name) is None for name in ("thaw", "torch", "pydantic", "psutil", "pandas", "yaml")):
    sys.exit(
        f"{sys.executable} lacks Thaw's requirements; run `pip install -r requirements.txt` (in a clone of Thaw "
        "`make install`), then `dvc repro` with that environment's python first on PATH"
    )

# After the check: these need the requirements.
from thaw.errors import RunError
from thaw.pipeline.guard import leave_with_dvc, remember_start
from thaw.pipeline.record import refuse_newer

if sys.argv[0] == "-m":  # Python runs a stage, and no test imports one
    gc.disable()  # until guard.main: each collection would walk all that was imported so far
    remember_start()
leave_with_dvc()
try:
    refuse_newer(Path.cwd())
except RunError as error:
    sys.exit(str(error))
