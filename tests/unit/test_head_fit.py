"""Heads of every kind from features to phases: fitted as asked for, trained on, put together again, exported."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tests.unit.test_head import blobs
from thaw.activations.engine import Engine
from thaw.config.schema import HeadParams
from thaw.head.features import Features
from thaw.head.fit import fit_head
from thaw.head.layers import CosineHead, build_head, logits_of
from thaw.training import phase_folder
from thaw.training.phase import Trained, run_phase


def asked(**changes: Any) -> HeadParams:
    return HeadParams.model_validate({"hidden": [], "dropout": 0.0, "lr": 0.01, "epochs": 2} | changes)


@pytest.mark.parametrize(
    ("changes", "kind", "num_epochs"),
    [
        ({"dropout": 0.2}, "linear", 0),
        ({"hidden": [8]}, "mlp", 2),
        ({"kind": "mlp", "hidden": [8]}, "mlp", 2),
        ({"kind": "cosine", "dropout": 0.3}, "cosine", 2),
    ],
)
def test_what_params_ask_for_is_fitted_and_described(changes: dict[str, Any], kind: str, num_epochs: int) -> None:
    train, val = blobs(60, 3), blobs(30, 3, seed=1)
    rows = np.arange(90)
    data = Features(train, rows[30:], val, rows[:30], np.zeros(30, np.int64), tiny.features_facts(["a", "b", "c"]))
    fitted = fit_head(asked(**changes), data, seed=0)
    built = fitted.facts
    assert (built.kind, built.dropout, len(fitted.curves)) == (kind, changes.get("dropout", 0.0), num_epochs)
    again = build_head(6, 3, built.hidden, built.dropout, kind=built.kind)
    again.load_state_dict(fitted.head.state_dict())
    np.testing.assert_array_equal(logits_of(again.eval(), val.features), logits_of(fitted.head, val.features))
    assert isinstance(again, CosineHead) == (kind == "cosine")


def trained(**head: Any) -> Trained:
    """Return what one phase from an untrained head leaves."""
    network = tiny.backbone()
    return run_phase(
        "top", tiny.phase(depth=1, epochs=1), images=tiny.packed(), backbone=network,
        start=tiny.start(network, **head), augment=tiny.augment(), seed=0, compute=tiny.TORCH,
        on_epoch=lambda _: None,
    )  # fmt: skip


@pytest.mark.usefixtures("scratch")
def test_dropout_before_a_linear_head_acts_in_a_phase_and_not_in_its_answers() -> None:
    with_it, without = trained(dropout=0.5), trained()
    assert with_it.outcome.tensors.keys() == without.outcome.tensors.keys()
    assert with_it.curves[0]["val_loss"] == without.curves[0]["val_loss"]
    assert with_it.curves[1]["train_loss"] != without.curves[1]["train_loss"]


@pytest.mark.usefixtures("scratch")
def test_a_cosine_head_is_trained_by_a_phase_and_put_together_again() -> None:
    result = trained(kind="cosine")
    network = tiny.backbone()
    start = tiny.start(network, kind="cosine")
    for name in ("head.weight", "head.log_scale"):
        assert not torch.equal(result.outcome.tensors[name], start.tensors[name]), name
    head = phase_folder.assemble(network, result.outcome.tensors, result.model)
    assert isinstance(head, CosineHead)
    assert torch.equal(head.log_scale, result.outcome.tensors["head.log_scale"])


class Answers(nn.Module):
    """A head as an engine wants its networks: with a tuple as its output."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        return (self.head(features),)


def test_a_cosine_head_is_exported_in_plain_operations(scratch: Path) -> None:
    torch.manual_seed(0)
    head = build_head(6, 3, [], 0.4, kind="cosine").eval()
    features = torch.cat([torch.randn(7, 6), torch.zeros(1, 6)])
    engine = Engine(Answers(head), features, key="cosine", compute=tiny.BY_NAME, num_images=8)
    with torch.inference_mode():
        np.testing.assert_allclose(engine(features)[0], head(features), atol=1e-5)
    (path,) = scratch.rglob("*.onnx")
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
