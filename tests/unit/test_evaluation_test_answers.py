"""Candidates answered together: as each would alone, with what they share computed once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from thaw.config.schema import ComputeParams
from thaw.errors import ArtifactError
from thaw.evaluation import test_answers
from thaw.head.layers import build_head
from thaw.training.model import Model


def model(*, cut: int, changed: int | None = None) -> Model:
    """Return a classifier on the tiny backbone, frozen below `cut`, with the weights from block `changed` on moved."""
    backbone = tiny.backbone(in_channels=3, input_px=32)
    torch.manual_seed(cut)
    if changed is not None:
        for name, parameter in backbone.module.named_parameters():
            if backbone.block_of(name) >= changed:
                parameter.data += 0.05 * torch.randn_like(parameter)
    head = build_head(backbone.num_features, len(tiny.CLASSES), [], 0.0)
    head.get_parameter("weight").data.mul_(20)
    stored = tiny.changed(tiny.start(backbone).model, cut=cut, temperature=1.0 + cut)
    return Model(backbone, head.eval(), stored, f"fingerprint {cut} {changed}")


def family() -> dict[str, Model]:
    """Return a head and two phases of one run."""
    blocks = len(tiny.backbone(in_channels=3, input_px=32).units)
    return {
        "head": model(cut=blocks),
        "top": model(cut=blocks - 1, changed=blocks - 1),
        "mid": model(cut=1, changed=1),
    }


@pytest.mark.parametrize("compute", [tiny.TORCH, tiny.BY_NAME], ids=["torch", "onnxruntime"])
def test_each_gets_the_answer_that_it_gives_alone(compute: ComputeParams, scratch: Path) -> None:
    images, models = tiny.packed(40), family()
    rows = images.rows("train")
    together = test_answers.answer(models, images, rows, compute=compute, label="test")
    assert list(together) == ["head", "top", "mid"]
    for name, single in models.items():
        np.testing.assert_allclose(together[name], single.predict(list(images.read(rows))), atol=1e-3)
    assert np.abs(together["top"] - together["mid"]).max() > 0.01


def test_phases_that_rest_on_different_backbones_are_refused(scratch: Path) -> None:
    images, models = tiny.packed(), family()
    models["top"] = replace(model(cut=2, changed=0), fingerprint="another")
    with pytest.raises(ArtifactError, match="the phases rest on different backbones; run `dvc repro`"):
        test_answers.answer(models, images, images.rows("val"), compute=tiny.TORCH, label="test")
