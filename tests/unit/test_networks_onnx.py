"""Networks that another framework exported to ONNX: the same features, cut, trained and frozen like any other."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from tests import tiny
from tests.cuts import trains_above_the_cut_only
from tests.onnx_files import exported, moved, network, saved, small
from thaw.activations.engine import Engine
from thaw.errors import BackboneError
from thaw.networks.backbone import Backbone
from thaw.networks.sources.opening import open_backbone
from thaw.training.norms import running_norms

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporters' own


def features_of(module: nn.Module, images: Tensor) -> Tensor:
    """Return what the last linear layer of a classifier reads."""
    seen: list[Tensor] = []
    last = [child for child in module.modules() if isinstance(child, nn.Linear)][-1]
    handle = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        module(images)
    handle.remove()
    return seen[0]


def cut_and_trained(backbone: Backbone) -> None:
    num_blocks = len(backbone.blocks)
    trains_above_the_cut_only(backbone, (num_blocks, num_blocks // 2, 1))


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet18", ["conv1", "layer1", "layer2", "layer3", "layer4"]),
        ("mobilenet_v3_small", [*(f"features.{number}" for number in range(13)), "classifier"]),
    ],
)
def test_an_export_gives_the_same_features_in_blocks_of_the_same_names(
    tmp_path: Path, name: str, blocks: list[str]
) -> None:
    module = network(name)
    backbone = open_backbone(f"onnx:{exported(module, tmp_path / 'net.onnx')}")
    assert backbone.blocks == blocks
    assert (backbone.spec.input_px, backbone.spec.in_channels) == (64, 3)
    images = torch.randn(3, 3, 64, 64)
    expected = features_of(module, images)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    cut_and_trained(backbone)


class Attending(nn.Module):
    """A transformer as small as one can be: a class token, position embeddings, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 17, 8))
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True) for _ in range(3))
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.positions
        for layer in self.layers:
            tokens = layer(tokens)
        answer: Tensor = self.out(self.norm(tokens)[:, 0])
        return answer


def test_a_transformer_of_torchs_newer_exporter_is_cut_though_it_reshapes_by_the_number_of_images(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    module = Attending().eval()
    images = torch.randn(2, 3, 32, 32)
    free = {0: torch.export.Dim("n")}
    torch.onnx.export(module, (images,), tmp_path / "net.onnx", dynamo=True, dynamic_shapes=(free,), verbose=False)
    backbone = open_backbone(f"onnx:{tmp_path / 'net.onnx'}")
    assert backbone.blocks[-4:] == ["layers.0", "layers.1", "layers.2", "norm"]
    expected = features_of(module, images)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)
    assert {"layers.0.norm1.weight", "norm.weight"} <= dict(backbone.module.named_parameters()).keys()
    cut_and_trained(backbone)


def test_norms_that_the_exporter_kept_are_norms_with_torchs_momentum(tmp_path: Path) -> None:
    torch.manual_seed(3)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    module = moved(nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    backbone = open_backbone(f"onnx:{exported(module, tmp_path / 'net.onnx', norms=True, side_px=16)}")
    norm, theirs = next(running_norms(backbone.module)), body[1]
    assert norm.momentum == pytest.approx(0.3)
    images = torch.randn(8, 3, 16, 16)
    backbone.module.train()(images)
    module.train()(images)
    assert isinstance(theirs, nn.BatchNorm2d)
    torch.testing.assert_close(norm.running_mean, theirs.running_mean)


def test_channels_last_as_keras_has_them_are_taken_channels_first(tmp_path: Path) -> None:
    one, other = (open_backbone(f"onnx:{small(tmp_path / f'{nhwc}.onnx', nhwc=nhwc)}") for nhwc in (True, False))
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(one(images), other(images), rtol=1e-5, atol=1e-5)
    assert one.num_features == 6


def test_a_network_without_names_has_a_block_for_each_resolution(tmp_path: Path) -> None:
    backbone = open_backbone(f"onnx:{small(tmp_path / 'net.onnx')}")
    assert backbone.blocks == ["stage0", "stage1"]
    assert [backbone.block_of(name) for name in backbone.module.state_dict()] == [0, 1]


@pytest.mark.parametrize("flat", ["constant", "computed"])
def test_a_reshape_by_the_number_of_images_neither_crosses_a_cut_nor_fixes_the_features(
    tmp_path: Path, flat: str
) -> None:
    source = f"onnx:{small(tmp_path / 'net.onnx', flat=flat)}"
    backbone, plain = open_backbone(source), open_backbone(f"onnx:{small(tmp_path / 'plain.onnx')}")
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(images), plain(images))
    cut_and_trained(backbone)
    with torch.inference_mode():
        assert open_backbone(source, keep="stage0")(images).shape == (3, 4)


@pytest.mark.parametrize(
    ("reduction", "as_attribute"), [("ReduceMean", False), ("ReduceMean", True), ("ReduceMax", False)]
)
@pytest.mark.usefixtures("scratch")
def test_a_network_that_pools_by_a_reduction_runs_in_the_fast_engine(
    tmp_path: Path, reduction: str, as_attribute: bool
) -> None:
    random = np.random.default_rng(0)
    weights: dict[str, Any] = {"a": random.normal(size=(4, 3, 3, 3)).astype(np.float32), "axes": np.array([2, 3])}
    if as_attribute:
        del weights["axes"]
        pooled = helper.make_node(reduction, ["y"], ["out"], axes=[2, 3], keepdims=0)
    else:
        pooled = helper.make_node(reduction, ["y", "axes"], ["out"], keepdims=0)
    opset = helper.make_opsetid("", 11 if as_attribute else 18)
    nodes = [helper.make_node("Conv", ["images", "a"], ["y"]), pooled]
    path = saved(tmp_path / "net.onnx", nodes, weights, ["n", 3, 8, 8], opset_imports=[opset], ir_version=10)
    backbone, images = open_backbone(f"onnx:{path}"), torch.randn(8, 3, 8, 8)
    key = f"{reduction}{as_attribute}"
    engine = Engine(backbone.split(0)[0], images, key=key, compute=tiny.BY_NAME, num_images=8)
    assert engine.name == "onnxruntime"
    [theirs] = onnxruntime.InferenceSession(path).run(None, {"images": images.numpy()})
    np.testing.assert_allclose(engine(images)[0], theirs, rtol=1e-4, atol=1e-4)


def test_grey_input_other_constants_and_another_size_fit_an_export(tmp_path: Path) -> None:
    source = f"onnx:{small(tmp_path / 'net.onnx')}"
    assert open_backbone(source).spec.mean == (0.485, 0.456, 0.406)
    colour = open_backbone(source, mean=[0.5], std=[0.25, 0.5, 0.125], input_px=48)
    assert (colour.spec.mean, colour.spec.std) == ((0.5, 0.5, 0.5), (0.25, 0.5, 0.125))
    colour, grey = (open_backbone(source, mean=[0.5], std=[0.25], input_px=48, in_channels=count) for count in (3, 1))
    image = torch.rand(2, 1, 48, 48)
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (colour.spec.mean, colour.spec.std))
    with torch.inference_mode():
        seen = colour((image.expand(-1, 3, -1, -1) - mean) / std)
        torch.testing.assert_close(grey((image - grey.spec.input_mean[0]) / grey.spec.input_std[0]), seen)


def test_an_export_that_pads_before_its_first_layer_refuses_grey_unless_channels_are_alike(tmp_path: Path) -> None:
    weights = {"a": np.ones((4, 3, 3, 3), dtype=np.float32), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    nodes = [
        helper.make_node("Pad", ["images", "pads"], ["x"]),
        helper.make_node("Conv", ["x", "a"], ["y"]),
        helper.make_node("GlobalAveragePool", ["y"], ["p"]),
        helper.make_node("Flatten", ["p"], ["out"]),
    ]
    source = f"onnx:{saved(tmp_path / 'net.onnx', nodes, weights, ['n', 3, 8, 8])}"
    with pytest.raises(
        BackboneError, match=r"changes its input before its first layer.*; set backbone.mean and backbon"
    ):
        open_backbone(source, in_channels=1)
    grey, colour = (open_backbone(source, in_channels=channels, mean=[0.5], std=[0.25]) for channels in (1, 3))
    image = torch.randn(2, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(grey(image), colour(image.expand(-1, 3, -1, -1)))
