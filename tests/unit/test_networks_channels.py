"""The first layer for images of two, four, thirteen channels: weights and constants adapted, or a clear refusal."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stages import backbone as stage
from tests import tiny
from thaw.augment.views import render
from thaw.config.reader import load_params, read_tree
from thaw.errors import BackboneError
from thaw.networks.backbone import Backbone, assemble, load_backbone
from thaw.networks.sources.opening import describe, open_backbone
from thaw.networks.spec import Spec
from thaw.pipeline import artifacts, facts
from thaw.pipeline.model_facts import BackboneFacts

# One plain convolution, two parallel first layers, a patch embedding, another library.
SOURCES = ["timm:test_resnet", "timm:repvgg_a0", "timm:test_vit", "torchvision:resnet18"]
UNEQUAL = {"mean": (0.1, 0.4, 0.7), "std": (0.2, 0.25, 0.3)}


def pair(source: str, channels: int) -> tuple[Backbone, Backbone]:
    """Return a random network for RGB, and the same one for other channels."""
    spec = describe(source).model_copy(update=UNEQUAL)
    torch.manual_seed(0)
    colour = assemble(spec, None)
    return colour, assemble(spec.with_channels(channels), colour.module.state_dict())


@torch.inference_mode()
def features(network: Backbone, images: NDArray[np.unsignedinteger]) -> Tensor:
    spec = network.spec
    seen = render(
        images,
        [""] * len(images),
        [0] * len(images),
        seed=0,
        augment=tiny.augment(),
        input_px=spec.input_px,
        channels=spec.in_channels,
        mean=spec.input_mean,
        std=spec.input_std,
    )
    return network(seen)


@pytest.mark.parametrize("source", SOURCES)
def test_six_channels_that_repeat_rgb_have_the_features_of_rgb(source: str) -> None:
    colour, six = pair(source, 6)
    images = tiny.pixels(2, channels=3, size_px=colour.spec.input_px)
    expected = features(colour, images)
    given = features(six, np.concatenate([images, images], axis=3))
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("channels", [2, 4, 13])
def test_weights_come_in_turn_scaled_and_so_do_the_constants(channels: int) -> None:
    colour, network = pair("timm:test_resnet", channels)
    name = next(name for name, value in colour.module.state_dict().items() if value.shape[1:2] == (3,))
    weight, adapted = colour.module.state_dict()[name], network.module.state_dict()[name]
    turn = [channel % 3 for channel in range(channels)]
    torch.testing.assert_close(adapted, weight[:, turn] * 3 / channels)
    assert network.spec.input_mean == tuple(UNEQUAL["mean"][index] for index in turn)
    assert network.spec.input_std == tuple(UNEQUAL["std"][index] for index in turn)


@pytest.mark.parametrize("source", SOURCES)
def test_no_channel_starts_from_zero(source: str) -> None:
    _, network = pair(source, 5)
    first = [value for value in network.module.state_dict().values() if value.ndim == 4 and value.shape[1] == 5]
    assert len(first) == (2 if "repvgg" in source else 1)
    for weight in first:
        strength = weight.square().sum(dim=(0, 2, 3))
        assert strength.min() > 0.2 * strength.max()


def test_a_network_with_other_channels_can_be_cut_like_any() -> None:
    _, network = pair("torchvision:resnet18", 4)
    images = torch.rand(2, 4, 64, 64)
    with torch.inference_mode():
        whole = network(images)
        for depth in (1, 3, "all"):
            prefix, suffix = network.split(depth)
            torch.testing.assert_close(suffix(*prefix(images)), whole)


def linear_patches() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU(), nn.Linear(16, 2))


def of_four_bands() -> nn.Module:
    network: Any = nn.Sequential(nn.Conv2d(4, 3, 3), nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.default_cfg = {"input_size": (4, 16, 16), "mean": (0.1,) * 4, "std": (0.2,) * 4}  # as timm sets it
    module: nn.Module = network
    return module


def test_a_first_layer_that_is_no_convolution_is_refused_by_name() -> None:
    with pytest.raises(BackboneError, match=r"linear_patches cannot be adapted to images of 4 channels .* RGB"):
        open_backbone(f"python:{__name__}:linear_patches", in_channels=4)


def test_a_network_of_ones_own_for_four_bands_is_taken_as_it_is() -> None:
    network = open_backbone(f"python:{__name__}:of_four_bands", in_channels=4)
    assert network.spec.input_mean == (0.1,) * 4
    assert network.num_features == 6
    with pytest.raises(BackboneError, match="trained on images of 4 channels and has no weights for 5"):
        describe(f"python:{__name__}:of_four_bands").with_channels(5)


def test_what_learned_bands_has_no_weights_for_others() -> None:
    spec = describe("timm:test_resnet").with_channels(4)
    assert spec.with_channels(4) == spec
    with pytest.raises(BackboneError, match="4 channels and has no weights for 3"):
        spec.with_channels(3)


def test_constants_need_a_value_for_each_channel() -> None:
    spec = describe("timm:test_resnet").with_channels(2)
    own = spec.normalised((0.1, 0.2), None)
    assert (own.input_mean, own.input_std) == ((0.1, 0.2), spec.input_std)
    with pytest.raises(BackboneError, match=r"backbone\.std has 3 values, but the images have 2 channels"):
        spec.normalised(None, (0.1, 0.2, 0.3))


def test_grey_with_constants_of_its_own_sums_the_weights() -> None:
    spec = describe("timm:test_resnet").model_copy(update=UNEQUAL)
    torch.manual_seed(0)
    colour = assemble(spec, None)
    grey = assemble(spec.with_channels(1).normalised((0.3,), (0.5,)), colour.module.state_dict())
    name = next(name for name, value in colour.module.state_dict().items() if value.shape[1:2] == (3,))
    torch.testing.assert_close(
        grey.module.state_dict()[name], colour.module.state_dict()[name].sum(dim=1, keepdim=True)
    )


def run_stage(workspace: Path, **settings: object) -> Path:
    """Run the real stage on a tiny random network and return its folder."""
    import yaml

    path = workspace / "params.yaml"
    tree = read_tree(path)
    tree["backbone"] = {"source": "timm:test_resnet", "sha256": None, "input_px": 32, "pretrained": False, **settings}
    path.write_text(yaml.safe_dump(tree))
    stage.main()
    return workspace / "models" / "backbone"


def spec_of(folder: Path) -> Spec:
    return Spec.of(facts.read(folder / "model.json", BackboneFacts).backbone, folder)


def test_the_stage_stores_what_was_asked_for_and_other_images_are_refused(workspace: Path, scratch: Path) -> None:
    folder = run_stage(workspace, in_channels=4, mean=[0.1, 0.2, 0.3, 0.4])
    assert (spec_of(folder).in_channels, spec_of(folder).input_mean) == (4, (0.1, 0.2, 0.3, 0.4))
    network = load_backbone(folder, in_channels=4)
    assert network(network.example(1)).shape == (1, network.num_features)
    with pytest.raises(BackboneError, match=r"backbone\.in_channels .* is 4, but the images have 3 channels"):
        load_backbone(folder, in_channels=3)
    colour = run_stage(workspace, std=[0.1, 0.2, 0.3])
    with pytest.raises(BackboneError, match="is 3, but the images have 1 channel;"):
        load_backbone(colour, in_channels=1)


def test_without_a_wish_the_stage_stores_rgb_and_the_images_decide(workspace: Path, scratch: Path) -> None:
    folder = run_stage(workspace)
    assert "in_channels" not in artifacts.read_json(folder / "model.json")
    for channels in (1, 3, 7):
        assert load_backbone(folder, in_channels=channels).spec.in_channels == channels


def test_the_plan_has_the_channels_that_are_asked_for() -> None:
    assert load_params().backbone.asked_channels is None
    wanted = load_params().backbone
    assert wanted.model_copy(update={"in_channels": 4}).asked_channels == 4
    assert wanted.model_copy(update={"std": [0.1, 0.2]}).asked_channels == 2


assert __name__ in sys.modules  # the sources above name this module
