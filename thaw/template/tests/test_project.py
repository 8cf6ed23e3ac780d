"""The settings are valid, the graph is whole, and the pipeline runs from raw images to the report on tiny ones."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from thaw.config.reader import load_params, read_tree

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "dvc.yaml").is_file())
IMAGES_A_CLASS = 20
SIZE_PX = 64


def test_the_settings_are_valid() -> None:
    """`thaw check` in one line."""
    load_params(ROOT / "params.yaml")


def test_every_stage_of_the_graph_has_a_file() -> None:
    """A stage runs as `python -m stages.NAME`."""
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
        words = stage.get("do", stage)["cmd"].split()
        module = next((word for word in words if word.startswith("stages.")), None)
        assert module is None or (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{name} runs {module}"


def test_dvc_reads_the_graph_with_the_settings() -> None:
    """Every phase of params.yaml is a stage, and so is all that dvc.yaml names."""
    listed = _run(ROOT, "dvc", "stage", "list", "--name-only").split()
    assert {f"unfreeze@{phase}" for phase in load_params(ROOT / "params.yaml").unfreeze.phases} <= set(listed)
    assert {"prepare", "head", "select", "evaluate", "report"} <= set(listed)


def test_a_tiny_run_ends_with_metrics_and_a_report(tmp_path: Path) -> None:
    """Forty images of 64 pixels, a tiny network with random weights, one epoch: it runs, whatever the figures are."""
    for name in ("dvc.yaml", "requirements.txt", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("stages", "thaw"):  # thaw is a folder in a clone of Thaw alone
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n", encoding="utf-8")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(_tiny(read_tree(ROOT / "params.yaml"))), encoding="utf-8")
    _write_images(tmp_path / "images")
    _run(tmp_path, "dvc", "repro")
    metrics = json.loads((tmp_path / "reports" / "metrics.json").read_text(encoding="utf-8"))
    assert 0 <= metrics["test"]["accuracy"] <= 1
    assert "<html" in (tmp_path / "reports" / "index.html").read_text(encoding="utf-8")


def _tiny(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the project's settings for tiny images and a tiny network."""
    name, phase = next(iter(tree["unfreeze"]["phases"].items()), ("top", {"lr": 1e-3}))
    tree["unfreeze"]["phases"] = {name: {**phase, "start": "head", "depth": 1, "epochs": 1, "views": 1}}
    tree["data"] = {"raw": "images", "labels": "images"}
    tree["prepare"] = (tree.get("prepare") or {}) | {"size_px": SIZE_PX, "max_rejected": 0.0, "value_range": None}
    tree["backbone"] = {"source": "timm:test_resnet", "sha256": None, "input_px": SIZE_PX, "pretrained": False}
    tree["head"] = (tree.get("head") or {}) | {"grow_from": None}
    for section in ("select", "evaluate"):
        tree[section] = (tree.get(section) or {}) | {"draws": 100}
    tree["select"] |= {"folds": 2}
    tree["compute"] = (tree.get("compute") or {}) | {
        "threads": 1,
        "workers": 0,
        "device": "cpu",
        "frozen_engine": "torch",
    }
    return tree


def _write_images(folder: Path) -> None:
    random = np.random.default_rng(0)
    for label, level in (("bright", 200), ("dark", 50)):
        (folder / label).mkdir(parents=True)
        for index in range(IMAGES_A_CLASS):
            pixels = random.integers(level - 50, level + 50, (SIZE_PX, SIZE_PX, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index}.png")


def _run(folder: Path, module: str, *arguments: str) -> str:
    """Return what a command printed; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
