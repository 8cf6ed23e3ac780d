"""Grad-CAM: equal to CAM where that exists, at the right place for tokens, and honest where there is no map."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests import tiny
from thaw.head.layers import build_head
from thaw.networks.backbone import Backbone
from thaw.networks.together import Member
from thaw.report.gradcam import grad_cam


def images(num: int = 3, *, channels: int = 3, side: int = 32) -> Tensor:
    return torch.randn(num, channels, side, side, generator=torch.Generator().manual_seed(2))


def head_for(network: Backbone) -> nn.Module:
    torch.manual_seed(3)
    return build_head(network.num_features, 3, [], 0.0)


def scaled(maps: Tensor) -> NDArray[np.float32]:
    maps = maps.clamp(min=0)
    numbers: NDArray[np.float32] = (maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)).detach().numpy()
    return numbers


def test_with_a_linear_head_on_pooled_features_it_is_the_class_activation_map() -> None:
    network = tiny.backbone(input_px=64)
    head, seen, classes = head_for(network), images(9, side=64), [0, 1, 2] * 3  # more than one batch
    forward_features: Any = network.module.eval().forward_features
    features = forward_features(seen)
    expected = torch.einsum("ic,ichw->ihw", head.get_parameter("weight")[classes], features)
    ours = grad_cam([Member(network, head)], seen, classes)
    assert ours is not None
    assert ours.shape == (9, 2, 2)
    np.testing.assert_allclose(ours, scaled(expected), atol=1e-5)
    assert ours.std() > 0.1


def test_another_pooling_is_asked_about_and_not_the_network_s_own() -> None:
    plain = tiny.backbone(input_px=64)
    network = replace(plain, spec=plain.spec.truncated(None, [], "max"))
    head, seen, classes = head_for(network), images(3, side=64), [0, 1, 2]
    ours = grad_cam([Member(network, head)], seen, classes)
    forward_features: Any = plain.module.eval().forward_features
    maps = forward_features(seen).requires_grad_()
    asked = head(maps.amax((2, 3)))[torch.arange(3), torch.tensor(classes)].sum()
    weights = torch.autograd.grad(asked, maps)[0].mean((2, 3), keepdim=True)
    assert ours is not None
    np.testing.assert_allclose(ours, scaled((weights * maps).sum(1)), atol=1e-5)


def test_a_channel_weighs_what_its_places_are_worth_on_average() -> None:
    torch.manual_seed(4)
    flat = nn.Sequential(nn.Conv2d(3, 5, 8, stride=8), nn.Flatten())
    head, seen = nn.Linear(5 * 4 * 4, 3), images(2)
    maps = flat[0](seen)
    weights = head.weight[1].reshape(5, 4, 4).mean((1, 2))  # the gradient differs from place to place
    ours = grad_cam([Member(Backbone(flat, tiny.backbone().spec), head)], seen, [1, 1])
    assert ours is not None
    np.testing.assert_allclose(ours, scaled(torch.einsum("c,ichw->ihw", weights, maps)), atol=1e-5)


def test_it_asks_about_the_class_that_it_is_given() -> None:
    network = tiny.backbone(input_px=128)
    head = head_for(network)
    one, other = (grad_cam([Member(network, head)], images(2, side=128), [label] * 2) for label in (0, 2))
    assert one is not None
    assert other is not None
    assert np.abs(one - other).max() > 0.1


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet", "test_nfnet", "test_byobnet"])
def test_networks_of_every_kind_have_a_map_of_0_to_1(name: str) -> None:
    network = tiny.backbone(name, input_px=160 if name == "test_vit" else 64)
    found = grad_cam([Member(network, head_for(network))], images(2, side=network.spec.input_px), [0, 1])
    assert found is not None
    assert found.ndim == 3
    assert found.shape[1] == found.shape[2] > 1
    assert found.min() >= 0
    assert found.max() == 1


class Tokens(nn.Module):
    """A network of tokens: one that stands for the class, then one for each of 4 by 4 patches, row by row."""

    num_prefix_tokens = 1

    def __init__(self) -> None:
        super().__init__()
        self.patches = _Patches()

    def forward(self, seen: Tensor) -> Tensor:
        tokens: Tensor = self.patches(seen)
        return tokens[:, 1:].mean(1)


class _Patches(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(3, 4, 8, stride=8, bias=False)
        nn.init.ones_(self.weight)

    def forward(self, seen: Tensor) -> Tensor:
        tokens = super().forward(seen).flatten(2).transpose(1, 2)
        return torch.cat([torch.ones_like(tokens[:, :1]), tokens], dim=1)


def test_the_tokens_of_a_transformer_are_laid_back_on_their_grid_without_the_class_token() -> None:
    seen = torch.zeros(1, 3, 32, 32)
    seen[0, :, 8:16, 16:24] = 1.0
    head = build_head(4, 3, [], 0.0)
    head.get_parameter("weight").data.fill_(1.0)
    found = grad_cam([Member(Backbone(Tokens(), tiny.backbone().spec), head)], seen, [0])
    expected = np.zeros((1, 4, 4))
    expected[0, 1, 2] = 1.0
    np.testing.assert_array_equal(found, expected)


def test_features_tapped_from_inside_have_a_map_too() -> None:
    network = tiny.backbone(input_px=64)
    tapped = replace(network, spec=network.spec.truncated(None, ("all",)))
    found = grad_cam([Member(tapped, head_for(tapped))], images(2, side=64), [0, 1])
    assert found is not None
    assert found.shape == (2, 2, 2)


def test_a_network_without_places_has_none() -> None:
    network = tiny.backbone(input_px=32)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.ReLU())
    assert grad_cam([Member(Backbone(flat, network.spec), nn.Linear(8, 3))], images(2), [0, 1]) is None


def test_where_nothing_speaks_for_a_class_the_map_is_0() -> None:
    network = tiny.backbone(input_px=64)
    head = build_head(network.num_features, 3, [], 0.0)
    head.get_parameter("weight").data.fill_(-1.0)  # every feature, which is positive, speaks against it
    found = grad_cam([Member(network, head)], images(2, side=64), [0, 1])
    assert found is not None
    assert not found.any()


def test_it_leaves_no_hook_and_no_gradient_behind() -> None:
    network = tiny.backbone(input_px=64)
    grad_cam([Member(network, head_for(network))], images(2, side=64), [0, 1])
    assert not any(module._forward_hooks for module in network.module.modules())
    assert all(parameter.grad is None for parameter in network.module.parameters())


def test_of_several_networks_the_maps_are_added_before_what_speaks_against_a_class_is_left_out() -> None:
    networks = [tiny.backbone(input_px=64, seed=seed) for seed in range(3)]
    members, seen, classes = (
        [Member(network, head_for(network)) for network in networks],
        images(9, side=64),
        [0, 1, 2] * 3,
    )
    maps = []
    for network, head in members:
        forward_features: Any = network.module.eval().forward_features
        maps.append(torch.einsum("ic,ichw->ihw", head.get_parameter("weight")[classes], forward_features(seen)))
    ours = grad_cam(members, seen, classes)
    assert ours is not None
    np.testing.assert_allclose(ours, scaled(torch.stack(maps).sum(0)), atol=1e-5)
    alone = grad_cam(members[:1], seen, classes)
    assert alone is not None
    assert np.abs(ours - alone).max() > 0.1
