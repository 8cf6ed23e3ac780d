"""What runs without torch: an exported model, its answers and the command that prints them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests import tiny
from tests.contract import repository
from tests.exports import Twins

# What an installation that only answers has no need of.
HEAVY = ("torch", "torchvision", "timm", "onnx", "onnxscript", "sklearn", "pandas", "matplotlib")

_REPORT = """
import sys
from thaw.cli import app
try:
    app(sys.argv[1:])
finally:
    print("loaded:", *sorted(name for name in {module.split(".")[0] for module in sys.modules}), file=sys.stderr)
"""


def test_predict_loads_no_torch_and_nothing_else_that_is_for_training(twins: Twins, tmp_path: Path) -> None:
    Image.fromarray(tiny.pixels(1)[0]).save(tmp_path / "a.png")
    image = {"bytes": (tmp_path / "a.png").read_bytes(), "path": "a.png"}
    pq.write_table(pa.table({"image": [image]}), tmp_path / "b.parquet")
    shutil.make_archive(str(tmp_path / "c"), "gztar", tmp_path, "a.png")
    given = ["predict", str(tmp_path), "--model", str(twins.exported), "--explain", str(tmp_path / "why")]
    done = subprocess.run(
        [sys.executable, "-c", _REPORT, *given], cwd=repository.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("path,class,probability,")
    assert done.stdout.count("\n") == 4
    loaded = done.stderr.partition("loaded:")[2].split()
    assert "onnxruntime" in loaded
    assert not set(HEAVY) & set(loaded)


def test_compare_can_reach_no_library_that_trains() -> None:
    for module in ("thaw.compare.command", "thaw.compare.text"):
        reached = set(repository.CODE.closure(module).values())
        names = [name for name, path in repository.CODE.modules.items() if path in reached]
        assert module in names
        imported = {other.split(".")[0] for name in names for other in repository.CODE.imports(name)}
        assert "onnxruntime" in imported or module == "thaw.compare.text"
        assert not {"torch", "torchvision", "timm", "onnx", "onnxscript"} & imported, module


def test_the_exported_classifier_and_its_commands_can_reach_no_torch() -> None:
    for module in ("thaw.serving.exported", "thaw.serving.predict", "thaw.serving.serve"):
        reached = set(repository.CODE.closure(module).values())
        names = [name for name, path in repository.CODE.modules.items() if path in reached]
        assert module in names
        imported = {other.split(".")[0] for name in names for other in repository.CODE.imports(name)}
        assert not set(HEAVY) & imported, module
