"""The architectures that people fine-tune, and how each fares: docs/backbones.md. Run as `python -m tests.zoo`.

Random weights, one thread; the parts of a row that do not vary from run to run are compared by the test of the zoo.
"""

import importlib
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from thaw.networks.cut import UncutPrefix, cut
from thaw.networks.sources.opening import open_backbone

PAGE = Path(__file__).resolve().parents[1] / "docs" / "backbones.md"

# source, input px (small where the network takes it), blocks
ZOO = [
    ("torchvision:alexnet", 64, 4),
    ("torchvision:squeezenet1_1", 64, 9),
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
    ("python:tests.zoo:nasnet_mobile", 224, 6),
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
    ("timm:xcit_nano_12_p16_224", 64, 17),
]


def nasnet_mobile() -> nn.Module:
    """NASNet-A 4 @ 1056, which neither timm nor torchvision has, and its pooling wants 224 px."""
    network: nn.Module = importlib.import_module("pytorchcv.models.nasnet").nasnet_4a1056()
    return network


_HEAD = """# The zoo

Every architecture below is cut, trained and frozen by a test (`tests/unit/test_networks_zoo.py`) with random weights.
This page is written by `make zoo`, and the test compares all columns but the time, which was taken on one thread,
beside other work on the machine.

*px* is the side of the images in the test, small where the network takes it. *Difference* is the largest one between
the features of the whole network and of prefix and suffix, over cuts at three depths. *Cut in* is how long tracing and
cutting take. What is not *cacheable* cannot be traced and trains whole. `thaw blocks SOURCE` lists the
blocks.

| source | px | blocks | parameters | difference | cacheable | cut in |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """How one network fares: what the page says of it but the time."""

    source: str
    input_px: int
    num_blocks: int
    num_parameters: int
    difference: float
    cacheable: bool

    def __str__(self) -> str:
        yes = "yes" if self.cacheable else "no"
        return (
            f"| `{self.source}` | {self.input_px} | {self.num_blocks} | {self.num_parameters:,} | "
            f"{self.difference:.1g} | {yes} |"
        )


def depths_of(num_blocks: int) -> tuple[int, ...]:
    """The depths at which a network of the zoo is cut."""
    return (num_blocks, num_blocks // 2, 1)


@torch.inference_mode()
def measure(source: str, input_px: int) -> tuple[Row, float]:
    """A network's row, and how many seconds it took to be cut in the middle."""
    torch.manual_seed(0)
    network = open_backbone(source, pretrained=False, input_px=input_px)
    images = torch.rand(network.example(2).shape) - 0.5
    whole = network.module.eval()(images)
    halves = [network.split(depth) for depth in depths_of(len(network.blocks))]
    row = Row(
        source,
        input_px,
        len(network.blocks),
        sum(parameter.numel() for parameter in network.module.parameters()),
        max(float((suffix(*prefix(images)) - whole).abs().max()) for prefix, suffix in halves),
        not any(isinstance(prefix, UncutPrefix) for prefix, _ in halves),
    )
    begun = time.perf_counter()
    cut(network.module, network.units, len(network.units) // 2, images)
    return row, time.perf_counter() - begun


def rows() -> dict[str, str]:
    """The rows of the page by source, without their times."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return {line.split("`")[1]: f"{line.rpartition(' |')[0].rpartition(' | ')[0]} |" for line in lines}


def main() -> None:
    """Measure every network and write the page."""
    torch.set_num_threads(1)
    lines = []
    for source, input_px, _ in ZOO:
        row, seconds = measure(source, input_px)
        lines.append(f"{row} {seconds:.1f} s |")
        print(lines[-1], flush=True)
    PAGE.write_text(_HEAD + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
