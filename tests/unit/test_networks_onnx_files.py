"""The files of networks in ONNX: what is part of their hash, what is needed later, and what is refused in one line."""

import base64
import json
import resource
import shutil
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import external_data_helper, helper
from torch import Tensor, nn

from tests.onnx_files import exported, network, saved, small
from thaw.errors import BackboneError
from thaw.networks.backbone import assemble
from thaw.networks.build import build
from thaw.networks.sources.opening import describe, fetch_tensors, open_backbone, random_tensors
from thaw.networks.spec import Spec
from thaw.pipeline import artifacts

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporters' own


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return exported(network("resnet18"), tmp_path_factory.mktemp("ä ö") / "net.onnx")


def test_a_model_is_built_again_without_the_file_that_it_came_from(resnet18: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(resnet18, tmp_path))
    spec, tensors = fetch_tensors(f"onnx:{path}", sha256=None)
    assert spec.sha256 == artifacts.sha256_of(path)
    stored = json.loads(json.dumps(spec.model_dump(mode="json")))
    assert len(spec.graph) < 10_000  # no weights, and nothing of where it was exported
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = open_backbone(f"onnx:{path}")(images)
        path.unlink()
        assert torch.equal(assemble(Spec.model_validate(stored), tensors)(images), expected)


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
        (["n", 3, -5, -5], r"takes images of -5 px; export it for 1 to 2048"),
        (["n", 3, 100_000, 100_000], r"takes images of 100000 px; export it for 1 to 2048"),
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


def test_a_graph_without_what_its_output_names_is_refused(tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.node[-1].output[0] = "elsewhere"
    path.write_bytes(model.SerializeToString())
    refused(path, r"net.onnx has the output out, which no operator gives; export the network again")


def test_a_packed_graph_that_is_damaged_is_refused(tmp_path: Path) -> None:
    spec = describe(f"onnx:{small(tmp_path / 'net.onnx')}")
    empty = base64.b64encode(zlib.compress(onnx.ModelProto().SerializeToString())).decode()
    for graph in (spec.graph[:-40], spec.graph[40:], "no graph", "ä", empty, ""):
        with pytest.raises(BackboneError, match=r"the graph of net.onnx is damaged \(.*\); bring .* again") as caught:
            build(spec.model_copy(update={"graph": graph}))
        assert "\n" not in str(caught.value)


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


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is one of Linux")
@pytest.mark.parametrize("kind", ["a constant", "an activation"])
def test_a_few_bytes_that_spread_into_gigabytes_are_refused_and_this_process_takes_none_of_them(
    kind: str, tmp_path: Path
) -> None:
    held: dict[str, Any] = {"shape": [1, 3, 20_000, 20_000], "times": [1, 1, 400, 400], "w": np.ones((3, 4), "f4")}
    spread = {
        "a constant": [
            helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
            helper.make_node("ReduceMean", ["huge"], ["mean"], keepdims=0),
            helper.make_node("Add", ["images", "mean"], ["maps"]),
        ],
        "an activation": [helper.make_node("Tile", ["images", "times"], ["maps"])],
    }
    nodes = [
        *spread[kind],
        helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["out"]),
    ]
    used = {name for node in nodes for name in node.input}
    path = saved(tmp_path / "small.onnx", nodes, {k: v for k, v in held.items() if k in used}, ["n", 3, 32, 32])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BackboneError, match=r"small\.onnx"):
        fetch_tensors(f"onnx:{path}", sha256=None)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000
