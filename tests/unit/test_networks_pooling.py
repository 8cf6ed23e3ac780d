"""Another pooling than the network's own: what comes out, where it is cut, and when it cannot be had."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tests.unit.test_networks_cut import SPEC, Branching
from thaw.activations.engine import Engine
from thaw.errors import BackboneError
from thaw.networks.backbone import Backbone
from thaw.networks.pooling import Pool
from thaw.networks.sources.opening import open_backbone
from thaw.training.phase import run_phase


def opened(source: str, pool: Pool, *, input_px: int = 64, **more: Any) -> Backbone:
    torch.manual_seed(0)
    return open_backbone(source, pretrained=False, input_px=input_px, pool=pool, **more)


def last(network: Backbone, path: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a layer gives and the network's own features, without the pooling that it is asked for."""
    seen: list[Tensor] = []
    handle = network.module.get_submodule(path).register_forward_hook(lambda *call: seen.append(call[2].clone()))
    with torch.inference_mode():
        own = network.module.eval()(images)
    handle.remove()
    return seen[-1], own


def features(network: Backbone, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(images)


def test_the_maximum_or_both_of_the_last_maps_become_the_features() -> None:
    images = torch.randn(3, 3, 64, 64)
    maps, own = last(opened("timm:test_resnet", "own"), "layer4", images)
    torch.testing.assert_close(features(opened("timm:test_resnet", "max"), images), maps.amax((2, 3)))
    torch.testing.assert_close(
        features(opened("timm:test_resnet", "both"), images), torch.cat([own, maps.amax((2, 3))], dim=1)
    )


def test_tokens_are_pooled_without_the_class_token() -> None:
    images = torch.randn(3, 3, 96, 96)
    tokens, own = last(opened("timm:test_vit", "own", input_px=96), "norm", images)
    average = features(opened("timm:test_vit", "avg", input_px=96), images)
    torch.testing.assert_close(average, tokens[:, 1:].mean(1))
    assert not torch.allclose(average, own, atol=1e-3)
    both = features(opened("timm:test_vit", "both", input_px=96), images)
    torch.testing.assert_close(both, torch.cat([tokens[:, 1:].mean(1), tokens[:, 1:].amax(1)], dim=1))


def test_what_follows_the_pooling_is_done_with_both() -> None:
    images = torch.randn(2, 3, 64, 64)
    network = opened("timm:test_convnext", "both")
    maps, own = last(network, "norm_pre", images)
    after: nn.Module = network.module.get_submodule("head.norm")
    with torch.inference_mode():
        expected = after(maps.amax((2, 3), keepdim=True)).flatten(1)
    torch.testing.assert_close(features(network, images), torch.cat([own, expected], dim=1))


def test_maps_with_channels_last_are_pooled_along_the_right_axes() -> None:
    images = torch.randn(2, 3, 64, 64)
    network = opened("timm:swin_tiny_patch4_window7_224", "max")
    maps, _ = last(network, "norm", images)
    assert maps.shape == (2, 2, 2, 768)
    torch.testing.assert_close(features(network, images), maps.amax((1, 2)))


@pytest.mark.parametrize(
    ("source", "input_px", "taps"),
    [
        ("timm:test_resnet", 64, []),
        ("timm:test_vit", 96, ["all"]),
        ("timm:mobilenetv3_small_050", 64, ["blocks.2"]),
        ("torchvision:mnasnet0_5", 64, []),
    ],
)
def test_a_network_with_another_pooling_is_cut_exactly_and_trains(source: str, input_px: int, taps: list[str]) -> None:
    network = opened(source, "both", input_px=input_px, taps=taps)
    images = torch.rand(network.example(2).shape) - 0.5
    whole = features(network, images)
    assert whole.shape[1] > opened(source, "max", input_px=input_px, taps=taps).num_features
    with torch.inference_mode():
        for depth in range(len(network.blocks) + 1):
            prefix, suffix = network.split(depth)
            assert torch.equal(suffix(*prefix(images)), whole), depth
    before = {name: value.clone() for name, value in network.module.named_buffers()}
    prefix, suffix = network.split(2)
    assert all(torch.equal(value, before[name]) for name, value in network.module.named_buffers())
    suffix.train()(*(value.clone() for value in prefix(images))).square().mean().backward()
    assert any(parameter.grad is not None for parameter in suffix.parameters())


def test_a_network_that_is_kept_short_pools_the_maps_that_it_then_ends_in() -> None:
    images = torch.randn(2, 3, 64, 64)
    network = opened("torchvision:vgg11", "max", keep="features.11")
    maps, own = last(network, "avgpool", images)
    assert own.shape[1] == 512 * 4 * 4
    torch.testing.assert_close(features(network, images), maps.amax((2, 3)))


@pytest.mark.parametrize(
    ("source", "pool", "input_px", "message"),
    [
        (
            "timm:test_resnet",
            "avg",
            64,
            "head.pool is avg, .* pools already, .*; set it to own",
        ),
        (
            "timm:test_resnet",
            "max",
            32,
            "no pooling to replace: .*, or raise backbone.input_px if its",
        ),
        (
            "torchvision:googlenet",
            "both",
            32,
            "no pooling to replace: .*, or raise backbone.input_px if its",
        ),
        (
            "torchvision:alexnet",
            "max",
            64,
            "last layers read all of its maps of 256 x 6 x 6; set it to own",
        ),
        ("timm:deit_tiny_distilled_patch16_224", "avg", 64, "no pooling to replace: .* nor one of its tokens; set it"),
    ],
)
def test_a_pooling_that_cannot_be_had_or_changes_nothing_is_an_error(
    source: str, pool: Pool, input_px: int, message: str
) -> None:
    with pytest.raises(BackboneError, match=message):
        assert opened(source, pool, input_px=input_px).num_features


def test_another_pooling_wants_a_network_that_can_be_traced() -> None:
    network = Backbone(Branching().eval(), SPEC.truncated(None, (), "max"))
    with pytest.raises(BackboneError, match="the network cannot be traced, so it cannot be cut"):
        network.split(1)


@pytest.mark.usefixtures("scratch")
def test_another_pooling_is_exported() -> None:
    network = opened("timm:test_resnet", "both")
    images = torch.rand(5, 3, 64, 64)
    engine = Engine(network.split(0)[0], images, key="both", compute=tiny.BY_NAME, num_images=5)
    torch.testing.assert_close(torch.from_numpy(engine(images)[0]), features(network, images), atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("scratch")
def test_a_phase_trains_from_a_head_that_sees_another_pooling() -> None:
    network = tiny.backbone(input_px=64)
    network = Backbone(network.module, network.spec.truncated(None, (), "both"), "weights")
    trained = run_phase(
        "top", tiny.phase(depth=2, epochs=1), images=tiny.packed(size_px=64), backbone=network,
        start=tiny.start(network), augment=tiny.augment(), seed=0, compute=tiny.TORCH, on_epoch=lambda _: None,
    )  # fmt: skip
    assert trained.outcome.tensors["head.weight"].shape == (3, 192)
    assert trained.model.backbone.pool == "both"
