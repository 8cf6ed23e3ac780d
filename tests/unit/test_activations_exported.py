"""Prefixes as files: cut from a network that is exported once, bit for bit what each would be by itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from thaw.activations.exported import prefix_file
from thaw.activations.session import Activations
from thaw.head.earlier_layers import tapped
from thaw.networks.backbone import Backbone
from thaw.networks.cut import CutPrefix
from thaw.networks.onnx.runtime import open_session
from thaw.networks.spec import Spec
from thaw.pipeline import artifacts

pytestmark = pytest.mark.usefixtures("scratch")


def sample(network: Backbone) -> Tensor:
    return torch.rand(network.example(4).shape, generator=torch.Generator().manual_seed(0)) - 0.5


def file_of(prefix: nn.Module, network: Backbone, key: str = "key") -> Path:
    return prefix_file(prefix, sample(network), key=key, made_by=["these versions"])


def computed(prefix: nn.Module, network: Backbone, key: str = "key") -> Activations:
    session = open_session(file_of(prefix, network, key), threads=1)
    values: Activations = session.run(None, {session.get_inputs()[0].name: sample(network).numpy()})
    return values


def by_itself(prefix: nn.Module, network: Backbone, key: str) -> Activations:
    assert isinstance(prefix, CutPrefix)
    prefix.origin = None
    return computed(prefix, network, f"{key} by itself")


def networks_in(scratch: Path) -> int:
    return len(list((scratch / "engines").rglob("network.onnx")))


class _InPlace(nn.Module):
    """Two tensors cross its boundary, of which the block above changes one in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(3, 4, 3),
            nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1)),
        )
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        low = self.first(images) + torch.tensor([0.5])  # a constant of the trace
        doubled = low * 2
        features: Tensor = self.norm(self.second(low) + doubled).mean((2, 3))
        return features


def of(module: nn.Module) -> Backbone:
    half = (0.5,) * 3
    spec = Spec(
        library="timm", name="own", input_px=16, mean=half, std=half, interpolation="bilinear",
        license="", url="", sha256="",
    )  # fmt: skip
    return Backbone(module, spec)


@pytest.mark.parametrize("name", ["test_efficientnet", "in place"])
def test_every_cut_of_one_export_is_bit_for_bit_the_cut_exported_by_itself(name: str, scratch: Path) -> None:
    network = of(_InPlace()) if name == "in place" else tiny.backbone(name)
    blocks = len(network.blocks)
    prefixes = {str(depth): network.split(depth)[0] for depth in {0, blocks // 2, blocks - 1}}
    prefixes["tapped"] = tapped(network).module
    for key, prefix in prefixes.items():
        ours = computed(prefix, network, key)
        assert networks_in(scratch) == 1
        files = len(list(scratch.rglob("*.onnx")))
        for value, expected in zip(ours, by_itself(prefix, network, key), strict=True):
            np.testing.assert_array_equal(value, expected)
        assert len(list(scratch.rglob("*.onnx"))) == files + 1
    assert networks_in(scratch) == 1


def test_the_file_of_a_cut_is_the_same_whatever_was_asked_for_before(scratch: Path) -> None:
    network = tiny.backbone()
    first = file_of(network.split(2)[0], network, "2").read_bytes()
    file_of(network.split(1)[0], network, "1")
    artifacts.remove(scratch)
    file_of(tapped(network).module, network, "tapped")
    assert file_of(network.split(2)[0], network, "2").read_bytes() == first


def test_a_network_with_other_weights_is_cut_from_the_same_export_with_its_own(scratch: Path) -> None:
    one, other = tiny.backbone(seed=0), tiny.backbone(seed=1)
    before = computed(one.split(2)[0], one, "one")
    ours = computed(other.split(2)[0], other, "other")
    assert networks_in(scratch) == 1
    assert not np.array_equal(ours[0], before[0])
    np.testing.assert_array_equal(ours[0], by_itself(other.split(2)[0], other, "other")[0])


@pytest.mark.parametrize("change", ["another layer", "another constant", "another size"])
def test_another_network_of_the_same_name_has_an_export_of_its_own(change: str, scratch: Path) -> None:
    network = of(_InPlace())
    computed(network.split(1)[0], network)
    module = _InPlace()
    if change == "another layer":
        module.norm = nn.BatchNorm2d(4, eps=0.1)
    if change == "another constant":
        module.register_buffer("constant", torch.ones(1), persistent=False)
    other = of(module)
    if change == "another size":
        other = Backbone(module, other.spec.model_copy(update={"input_px": 24}))
    computed(other.split(1)[0], other, "other")
    assert networks_in(scratch) == 2


class _OddNorm(nn.LayerNorm):
    """A layer that no exporter can follow, and that stays whole in a trace."""

    def forward(self, value: Tensor) -> Tensor:
        return super().forward(value * 2 if float(value.sum()) < 1e9 else value)


_OddNorm.__name__ = "OddLayerNorm"


def test_a_network_that_cannot_be_exported_above_the_cut_is_exported_below_it(scratch: Path) -> None:
    torch.manual_seed(0)
    lower, upper = nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.Flatten(), _OddNorm(4 * 14 * 14))
    network = of(nn.Sequential(lower, upper))
    assert len(network.blocks) == 2
    prefix = network.split(1)[0]
    ours = computed(prefix, network)
    assert networks_in(scratch) == 0
    np.testing.assert_array_equal(ours[0], by_itself(prefix, network, "key")[0])
