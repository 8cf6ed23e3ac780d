"""A network cut in two is the same network, at every block boundary."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from thaw.errors import BackboneError
from thaw.networks.backbone import Backbone
from thaw.networks.cut import UncutPrefix, probe
from thaw.networks.sources.opening import open_backbone
from thaw.networks.spec import Spec

SPEC = Spec(
    library="timm", name="own", input_px=16, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear",
    license="", url="", sha256="",
)  # fmt: skip


def at(source: str, input_px: int, *, pretrained: bool = False) -> Backbone:
    torch.manual_seed(0)
    network = open_backbone(source, pretrained=pretrained)
    return Backbone(network.module, network.spec.model_copy(update={"input_px": input_px}))


def example(network: Backbone) -> Tensor:
    return torch.rand(network.example(2).shape, generator=torch.Generator().manual_seed(0)) - 0.5


def depths(network: Backbone) -> range:
    return range(len(network.blocks) + 1)


@torch.no_grad()
def assert_equal_at_every_boundary(network: Backbone) -> None:
    images = example(network)
    whole = network.module.eval()(images)
    tensors = sorted(network.module.state_dict())
    for depth in depths(network):
        prefix, suffix = network.split(depth)
        boundary = prefix(images)
        assert isinstance(boundary, tuple)
        assert torch.equal(suffix(*boundary), whole), depth
        # Every tensor is in exactly one half, under its own name.
        assert sorted([*prefix.state_dict(), *suffix.state_dict()]) == tensors, depth


def test_the_default_backbone_with_its_real_weights_is_equal_at_every_boundary() -> None:
    network = at("package:efficientnet_lite0", 64, pretrained=True)
    assert len(network.blocks) == 9
    assert_equal_at_every_boundary(network)


@pytest.mark.parametrize(
    ("source", "input_px", "num_blocks"),
    [
        ("torchvision:resnet18", 64, 5),
        ("timm:densenet121", 64, 9),
        ("timm:test_vit", 160, 8),
        ("timm:convnext_atto", 64, 6),
        ("torchvision:mobilenet_v3_small", 64, 14),
        ("torchvision:googlenet", 64, 12),
    ],
)
def test_other_architectures_are_equal_at_every_boundary(source: str, input_px: int, num_blocks: int) -> None:
    network = at(source, input_px)
    assert len(network.blocks) == num_blocks
    assert_equal_at_every_boundary(network)


@pytest.mark.parametrize("source", ["timm:test_vit", "timm:test_efficientnet", "timm:test_convnext", "timm:test_nfnet"])
def test_every_parameter_is_in_exactly_one_block_and_its_suffix_begins_there(source: str) -> None:
    network = at(source, 160)
    owners = {name: network.block_of(name) for name, _ in network.module.named_parameters()}
    assert set(owners.values()) == set(range(len(network.blocks)))
    for depth in depths(network):
        _, suffix = network.split(depth)
        trained = {name for name, _ in suffix.named_parameters()}
        assert trained == {name for name, owner in owners.items() if owner >= network.cut_index(depth)}, depth


def test_the_suffix_trains_as_the_whole_network_does() -> None:
    network = tiny.backbone("test_resnet")
    images, depth = example(network), 3
    prefix, suffix = network.split(depth)
    whole = tiny.backbone("test_resnet").module.train()
    index = network.cut_index(depth)
    for name, child in whole.named_modules():  # freeze below the cut by hand
        if name and network.block_of(name) < index and not list(child.children()):
            child.eval()
    with torch.no_grad():
        boundary = prefix(images)
    ours, reference = suffix.train()(*boundary), whole(images)
    ours.square().sum().backward()
    reference.square().sum().backward()
    assert torch.equal(ours, reference)
    gradients = {name: parameter.grad for name, parameter in whole.named_parameters()}
    for name, parameter in suffix.named_parameters():
        ours_moved, reference_moved = parameter.grad, gradients[name]
        assert ours_moved is not None
        assert reference_moved is not None
        assert torch.equal(ours_moved, reference_moved), name
    for name, buffer in suffix.named_buffers():
        assert torch.equal(buffer, whole.get_buffer(name)), name


def test_training_the_suffix_leaves_the_prefix_in_eval_mode_and_without_gradients() -> None:
    network = tiny.backbone("test_resnet")
    prefix, suffix = network.split(2)
    suffix.train()
    assert not any(child.training for child in prefix.modules())
    assert suffix.training
    suffix(*prefix(example(network))).sum().backward()
    untouched = {name for name, value in network.module.named_parameters() if value.grad is None}
    assert not untouched & {name for name, _ in suffix.named_parameters()}


class _Skip(nn.Module):
    """Three blocks and what is made of the last one's output, of the first one's and of its size."""

    def __init__(self, join: Callable[[Tensor, Tensor, int], Tensor]) -> None:
        super().__init__()
        block = [nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))) for _ in range(3)]
        self.blocks = nn.Sequential(*block)
        self.join = join

    def forward(self, images: Tensor) -> Tensor:
        first = self.blocks[0](images)
        side_px = first.shape[2]
        last = self.blocks[2](self.blocks[1](first))
        return self.join(first, last, side_px).mean((2, 3))


def test_a_boundary_may_be_several_tensors() -> None:
    network = Backbone(_Skip(lambda first, last, _: first.relu() + last).eval(), SPEC)
    assert [len(network.split(depth)[0](example(network))) for depth in depths(network)] == [1, 2, 1, 1]
    assert_equal_at_every_boundary(network)


class _Positions(nn.Module):
    """Blocks that are given positions, computed from learned ones, and sizes, all from before the first block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, stride=4)
        self.positions = nn.Parameter(torch.randn(4, 4))
        self.blocks = nn.Sequential(*[nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1))) for _ in range(3)])

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        (count, channels, height, width), device = maps.shape, images.device
        positions = (self.positions * 2).sin()
        for block in self.blocks:
            maps = block(maps).flatten(2).reshape(count, channels, height, width)
            maps = maps + positions + torch.zeros(height, width, device=device)
        flat: Tensor = maps.reshape(count * channels, -1).mean(1).reshape(count, channels)
        return flat


def test_sizes_and_positions_that_cross_the_boundary_are_computed_again_behind_it() -> None:
    torch.manual_seed(0)
    network = Backbone(_Positions().eval(), SPEC)
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert network.blocks == ["stem", "blocks.0", "blocks.1", "blocks.2"]
    for depth in depths(network):
        prefix, suffix = network.split(depth)
        for few in (images, images[:1]):
            whole, boundary = network(few), prefix(few)  # kernels depend on the number of images in the last digits
            assert [len(value) for value in boundary] == [len(few)], depth
            torch.testing.assert_close(suffix.train()(*boundary), whole, rtol=0, atol=0)
            assert torch.equal(suffix.eval()(*boundary), whole), depth


def test_a_device_that_crosses_the_boundary_is_that_of_the_suffix() -> None:
    network = Backbone(_Positions().eval(), SPEC)
    prefix, suffix = network.split(1)
    boundary = prefix(example(network))[0]
    assert suffix.to("meta")(boundary.to("meta")).device == torch.device("meta")


@pytest.mark.parametrize(("source", "num_blocks"), [("timm:xcit_nano_12_p16_224", 17), ("timm:pvt_v2_b0", 5)])
def test_a_network_of_tokens_that_passes_their_height_and_width_on_is_cut_anywhere(
    source: str, num_blocks: int
) -> None:
    torch.manual_seed(0)
    network = open_backbone(source, pretrained=False, input_px=64)
    assert len(network.blocks) == num_blocks
    assert_equal_at_every_boundary(network)


class _Together(nn.Module):
    """Blocks that are told the mean of all images."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1))) for _ in range(3)])

    def forward(self, images: Tensor) -> Tensor:
        maps = self.blocks[0](images)
        mean = maps.mean()
        for block in self.blocks[1:]:
            maps = block(maps) - mean
        features: Tensor = maps.mean((2, 3))
        return features


def test_a_tensor_of_all_images_together_is_refused_with_what_to_do() -> None:
    network = Backbone(_Together().eval(), SPEC)
    network.split("all")
    with pytest.raises(BackboneError, match=r"something other than a tensor with one row per image .* choose another"):
        network.split(1)


class Branching(nn.Module):
    """A network whose way depends on what it sees."""

    def __init__(self) -> None:
        super().__init__()
        units = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5)) for _ in range(3)]
        self.blocks = nn.Sequential(*[nn.Sequential(unit) for unit in units])

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.blocks(images)
        return (out if out.sum() > 0 else -out).mean((2, 3))


def test_a_network_that_cannot_be_traced_is_not_cut_and_its_frozen_blocks_are_held_still() -> None:
    network = Backbone(Branching().eval(), SPEC)
    images = example(network)
    with torch.inference_mode():
        whole = network(images)
        for depth in depths(network):
            prefix, suffix = network.split(depth)
            assert torch.equal(suffix(*prefix(images)), whole), depth
    prefix, suffix = network.split(1)
    assert torch.equal(prefix(images)[0], images)
    assert list(suffix.state_dict()) == list(network.module.state_dict())
    suffix.train()
    modes = {name: child.training for name, child in network.module.named_modules() if name}
    assert {name for name, training in modes.items() if training} == {
        name for name in modes if name == "blocks" or name.startswith("blocks.2")
    }


class _Scaled(Branching):
    """A network that cannot be traced, with a parameter and buffers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("shift", torch.ones(1))
        self.register_buffer("spread", torch.ones(1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * self.scale + self.get_buffer("shift") * self.get_buffer("spread")


class _Masked(nn.Module):
    """A network with an optional argument, which torch.fx takes for given."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1))) for _ in range(3)])

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        maps = self.blocks[0](images)
        if mask is not None:
            maps = maps * mask.view(-1, 1, 16, 16)
        features: Tensor = self.blocks[2](self.blocks[1](maps)).mean((2, 3))
        return features


def test_a_network_whose_trace_does_not_run_is_not_cut() -> None:
    network = Backbone(_Masked().eval(), SPEC)
    prefix, suffix = network.split(1)
    assert isinstance(prefix, UncutPrefix)
    assert torch.equal(suffix(*prefix(example(network))), network(example(network)))


def test_a_network_that_is_not_cut_moves_with_all_of_its_tensors() -> None:
    network = Backbone(_Scaled().eval(), SPEC)
    names = list(network.module.state_dict())
    suffix = network.split(1)[1].double()
    assert suffix(example(network).double()).dtype == torch.float64
    inside = [*network.module.parameters(), *network.module.buffers()]
    assert {value.dtype for value in inside if value.is_floating_point()} == {torch.float64}
    assert list(suffix.state_dict()) == names
    moved = copy.deepcopy(suffix).float()
    assert moved(example(network)).dtype == torch.float32
    assert suffix(example(network).double()).dtype == torch.float64


def test_taps_want_a_network_that_can_be_traced() -> None:
    network = Backbone(Branching().eval(), SPEC.truncated(None, ["all"]))
    with pytest.raises(BackboneError, match="cannot be traced, so it cannot be cut: symbolically traced variables"):
        network.split(1)


def test_probe_gives_the_shape_of_one_image() -> None:
    network = tiny.backbone("test_resnet")
    shapes = probe(network.split(0)[0], network.example(2))
    assert shapes == [torch.Size([network.num_features])]


@pytest.mark.parametrize(("depth", "index"), [("all", 0), ("layer3", 4), (1, 5), (6, 0), (0, 6)])
def test_a_depth_is_a_number_all_or_the_name_of_the_lowest_block(depth: int | str, index: int) -> None:
    assert tiny.backbone("test_resnet").cut_index(depth) == index


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (7, "depth is 7; test_resnet has 6 blocks: give 0 to 6, or all"),
        ("layer9", "depth 'layer9' is no block of test_resnet; it has conv1, bn1, layer1, layer2, layer3, layer4"),
    ],
)
def test_a_depth_that_does_not_exist_names_those_that_do(depth: int | str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        tiny.backbone("test_resnet").cut_index(depth)
