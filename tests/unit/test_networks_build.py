"""Networks without an output layer, and their first layer adapted to grey images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests import tiny
from thaw.augment.views import render
from thaw.errors import ArtifactError, BackboneError
from thaw.networks.backbone import Backbone, assemble
from thaw.networks.build import build, load_tensors
from thaw.networks.sources.opening import describe, open_backbone
from thaw.networks.spec import Spec
from thaw.pipeline import artifacts, facts
from thaw.pipeline.model_facts import BackboneFacts

EQUAL = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
UNEQUAL = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def features(network: Backbone, images: NDArray[np.uint8]) -> Tensor:
    spec = network.spec
    seen = render(
        images, [""] * len(images), [0] * len(images), seed=0, augment=tiny.augment(), input_px=spec.input_px,
        channels=spec.in_channels, mean=spec.input_mean, std=spec.input_std,
    )  # fmt: skip
    with torch.inference_mode():
        found: Tensor = network.module(seen)
    return found


@pytest.mark.parametrize("constants", [EQUAL, UNEQUAL], ids=["equal mean and std", "unequal mean and std"])
@pytest.mark.parametrize("source", ["timm:test_resnet", "timm:test_vit", "timm:convnext_atto", "torchvision:resnet18"])
def test_grey_images_have_the_features_of_their_three_channel_copies(
    source: str, constants: dict[str, tuple[float, ...]]
) -> None:
    side = 160 if "vit" in source else 64
    spec = describe(source).model_copy(update={"input_px": side, **constants})
    torch.manual_seed(0)
    colour = assemble(spec, None)
    grey = assemble(spec.model_copy(update={"in_channels": 1}), colour.module.state_dict())
    images = tiny.pixels(2, channels=1, size_px=side)
    ours, reference = features(grey, images), features(colour, np.repeat(images, 3, axis=3))
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max()))


def test_the_default_backbone_adapted_to_grey_has_the_features_of_the_three_channel_copies() -> None:
    images = tiny.pixels(2, channels=1, size_px=64)
    both = []
    for channels in (1, 3):
        network = open_backbone("package:efficientnet_lite0", in_channels=channels)
        network = Backbone(network.module, network.spec.model_copy(update={"input_px": 64}))
        both.append(features(network, np.repeat(images, channels, axis=3)))
    torch.testing.assert_close(both[0], both[1], rtol=1e-4, atol=1e-4)
    assert both[0].shape == (2, 1280)


def test_grey_weights_are_taken_as_they_are_when_they_come_back() -> None:
    network = tiny.backbone(in_channels=1)
    again = assemble(network.spec, network.module.state_dict())
    for name, value in network.module.state_dict().items():
        assert torch.equal(value, again.module.state_dict()[name])


def test_there_is_no_input_without_channels() -> None:
    with pytest.raises(BackboneError, match=r"in_channels is 0; it must be 1 \(grey\), 3 \(colour\) or another"):
        open_backbone("timm:test_resnet", pretrained=False, in_channels=0)


@pytest.mark.parametrize(
    ("source", "num_features"),
    [
        ("timm:test_resnet", 96),
        ("torchvision:resnet18", 512),
        ("torchvision:mobilenet_v3_small", 1024),
        ("torchvision:inception_v3", 2048),
    ],
)
def test_the_output_layer_is_gone(source: str, num_features: int) -> None:
    network = open_backbone(source, pretrained=False)
    side = 96 if "inception" in source else 64
    network = Backbone(network.module, network.spec.model_copy(update={"input_px": side}))
    assert network.num_features == num_features
    assert not network.module.training
    assert not any("aux" in name.lower() for name in network.module.state_dict())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_the_networks_that_rescale_their_input_get_it_in_their_own_scale(name: str) -> None:
    # With its weights, torchvision builds these with transform_input=True: (x * std + mean - 0.5) / 0.5.
    spec = describe(f"torchvision:{name}")
    assert (spec.mean, spec.std) == ((0.5,) * 3, (0.5,) * 3)
    assert vars(build(spec))["transform_input"] is False


@pytest.mark.parametrize("source", ["torchvision:squeezenet1_0", "torchvision:squeezenet1_1"])
def test_an_output_layer_that_is_a_1_x_1_convolution_is_removed(source: str) -> None:
    torch.manual_seed(0)
    network = open_backbone(source, pretrained=False, input_px=64)
    images = torch.rand(network.example(2).shape)
    assert network.num_features == 512
    assert not any(name.startswith("classifier") for name in network.module.state_dict())
    maps = network.module.get_submodule("features")(images)
    torch.testing.assert_close(network.module(images), maps.mean((2, 3)))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("torchvision:mobilenet_v3_small", "raft_small"),
        ("torchvision:mobilenet_v3_small", "fasterrcnn_resnet50_fpn"),
        ("timm:test_resnet", "hf-hub:somebody/something"),
        ("timm:test_resnet", "local-dir:/tmp"),
    ],
)
def test_a_name_that_would_bring_something_or_is_no_classifier_is_refused(source: str, name: str) -> None:
    with pytest.raises(BackboneError, match=rf"has no (classification )?model '{name}'; take the version"):
        build(describe(source).model_copy(update={"name": name}))


def test_an_input_size_that_the_network_cannot_take_is_one_line() -> None:
    network = tiny.backbone("test_vit", input_px=100)
    with pytest.raises(
        BackboneError, match=r"test_vit cannot take images of 100 px: .+; set backbone.input_px to null"
    ):
        assert network.num_features


def spec() -> Spec:
    return describe("timm:test_resnet")


def tensors() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return dict(build(spec()).state_dict())


def test_tensors_of_an_output_layer_are_left_out() -> None:
    module = build(spec())
    given = tensors()
    load_tensors(module, given | {"fc.weight": torch.zeros(1000, 96), "fc.bias": torch.zeros(1000)}, spec())
    assert all(torch.equal(value, given[name]) for name, value in module.state_dict().items())


def test_missing_tensors_are_counted_and_the_first_are_named() -> None:
    given = {name: value for name, value in tensors().items() if not name.startswith("layer4")}
    with pytest.raises(
        BackboneError,
        match=r"^the weights of \S+ are not those of test_resnet: \d+ of \d+ tensors match by name, layer4\.0\.bn1\.b",
    ):
        load_tensors(build(spec()), given, spec())


def test_the_weights_of_another_architecture_are_refused() -> None:
    other = dict(build(describe("timm:test_vit")).state_dict())
    with pytest.raises(
        BackboneError, match=r"are not those of test_resnet: 0 of .* name the architecture that they bel"
    ):
        load_tensors(build(spec()), other, spec())


def test_a_tensor_of_another_shape_is_named_with_both_shapes() -> None:
    given = tensors() | {"bn1.weight": torch.zeros(7)}
    with pytest.raises(BackboneError, match=r"bn1\.weight has shape \[7\], the network wants \[\d+\]; name the arch"):
        load_tensors(build(spec()), given, spec())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("channels", [1, 3])
def test_weights_that_are_no_numbers_are_refused_by_name(value: float, channels: int) -> None:
    given = tensors()
    first = next(name for name, tensor in given.items() if tensor.ndim == 4)
    given[first][0, 0, 0, 0] = value
    seen = spec().model_copy(update={"in_channels": channels})
    with pytest.raises(BackboneError, match=rf"^the weights of \S+ hold NaN or infinity in {first}; bring them again"):
        load_tensors(build(seen), given, seen)


def test_a_refused_load_leaves_the_network_as_it_was() -> None:
    module = build(spec())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(BackboneError):
        load_tensors(module, tensors() | {"bn1.weight": torch.zeros(7)}, spec())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_spec_survives_its_fact_file_and_a_damaged_one_says_where(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    stored = BackboneFacts(source="timm:test_resnet", backbone=spec(), blocks=["conv1"], features=96)
    facts.write(path, stored)
    assert Spec.of(facts.read(path, BackboneFacts).backbone, tmp_path) == spec()
    artifacts.write_json(path, stored.model_dump() | {"backbone": spec().model_dump() | {"input_px": 0}})
    with pytest.raises(ArtifactError, match=r"model.json: backbone.input_px is 0: .* greater than 0; run `dvc repro`"):
        facts.read(path, BackboneFacts)


@pytest.mark.parametrize(("name", "side"), [("test_vit", 96), ("test_vit", 224), ("swin_tiny_patch4_window7_224", 64)])
def test_position_embeddings_are_interpolated_for_another_input_size(name: str, side: int) -> None:
    spec = describe(f"timm:{name}")
    tensors = dict(build(spec).state_dict())
    network = assemble(spec.with_input_size(side), tensors)
    assert network.module(network.example(1)).shape == (1, network.num_features)
    resized = {key for key, value in network.module.state_dict().items() if value.shape != tensors[key].shape}
    assert resized
    assert all("pos" in key for key in resized)
    for key, value in network.module.state_dict().items():
        assert key in resized or torch.equal(value, tensors[key]), key
