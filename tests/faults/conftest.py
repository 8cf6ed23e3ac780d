"""A folder with images and params, for tests that run the real stage prepare."""

from pathlib import Path

import pytest
import yaml

from tests.faults.preparing import ROOT, save
from thaw.config.reader import read_tree
from thaw.pipeline import code


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder with params.yaml and raw/: two classes of 20 noise images each."""
    params = read_tree(ROOT / "params.yaml")
    params["data"] = {"raw": "raw", "labels": "raw"}
    params["prepare"] |= {"size_px": 16, "max_rejected": 0.2}
    params["compute"] = {"workers": 0}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    for number, label in enumerate(("cat", "dog")):
        for index in range(20):
            save(tmp_path / "raw" / label / f"{index:02d}.png", seed=100 * number + index)
    code.write(tmp_path / code.FOLDER, code.running(), only=["prepare"])
    return tmp_path
