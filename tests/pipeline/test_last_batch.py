"""33 training images in batches of 32, whose last maps are one pixel: from prepare to the answers of the export."""

import contextlib
import csv
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from stages import advise, backbone, evaluate, export, features, head, prepare, select, unfreeze
from tests.pipeline.test_numeric_names import photo
from thaw.cli import app
from thaw.config.reader import read_tree
from thaw.pipeline import code, tables
from thaw.serving.answers import BATCH

ROOT = Path(__file__).resolve().parents[2]
IN_SPLITS = {"train": (17, 16), "val": (8, 8), "test": (8, 8)}


@pytest.mark.parametrize("norm", ["frozen", "train"])
def test_a_batch_with_one_image_left_over_trains_exports_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, norm: str
) -> None:
    assert BATCH == 32
    number = 0
    for split, counts in IN_SPLITS.items():
        for kind, count in enumerate(counts):
            for _ in range(count):
                path = tmp_path / "raw" / split / ("disc", "box")[kind] / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                photo(number, kind).save(path)
                number += 1
    tree = read_tree(ROOT / "params.yaml")
    top = tree["unfreeze"]["phases"]["top"] | {"depth": 1, "epochs": 2, "views": 2, "batch_size": 32, "norm": norm}
    for name, values in {
        "data": {"raw": "raw", "labels": "raw"},
        "prepare": {"size_px": 32, "near_copies": "warn"},
        "backbone": {"source": "timm:test_resnet", "sha256": None, "input_px": 32, "pretrained": False},
        "unfreeze": {"phases": {"top": top}},
        "select": {"draws": 100, "folds": 1},
        "evaluate": {"draws": 100},
        "compute": {"threads": 1, "workers": 0, "frozen_engine": "torch"},
    }.items():
        tree[name] = tree.get(name, {}) | values
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    code.write(tmp_path / code.FOLDER, code.running())
    monkeypatch.setenv("THAW_SCRATCH", str(tmp_path / ".thaw"))
    monkeypatch.setattr(sys, "argv", ["unfreeze", "top"])
    with contextlib.chdir(tmp_path):
        for stage in (prepare, backbone, features, head, advise, unfreeze, select, evaluate, export):
            stage.main()
        samples = tables.read(Path("data/prepared/samples.csv"))
        assert samples["split"].value_counts().to_dict() == {"train": 33, "val": 16, "test": 16}
        done = CliRunner().invoke(app, ["predict", "raw/train"])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == 33
    assert np.isfinite([float(row["probability"]) for row in rows]).all()
