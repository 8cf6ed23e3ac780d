"""Fixtures for all tests: the repository's root, and a folder of its own for each test that writes."""

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, settings

from thaw.pipeline import code

ROOT = Path(__file__).resolve().parents[1]

# What the tests compute is tiny, and a second thread makes tiny work slower, tenfold next to other work. Before torch
# is imported, and for the stages that tests start as well.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The clones with a finished pipeline, which tests/pipeline and tests/faults share, and an exported model.
pytest_plugins = ["tests.pipeline.fixtures", "tests.exports"]

# Two slow cores run the tests next to other work: a deadline would fail what is only slow. No database: a failing
# example is printed and belongs into a test.
settings.register_profile(
    "thaw", deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("thaw")

# Tests must not share checkpoints and caches with the pipeline of this clone.
os.environ.pop("THAW_SCRATCH", None)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the current one, with a copy of params.yaml and the fingerprints that stages want."""
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    code.write(tmp_path / code.FOLDER, code.running())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def params_text(root: Path) -> str:
    """A valid params.yaml: the keys that tests edit are written out."""
    phase = {
        "lr_scale": 1.0, "epochs": 4, "views": 4, "batch_size": 32, "weight_decay": 0.01, "warmup": 0.2,
        "label_smoothing": 0.0, "warm_start": True, "norm": "train",
    }  # fmt: skip
    tree = {
        "seed": 0,
        "data": {"raw": "data/sample/images"},
        "prepare": {"size_px": 256, "fit": "crop", "test_fraction": 0.25, "val_fraction": 0.1},
        "backbone": {"source": "package:efficientnet_lite0", "sha256": None, "input_px": None},
        "augment": {"flip": "auto", "tta": True},
        "features": {"views": 4},
        "head": {"hidden": [], "dropout": 0.0},
        "advise": {"images": 0},
        "unfreeze": {
            "defaults": {},
            "phases": {
                "top": {"start": "head", "depth": 3, "lr": 0.0005, **phase},
                "mid": {"start": "top", "depth": 6, "lr": 0.001, **phase},
            },
        },
        "select": {"folds": "auto", "min_win_rate": 0.6, "draws": 2000},
        "evaluate": {"draws": 2000},
        "export": {},
        "compute": {"threads": None, "device": "auto", "cache_gib": 8.0},
    }
    return str(yaml.safe_dump(tree, sort_keys=False))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scratch folder of the test's own, for caches, engines and checkpoints."""
    monkeypatch.setenv("THAW_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"
