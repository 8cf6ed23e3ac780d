"""The commands of docs/guide/coming-from.md: weights of a notebook and of Lightning, in a project of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from tests.photos import ROOT, as_installed, write_photos
from tests.pipeline.clone import stages_run
from thaw.config.reader import load_params
from thaw.networks.sources.file import fetch
from thaw.networks.sources.opening import describe
from thaw.project.params_text import with_value

_PAGE = (ROOT / "docs" / "guide" / "coming-from.md").read_text(encoding="utf-8")
_SMALL = {
    "prepare.size_px": 64, "backbone.input_px": 64, "augment.flip": "horizontal", "features.views": 1,
    "select.folds": 2, "compute": {"threads": 1, "workers": 0, "frozen_engine": "torch"},
}  # fmt: skip


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", _PAGE, re.DOTALL)


@pytest.fixture
def network() -> torch.nn.Module:
    made: torch.nn.Module = torchvision.models.resnet18(num_classes=3)
    return made


def _by_shell(folder: Path, command: str) -> str:
    ours = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": as_installed(folder / "installed"),
        "DVC_SITE_CACHE_DIR": str(folder / "site"),
        "COLUMNS": "120",
    }
    done = subprocess.run(
        ["sh", "-ec", command], cwd=folder, env=os.environ | ours, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_network_of_a_notebook_trains_in_a_project(
    tmp_path: Path, network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos", images_a_class=10)
    save, _ = _blocks("python")
    exec(save, {"network": network})
    begin, bring = _blocks("sh")
    _by_shell(tmp_path, bring)
    params = tmp_path / "cells" / "params.yaml"
    text = params.read_text(encoding="utf-8")
    for key, value in _SMALL.items():
        text = with_value(text, key, value)
    params.write_text(text, encoding="utf-8")
    new, enter, plan, repro, summary = begin.splitlines()
    assert bring.startswith(new.partition(" --backbone")[0])
    printed = _by_shell(tmp_path, f"{enter}\n{plan}")
    assert "top: from head, 2 of 5 blocks, 4 epochs" in printed
    assert stages_run(_by_shell(tmp_path, f"{enter}\n{repro} head"))[-1] == "head"
    assert summary == "thaw summary"
    source = load_params(params).backbone.source
    kept = fetch(source.removeprefix("file:"), describe(source)).tensors
    assert torch.equal(kept["conv1.weight"], network.state_dict()["conv1.weight"])


def test_a_checkpoint_of_lightning_is_taken_as_it_is(tmp_path: Path, network: torch.nn.Module) -> None:
    path = tmp_path / "last.ckpt"
    named = {f"model.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 3, "global_step": 100, "state_dict": named, "optimizer_states": [{"lr": 0.1}]}, path)
    source = f"file:{path}@torchvision:resnet18"
    found = fetch(source.removeprefix("file:"), describe(source)).tensors
    body = {name for name in network.state_dict() if not name.startswith("fc.")}  # the old output layer is not used
    assert body <= found.keys()


def test_every_key_that_the_page_names_is_a_key_of_a_phase() -> None:
    from thaw.config.schema import PhaseParams

    named = {"depth", "lr", "lr_scale", "unfreeze_every", "norm", "start", "epochs"}
    assert named <= PhaseParams.model_fields.keys()
    assert all(f"`{name}" in _PAGE or f"{name}:" in _PAGE for name in named)
