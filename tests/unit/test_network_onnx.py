"""Networks that another framework exported to ONNX: the same features, cut, trained and frozen like any other."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from torch import Tensor, nn
from torchvision import models

from tests import tiny
from tests.cuts import trains_above_the_cut_only
from thaw import files
from thaw.errors import BackboneError
from thaw.network import open_backbone
from thaw.network.backbone import Backbone, assemble
from thaw.network.engine import Engine
from thaw.network.source import describe, fetch_tensors, random_tensors
from thaw.network.spec import read_spec
from thaw.training.norms import running_norms

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporters' own


def network(name: str) -> nn.Module:
    """Return a classifier of torchvision whose norms are not as they begin."""
    torch.manual_seed(3)
    module: nn.Module = models.get_model(name, weights=None, num_classes=5)
    return moved(module)


def moved(module: nn.Module) -> nn.Module:
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            assert child.running_mean is not None
            assert child.running_var is not None
            child.running_mean.normal_(0, 0.1)
            child.running_var.uniform_(0.5, 1.5)
    return module.eval()


def features_of(module: nn.Module, images: Tensor) -> Tensor:
    """Return what the last linear layer of a classifier reads."""
    seen: list[Tensor] = []
    last = [child for child in module.modules() if isinstance(child, nn.Linear)][-1]
    handle = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        module(images)
    handle.remove()
    return seen[0]


def exported(module: nn.Module, path: Path, *, side_px: int = 64, norms: bool = False, images: int = 0) -> Path:
    """Export a network by torch's older exporter; `norms` keeps norm layers apart, `images` fixes their number."""
    torch.onnx.export(
        module,
        (torch.zeros(images or 2, 3, side_px, side_px),),
        path,
        dynamo=False,
        input_names=["images"],
        dynamic_axes={} if images else {"images": {0: "n"}},
        opset_version=17,
        do_constant_folding=not norms,
        training=torch.onnx.TrainingMode.PRESERVE if norms else torch.onnx.TrainingMode.EVAL,
    )
    return path


def saved(path: Path, nodes: list[Any], weights: dict[str, Any], shape: list[Any], **more: Any) -> Path:
    """Save a graph from `images` to `out` as an exporter might."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, **{"opset_imports": [helper.make_opsetid("", 17)]} | more), path)
    return path


def small(
    path: Path, *, nhwc: bool = False, shape: list[Any] | None = None, last: str = "Gemm", flat: str = ""
) -> Path:
    """Save two convolutions, a pooling and an output layer; `flat` is how a reshape flattens instead."""
    draw = np.random.default_rng(0)
    weights = {
        "a": draw.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "b": draw.normal(size=(6, 4, 3, 3)).astype(np.float32),
        "c": draw.normal(size=(6, 2)).astype(np.float32),
    }
    first = [helper.make_node("Transpose", ["images"], ["x"], perm=[0, 3, 1, 2])] if nhwc else []
    flattened = [helper.make_node("Flatten", ["p"], ["f"])]
    if flat == "constant":
        weights["shape"] = np.array([-1, 6])
        flattened = [helper.make_node("Reshape", ["p", "shape"], ["f"], name="reshape")]
    elif flat == "computed":  # as exporters write `maps.reshape(len(images), 6)`
        weights |= {"zero": np.array([0]), "six": np.array([6])}
        first += [
            helper.make_node("Shape", ["images"], ["sizes"]),
            helper.make_node("Gather", ["sizes", "zero"], ["number"]),
        ]
        concat = helper.make_node("Concat", ["number", "six"], ["shape"], axis=0)
        flattened = [concat, helper.make_node("Reshape", ["p", "shape"], ["f"], name="reshape")]
    nodes = [
        *first,
        helper.make_node("Conv", ["x" if nhwc else "images", "a"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["z"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["z"], ["p"]),
        *flattened,
        helper.make_node(last, ["f", "c"] if last != "Softmax" else ["f"], ["s"]),
        helper.make_node("Softmax", ["s"], ["out"]),
    ]
    return saved(path, nodes, weights, shape or (["n", 32, 32, 3] if nhwc else ["n", 3, 32, 32]))


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
    engine = Engine(backbone.split(0)[0], images, key=f"{reduction}{as_attribute}", compute=tiny.BY_NAME)
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


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return exported(network("resnet18"), tmp_path_factory.mktemp("ä ö") / "net.onnx")


def test_a_model_is_built_again_without_the_file_that_it_came_from(resnet18: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(resnet18, tmp_path))
    spec, tensors = fetch_tensors(f"onnx:{path}", sha256=None)
    assert spec.sha256 == files.sha256_of(path)
    stored = json.loads(json.dumps(spec.model_dump(mode="json")))
    assert len(spec.graph) < 10_000  # no weights, and nothing of where it was exported
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = open_backbone(f"onnx:{path}")(images)
        path.unlink()
        assert torch.equal(assemble(read_spec(stored), tensors)(images), expected)


def test_tensors_beside_the_file_are_part_of_its_hash(tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    spec, tensors = fetch_tensors(f"onnx:{path}", sha256=None)
    data = bytearray((tmp_path / "net.onnx.data").read_bytes())
    data[2] ^= 1
    (tmp_path / "net.onnx.data").write_bytes(data)
    again, changed = fetch_tensors(f"onnx:{path}", sha256=None)
    assert again.sha256 != spec.sha256
    assert not all(torch.equal(value, changed[name]) for name, value in tensors.items())
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(BackboneError, match=r"wants its tensors from net.onnx.data, which is not there; copy it"):
        describe(f"onnx:{path}")


@pytest.mark.parametrize("place", ["../secret", "{folder}/secret", "link"])
def test_tensors_from_outside_the_folder_are_not_read(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(10_000))
    (folder / "link").symlink_to(tmp_path / "secret")
    model = onnx.load(small(folder / "net.onnx"))
    for tensor in model.graph.initializer:
        external_data_helper.set_external_data(tensor, place.format(folder=tmp_path), 0, len(tensor.raw_data))
        tensor.ClearField("raw_data")
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BackboneError, match=r"wants tensors from '.*', outside its own folder; they were not read"):
        describe(f"onnx:{folder / 'net.onnx'}")


def refused(path: Path, message: str) -> None:
    with pytest.raises(BackboneError, match=message) as caught:
        open_backbone(f"onnx:{path}")
    assert "\n" not in str(caught.value)


def test_an_operator_that_is_not_supported_is_named(tmp_path: Path) -> None:
    pooled = helper.make_node("GlobalAveragePool", ["images"], ["p"])
    nodes = [pooled, helper.make_node("Flatten", ["p"], ["f"])]
    custom = helper.make_node("Fancy", ["f"], ["out"], domain="acme")
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    path = saved(tmp_path / "a.onnx", [*nodes, custom], {}, ["n", 3, 8, 8], opset_imports=domains)
    refused(path, r"uses operators that are not ONNX's own: acme:Fancy; export the network in float32")
    odd = [helper.make_node("GlobalMaxPool", ["images"], ["p"]), helper.make_node("Flatten", ["p"], ["f"])]
    label = helper.make_node("LabelEncoder", ["f"], ["out"], keys_floats=[1.0], values_floats=[2.0])
    refused(saved(tmp_path / "b.onnx", [*odd, label], {}, ["n", 3, 8, 8]), "LabelEncoder")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (["n", 7, 32, 32], r"has the shape \[0, 7, 32, 32\] .*cannot be told where its 1 or 3 channels are"),
        (["n", 3, 32, 48], r"takes images of 48 x 32 px; export it for a square"),
        (["n", 3, 32], r"is not float32 of \[images, channels, height, width\]"),
    ],
)
def test_an_input_that_is_no_square_image_is_refused(tmp_path: Path, shape: list[Any], message: str) -> None:
    refused(small(tmp_path / "net.onnx", shape=shape), message)


def test_what_is_no_usable_export_is_one_line(tmp_path: Path) -> None:
    refused(tmp_path / "no.onnx", r"names the file .*no.onnx, which does not exist")
    for content in (b"", b"<html>", bytes(50)):
        (tmp_path / "x.onnx").write_bytes(content)
        refused(tmp_path / "x.onnx", r"is no ONNX file.*export the network again")
    path = small(tmp_path / "s.onnx", last="Softmax")
    refused(path, r"the output layer of .* was not found: .* comes from GlobalAveragePool")
    path = small(tmp_path / "new.onnx")
    model = onnx.load(path)
    model.opset_import[0].version = 99
    path.write_bytes(model.SerializeToString())
    refused(path, r"is of opset 99; opsets up to \d+ are known: export it with an older one")


def test_an_export_for_one_image_alone_is_refused_with_what_to_do(tmp_path: Path) -> None:
    class Reshaping(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            answer: Tensor = self[1](self[0](images).mean((2, 3)).reshape(1, 4))
            return answer

    module = Reshaping(nn.Conv2d(3, 4, 3), nn.Linear(4, 2)).eval()
    path = exported(module, tmp_path / "net.onnx", side_px=16, images=1)
    refused(path, r"does not run on two images of 16 px: .*; export it with a number of images that is not fixed")


def test_random_weights_are_refused_since_the_export_does_not_say_how_they_were_drawn(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"backbone.pretrained is false, but onnx:.* does not say how its weights"):
        random_tensors(f"onnx:{small(tmp_path / 'net.onnx')}")


def test_a_network_of_keras_is_sent_through_onnx() -> None:
    with pytest.raises(BackboneError, match=r"is 'keras:ResNet50'; .* export it to ONNX .*backbones.md"):
        open_backbone("keras:ResNet50")


def test_keep_ends_an_export_early(resnet18: Path) -> None:
    backbone = open_backbone(f"onnx:{resnet18}", keep="layer2")
    assert (backbone.blocks, backbone.num_features) == (["conv1", "layer1", "layer2"], 128)
