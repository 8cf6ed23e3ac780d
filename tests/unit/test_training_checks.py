"""A setting that would do nothing for the network at hand is an error that names the key and its value."""

from typing import Any

import pytest

from tests import tiny
from thaw.config.schema import PhaseParams
from thaw.errors import BackboneError, ParamsError
from thaw.head.layers import build_head
from thaw.networks.sources.opening import open_backbone
from thaw.training.groups import rules_of
from thaw.training.loop import Classifier
from thaw.training.loss import class_weights
from thaw.training.phase import settle_phase


def check(
    network: str = "test_resnet", *, kind: str = "linear", hidden: tuple[int, ...] = (), **changes: Any
) -> PhaseParams:
    """Return a phase as a run settles it, once its rules are laid over the network."""
    backbone = tiny.backbone(network, input_px=160 if network == "test_vit" else 32)
    params = tiny.phase(**changes)
    index = 0 if isinstance(params.depth, list) else backbone.cut_index(params.depth)
    head = build_head(8, 3, hidden, 0.0, kind=kind)
    model = Classifier(backbone.split(len(backbone.units) - index)[1], head)
    rules = rules_of(params, backbone, index)
    return settle_phase("top", params, rules, model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"network": "test_vit", "norm": "train"},
            "top.norm is train, but nothing that this phase trains keeps",
        ),
        (
            {"network": "test_vit", "norm": "stats"},
            "top.norm is stats, but nothing that this phase trains keeps",
        ),
        (
            {"norm": "train", "depth": [{"pattern": "layer4*conv*.weight", "lr": 0.1}]},
            "top.norm is train, but nothing that this phase trains keeps running statistics; set it to frozen",
        ),
        (
            {"norm": "frozen", "warm_start": True, "kind": "cosine"},
            "top.warm_start is true, but it solves linear heads only and estimates statistics",
        ),
        (
            {"norm": "frozen", "warm_start": True, "hidden": (4,)},
            "top.warm_start is true, but it solves linear heads only",
        ),
        (
            {"depth": "layer4", "unfreeze_every": 2},
            "top.unfreeze_every is 2, but only one block trains; set it to 0",
        ),
        (
            {"depth": "all", "unfreeze_every": 1, "epochs": 3},
            "top.unfreeze_every is 1: the last of 6 blocks would begin to train in epoch 6 of 3; lower it",
        ),
    ],
)
def test_a_setting_that_would_do_nothing_is_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=f"params.yaml: unfreeze.phases.{message}"):
        check(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "train"},
        {"norm": "train", "warm_start": True, "kind": "cosine"},
        {"network": "test_vit", "norm": "frozen", "warm_start": True},
        {"norm": "train", "depth": [{"pattern": "*bn*", "lr": 0.1}]},
        {"depth": "layer3", "unfreeze_every": 2, "epochs": 3},
    ],
)
def test_a_setting_that_acts_is_none(settings: dict[str, Any]) -> None:
    check(**settings)


@pytest.mark.parametrize(
    ("settings", "norm", "warm_start"),
    [
        ({}, "train", True),
        ({"network": "test_vit"}, "frozen", True),
        ({"network": "test_vit", "kind": "cosine"}, "frozen", False),
        ({"kind": "cosine"}, "train", True),
        ({"norm": "frozen", "hidden": (4,)}, "frozen", False),
        ({"depth": [{"pattern": "layer4*conv*.weight", "lr": 0.1}]}, "frozen", True),
    ],
)
def test_auto_is_decided_by_what_the_network_and_the_head_can_do(
    settings: dict[str, Any], norm: str, warm_start: bool
) -> None:
    phase = check(**{"norm": "auto", "warm_start": "auto"} | settings)
    assert (phase.norm, phase.warm_start) == (norm, warm_start)


@pytest.mark.parametrize("weights", [{}, {"car": 1.0}, {"car": 2.0, "truck": 2.0}])
def test_class_weights_that_are_all_equal_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ParamsError, match="class_weights gives every class the same weight; set it to none"):
        class_weights(weights, tiny.packed().labels(tiny.packed().rows("train")), ["car", "truck"])


def test_keeping_everything_is_refused() -> None:
    with pytest.raises(BackboneError, match=r"backbone.keep is 'layer4', the last block of test_resnet: nothing"):
        open_backbone("timm:test_resnet", pretrained=False, keep="layer4")
