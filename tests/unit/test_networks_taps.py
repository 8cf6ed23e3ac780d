"""Features from inside a network: taps at its blocks, and networks that end early."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests import tiny
from thaw.errors import BackboneError
from thaw.networks.backbone import Backbone, assemble
from thaw.networks.sources.opening import open_backbone
from thaw.networks.taps import pool
from thaw.training.phase import run_phase


def tapped(*names: str, **changes: object) -> Backbone:
    torch.manual_seed(0)
    network = tiny.backbone(seed=0)
    return assemble(network.spec.truncated(None, names), network.module.state_dict())


def outputs(network: Backbone, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what each block of a tiny ResNet gives, as a hook sees it."""
    seen: dict[str, torch.Tensor] = {}
    for name in network.blocks[1:]:
        network.module.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, value, name=name: seen.update({name: value.clone()})
        )
    with torch.inference_mode():
        network.module(images)
    return seen


def test_taps_give_mean_maximum_and_deviation_of_their_blocks_behind_the_networks_own_features() -> None:
    plain, names = tiny.backbone(seed=0), ("layer2", "layer4")
    network = tapped(*names)
    images = torch.randn(2, 3, 32, 32)
    seen = outputs(plain, images)
    with torch.inference_mode():
        features = network(images)
        own = plain(images)
    assert network.num_features == features.shape[1] == own.shape[1] + 3 * sum(seen[name].shape[1] for name in names)
    expected = [own]
    for name in names:
        value = seen[name]
        deviation = (value.var((2, 3), correction=0) + 1e-6).sqrt()
        expected += [value.mean((2, 3)), value.amax((2, 3)), deviation]
    torch.testing.assert_close(features, torch.cat(expected, dim=1))


@pytest.mark.parametrize(
    ("source", "input_px"),
    [("timm:test_resnet", 64), ("timm:test_vit", 96), ("timm:densenet121", 64), ("torchvision:swin_t", 64)],
)
def test_a_network_with_taps_is_cut_exactly_and_trains(source: str, input_px: int) -> None:
    torch.manual_seed(0)
    network = open_backbone(source, pretrained=False, input_px=input_px, taps=["all"])
    images = torch.rand(network.example(2).shape) - 0.5
    with torch.inference_mode():
        whole = network(images)
        for depth in range(len(network.blocks) + 1):
            prefix, suffix = network.split(depth)
            assert torch.equal(suffix(*prefix(images)), whole), depth
    prefix, suffix = network.split(2)
    suffix.train()(*(value.clone() for value in prefix(images))).square().mean().backward()
    assert any(parameter.grad is not None for parameter in suffix.parameters())


def test_tokens_and_maps_with_channels_last_are_pooled_along_the_right_axes() -> None:
    maps = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(pool(maps, False), pool(maps.permute(0, 2, 3, 1), True))
    torch.testing.assert_close(pool(maps, False), pool(maps.flatten(2).transpose(1, 2), False))
    features = torch.randn(2, 7)
    assert torch.equal(pool(features, False), features)


def test_a_phase_trains_from_a_head_that_sees_the_taps(scratch: Path) -> None:
    network = tapped("layer1", "layer3")
    network = Backbone(network.module, network.spec, "weights")
    trained = run_phase(
        "top", tiny.phase(depth=2, epochs=1), images=tiny.packed(), backbone=network, start=tiny.start(network),
        augment=tiny.augment(), seed=0, compute=tiny.AUTO, on_epoch=lambda _: None,
    )  # fmt: skip
    head = trained.outcome.tensors["head.weight"]
    assert head.shape == (3, network.num_features)
    assert scratch.exists()


def test_a_network_that_ends_early_gives_the_pooled_output_of_its_last_block() -> None:
    plain = tiny.backbone(seed=0)
    short = assemble(plain.spec.truncated("layer2", ()), plain.module.state_dict())
    assert short.blocks == plain.blocks[: plain.blocks.index("layer2") + 1]
    images = torch.randn(2, 3, 32, 32)
    seen = outputs(plain, images)
    with torch.inference_mode():
        torch.testing.assert_close(short(images), seen["layer2"].mean((2, 3)))
        prefix, suffix = short.split(1)
        assert torch.equal(suffix(*prefix(images)), short(images))
    assert not any(name.startswith(("layer3", "layer4")) for name in short.module.state_dict())


@pytest.mark.parametrize(
    ("source", "keep", "num_features"),
    [
        ("timm:swin_tiny_patch4_window7_224", "layers.2", 384),
        ("torchvision:googlenet", "inception4b", 512),
        ("timm:convnext_tiny", "stages.1", 192),
        ("timm:nasnetalarge", "cell_7", 2016),
        ("timm:test_vit", "blocks.2", 64),
    ],
)
def test_other_networks_end_early_as_well(source: str, keep: str, num_features: int) -> None:
    network = open_backbone(source, pretrained=False, input_px=96 if source == "timm:test_vit" else 64, keep=keep)
    assert network.blocks[-1] == keep
    assert network.num_features == num_features


def test_a_block_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(BackboneError, match=r"backbone.keep is 'layer9', no block of test_resnet; it has conv1, bn1,"):
        open_backbone("timm:test_resnet", pretrained=False, keep="layer9")
    network = open_backbone("timm:test_resnet", pretrained=False, taps=["layer9"])
    with pytest.raises(BackboneError, match=r"backbone.taps names 'layer9', which is no block of test_resnet; it has"):
        network.split(1)


def test_a_removed_block_passes_its_first_input() -> None:
    network = open_backbone("timm:test_resnet", pretrained=False, keep="conv1")
    assert isinstance(network.module, nn.Module)
    assert network.num_features == network.module.get_submodule("conv1.6").out_channels
