"""The tests that a project gets: they replace what is the team's own, so that they pass with any params."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.photos import ROOT
from thaw.config.reader import load_params

_FILE = ROOT / "thaw" / "template" / "tests" / "test_project.py"
_PHASE = {"start": "head", "depth": "1/2", "epochs": 9, "views": 8, "lr": "auto", "batch_size": 256}

# What a team may well have, and what a tiny network of other blocks, two classes, grey walls and no GPU could not bear.
OTHERS: dict[str, dict[str, Any]] = {
    "no phases": {"unfreeze": {}},
    "a chain": {"unfreeze": {"phases": {"a": _PHASE, "b": {**_PHASE, "start": "a", "depth": 7}}}},
    "folds in one": {"select": {"folds": 10, "final": "ensemble", "metric": "roc_auc"}},
    "one split": {"select": {"folds": 1}, "prepare": {"val_fraction": 0.3, "size_px": 512, "max_rejected": 0.2}},
    "16 bits": {"prepare": {"value_range": [0, 4095], "fit": "pad"}},
    "another network": {
        "backbone": {"source": "timm:resnet50", "taps": ["layer2"], "keep": "layer3", "mean": [0.5], "std": [0.5]}
    },
    "growth": {"backbone": {"source": "model:old"}, "head": {"kind": "linear", "grow_from": "model:old"}},
    "a GPU": {"compute": {"device": "cuda", "threads": 64, "workers": 32}},
    "other data": {"data": {"raw": "s3.csv", "license": "mit"}},
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_tiny_run_of_a_project_has_valid_settings_whatever_the_team_has(name: str, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("test_of_a_project", _FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tree = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for section, values in OTHERS[name].items():
        tree[section] = {**(tree.get(section) or {}), **values} if section != "unfreeze" else values
    tree["unfreeze"].setdefault("phases", {})
    tree["unfreeze"].setdefault("defaults", {})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(module._tiny(tree)), encoding="utf-8")
    params = load_params(tmp_path / "params.yaml")
    assert (params.data.raw, params.backbone.source) == ("images", "timm:test_resnet")
    assert (params.compute.device, params.select.folds, params.head.grow_from) == ("cpu", 2, None)
    assert [*params.unfreeze.phases] == [*(tree["unfreeze"]["phases"])][:1] or not OTHERS[name].get("unfreeze")
    assert params.prepare.value_range is None
    assert not params.backbone.taps
