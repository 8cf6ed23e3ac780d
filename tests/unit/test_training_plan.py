"""The plan times what a run will do, in an engine of its own weights."""

import json
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.conftest import ROOT
from thaw.config.reader import load_params
from thaw.config.schema import Params
from thaw.pipeline import artifacts, facts, tables
from thaw.training.plan import plan_tables


@pytest.fixture
def params(scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Return settings of one phase of a tiny network, in a folder with prepared images."""
    assert scratch.is_dir() or not scratch.exists()
    with artifacts.new_folder(tmp_path / "data" / "prepared") as partial:
        tables.write(partial / "samples.csv", tiny.samples(24))
        facts.write(partial / "audit.json", tiny.audit())
    monkeypatch.chdir(tmp_path)
    shipped = load_params(ROOT / "params.yaml")
    backbone = shipped.backbone.model_copy(update={"source": "timm:test_resnet", "sha256": None, "input_px": 32})
    unfreeze = shipped.unfreeze.model_copy(update={"phases": {"top": tiny.phase()}})
    return shipped.model_copy(update={"backbone": backbone, "unfreeze": unfreeze, "compute": tiny.AUTO})


def test_a_second_plan_with_other_threads_compares_the_engines_on_the_weights_that_they_have(
    params: Params, scratch: Path
) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.rand(1)  # the state of the random numbers is no part of a plan
            plan_tables(params.model_copy(update={"compute": tiny.AUTO.model_copy(update={"threads": threads})}))
    finally:
        torch.set_num_threads(before)
    found = [json.loads(path.read_text()) for path in (scratch / "engines").glob("*.json")]
    assert [choice["note"] for choice in found] == ["", ""]
    assert all(set(choice["rates"]) == {"torch", "onnxruntime"} for choice in found)
    assert len(list((scratch / "engines").rglob("*.onnx"))) == 1
