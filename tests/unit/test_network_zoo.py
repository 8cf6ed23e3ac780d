"""The architectures that people fine-tune, by name, with random weights: blocks, cuts, a training step, the freeze."""

import importlib

import pytest
import torch
from torch import nn
from torch.nn import functional

from thaw.network.source import open_backbone

# source, input px (small where the network takes it), blocks
ZOO = [
    ("torchvision:alexnet", 64, 4),
    ("torchvision:googlenet", 64, 12),
    ("torchvision:vgg16", 32, 6),
    ("torchvision:vgg16_bn", 32, 6),
    ("torchvision:vgg19", 32, 6),
    ("torchvision:vgg19_bn", 32, 6),
    ("torchvision:resnet18", 64, 5),
    ("torchvision:resnet50", 64, 5),
    ("timm:resnet101", 64, 5),
    ("timm:resnetv2_50", 64, 6),
    ("timm:legacy_xception", 96, 17),
    ("torchvision:inception_v3", 96, 16),
    ("timm:inception_resnet_v2", 96, 13),
    ("torchvision:densenet121", 64, 9),
    ("timm:densenet201", 64, 9),
    ("timm:nasnetalarge", 64, 23),
    ("python:tests.unit.test_network_zoo:nasnet_mobile", 224, 6),
    ("timm:pnasnet5large", 64, 15),
    ("timm:mobilenetv1_100", 64, 6),
    ("torchvision:mobilenet_v2", 64, 19),
    ("timm:mobilenetv3_large_100", 64, 9),
    ("timm:mobilenetv4_conv_small", 64, 7),
    *((f"timm:efficientnet_b{number}", 64, 9) for number in range(8)),
    ("timm:tf_efficientnetv2_s", 64, 8),
    ("timm:tf_efficientnet_lite0", 64, 9),
    ("timm:tf_efficientnet_lite4", 64, 9),
    ("torchvision:mnasnet1_0", 64, 8),
    ("timm:convnext_tiny", 64, 6),
    ("torchvision:convnext_tiny", 64, 9),
    ("timm:regnety_002", 64, 5),
    ("torchvision:regnet_y_400mf", 64, 5),
    ("timm:vit_tiny_patch16_224", 64, 14),
    ("torchvision:vit_b_32", 224, 14),
    ("timm:deit_tiny_patch16_224", 64, 14),
    ("timm:vit_small_patch14_dinov2", 70, 14),
    ("timm:swin_tiny_patch4_window7_224", 64, 6),
    ("torchvision:swin_t", 64, 9),
    ("timm:maxvit_tiny_tf_224", 64, 6),
    ("torchvision:maxvit_t", 224, 7),
]


def nasnet_mobile() -> nn.Module:
    """NASNet-A 4 @ 1056, which neither timm nor torchvision has, and its pooling wants 224 px."""
    network: nn.Module = importlib.import_module("pytorchcv.models.nasnet").nasnet_4a1056()
    return network


@pytest.mark.parametrize(("source", "input_px", "num_blocks"), ZOO, ids=[source for source, _, _ in ZOO])
def test_a_network_of_the_zoo_is_cut_exactly_and_trains_above_the_cut_only(
    source: str, input_px: int, num_blocks: int
) -> None:
    torch.manual_seed(0)
    network = open_backbone(source, pretrained=False, input_px=input_px)
    assert len(network.blocks) == num_blocks
    owners = {name: network.block_of(name) for name in network.module.state_dict()}
    assert set(owners.values()) == set(range(num_blocks))
    images = torch.rand(network.example(2).shape) - 0.5
    with torch.inference_mode():
        whole = network.module.eval()(images)
    for depth in (num_blocks, num_blocks // 2, 1):
        prefix, suffix = network.split(depth)
        with torch.inference_mode():
            boundary = prefix(images)
            assert torch.equal(suffix(*boundary), whole), depth
        assert {name for name, _ in suffix.named_parameters()} == {
            name for name, _ in network.module.named_parameters() if owners[name] >= network.cut_index(depth)
        }
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    head = nn.Linear(whole.shape[1], 2)
    optimizer = torch.optim.SGD([*suffix.parameters(), *head.parameters()], lr=0.1)
    with torch.no_grad():
        boundary = prefix(images)
    functional.cross_entropy(head(suffix.train()(*boundary)), torch.tensor([0, 1])).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimizer.step()
    after = network.module.state_dict()
    moved = {owners[name] for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {num_blocks - 1}
