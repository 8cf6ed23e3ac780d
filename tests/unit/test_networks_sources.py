"""Sources of weights: their names, their hashes, and where they are brought from."""

import contextlib
import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny
from thaw.errors import ArtifactError, BackboneError
from thaw.networks.backbone import load_backbone
from thaw.networks.sources import opening
from thaw.networks.sources.opening import describe, fetch_tensors, open_backbone
from thaw.pipeline import artifacts, facts

pytestmark = pytest.mark.usefixtures("scratch")

LITE0 = "package:efficientnet_lite0"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet81", "timm has no model 'resnet81'; the nearest are resnet18"),
        ("timm:resnet18.a1_in2k", "timm has no weights 'resnet18.a1_in2k'; the nearest are resnet18.a1_in1k"),
        ("timm:zzzzzzzzzzz", "timm has no model 'zzzzzzzzzzz'; .* lists all"),
        ("torchvision:resnet81", "torchvision has no classification model 'resnet81'; the nearest are resnet18"),
        ("torchvision:resnet18/IMAGENET1K_V9", "torchvision has no weights 'IMAGENET1K_V9' for resnet18; the nearest"),
        ("torchvision:fcn_resnet50", "torchvision has no classification model 'fcn_resnet50'"),
        ("package:resnet18", "no package ships weights for 'resnet18'; there are efficientnet_lite0"),
        (
            "resnet18",
            "'resnet18'; it must start with package:, timm:, torchvision:, file:, onnx:, python: or model:",
        ),
        ("hub:resnet18", "it must start with package:, timm:, torchvision:, file:, onnx:, python: or model:"),
    ],
)
def test_a_source_that_does_not_exist_is_one_line_with_the_nearest_names(name: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message) as caught:
        open_backbone(name, pretrained=False)
    assert "\n" not in str(caught.value)


def test_a_source_says_what_its_network_expects_of_an_image() -> None:
    lite0, tagged = describe(LITE0), describe("timm:resnet18.a1_in1k")
    assert (lite0.name, lite0.input_px, lite0.license) == ("tf_efficientnet_lite0", 224, "Apache-2.0")
    assert (lite0.mean, lite0.std) == ((0.5,) * 3, (0.5,) * 3)
    assert (tagged.name, tagged.url) == ("resnet18", "https://huggingface.co/timm/resnet18.a1_in1k")
    plain = describe("torchvision:resnet18/IMAGENET1K_V1")
    assert plain.url == "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert plain.mean == (0.485, 0.456, 0.406)
    assert describe("torchvision:resnet18") == plain


def test_the_default_backbone_is_in_its_package_and_every_tensor_has_its_place() -> None:
    spec, tensors = fetch_tensors(LITE0, sha256=None)
    assert spec.sha256.startswith("57934424")  # as the file's own name says
    assert len(tensors) == 294  # without the two of its output layer
    module = open_backbone(LITE0).module
    assert all(torch.equal(value, tensors[name]) for name, value in module.state_dict().items())


def test_a_file_with_another_hash_than_the_pinned_one_is_refused_with_both() -> None:
    right = fetch_tensors(LITE0, sha256=None)[0].sha256
    assert fetch_tensors(LITE0, sha256=right)[0].sha256 == right
    wrong = right[:8] + "0" * 56  # the prefix that torch.hub would look at is right
    with pytest.raises(BackboneError, match=f"have SHA-256 {right}, but backbone.sha256 is {wrong}; delete .* or set"):
        fetch_tensors(LITE0, sha256=wrong)


@contextlib.contextmanager
def served(folder: Path, *, lie: int = 0) -> Iterator[str]:
    """Serve a folder; `lie` bytes are promised in Content-Length beyond those that come."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def send_header(self, keyword: str, value: str) -> None:
            super().send_header(keyword, str(int(value) + lie) if keyword == "Content-Length" else value)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def published(folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """Write the weights of a torchvision network as torchvision publishes them: a state dict, its hash in the name."""
    torch.manual_seed(4)
    from torchvision import models

    tensors = models.get_model("shufflenet_v2_x0_5", weights=None).state_dict()
    folder.mkdir()
    torch.save(tensors, folder / "weights.pth")
    path = folder / f"shufflenet-{artifacts.sha256_of(folder / 'weights.pth')[:8]}.pth"
    (folder / "weights.pth").rename(path)
    return path, tensors


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = opening._KINDS["torchvision"]
    pointed = replace(real, describe=lambda name: real.describe(name).model_copy(update={"url": url}))
    monkeypatch.setitem(opening._KINDS, "torchvision", pointed)


def test_weights_of_torchvision_are_downloaded_once(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tensors = published(tmp_path / "site")
    with served(path.parent) as url:
        point_at(f"{url}/{path.name}", monkeypatch)
        network = open_backbone("torchvision:shufflenet_v2_x0_5")
    assert network.spec.sha256 == artifacts.sha256_of(path)
    assert all(torch.equal(value, tensors[name]) for name, value in network.module.state_dict().items())
    assert len(list((scratch / "downloads").iterdir())) == 1
    again = open_backbone("torchvision:shufflenet_v2_x0_5")  # the server is gone
    assert again.spec == network.spec


def test_a_download_whose_bytes_do_not_match_its_name_is_refused_and_not_kept(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = published(tmp_path / "site")
    path.write_bytes(path.read_bytes()[:-1000])
    with served(path.parent) as url:
        point_at(f"{url}/{path.name}", monkeypatch)
        with pytest.raises(BackboneError, match=r"shufflenet_v2_x0_5 could not be brought from .*: invalid hash value"):
            open_backbone("torchvision:shufflenet_v2_x0_5")
    assert not list((scratch / "downloads").iterdir())


@pytest.mark.parametrize("name", ["missing-01234567.pth", "missing.pth"])
def test_a_download_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with served(tmp_path) as url:
        point_at(f"{url}/{name}", monkeypatch)
        with pytest.raises(BackboneError, match=r"could not be brought from http.*: HTTP Error 404: File not found"):
            open_backbone("torchvision:shufflenet_v2_x0_5")


def test_a_server_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    point_at("http://127.0.0.1:9/weights.pth", monkeypatch)
    with pytest.raises(BackboneError, match=r"could not be brought from .*Connection refused"):
        open_backbone("torchvision:shufflenet_v2_x0_5")


def test_two_files_of_one_name_are_two_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (0, 1):
        (tmp_path / str(number)).mkdir()
        torch.save({"a": torch.full((1,), number)}, tmp_path / str(number) / "model.pth")
    with served(tmp_path) as url:
        values = []
        for number in (0, 1):
            point_at(f"{url}/{number}/model.pth", monkeypatch)
            values.append(fetch_tensors("torchvision:resnet18", sha256=None)[1]["a"].item())
    assert values == [0, 1]


_HUB = """
import sys, torch
from thaw.networks.sources.opening import open_backbone
network = open_backbone("timm:test_resnet.r160_in1k")
print(network.spec.sha256, float(network.module.state_dict()["conv1.0.weight"].double().sum()))
"""


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as hf_hub_download asks for."""

    data = b""

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        found = self.path == "/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"
        self.send_response(200 if found else 404)
        self.send_header("ETag", f'"{hashlib.sha256(self.data).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(self.data) if found else 0))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.data)


def test_weights_of_timm_come_from_the_hub_as_safetensors(tmp_path: Path, root: Path) -> None:
    network = tiny.backbone(seed=8)
    save_file({name: value.contiguous() for name, value in network.module.state_dict().items()}, tmp_path / "w")
    _Hub.data = (tmp_path / "w").read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", _HUB], env=os.environ | hub, cwd=root, capture_output=True, text=True, check=False
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    sha256, total = done.stdout.split()
    assert sha256 == artifacts.sha256_of(tmp_path / "w")
    assert float(total) == pytest.approx(float(network.module.state_dict()["conv1.0.weight"].double().sum()))


def test_the_backbone_that_the_stage_stored_comes_back(tmp_path: Path) -> None:
    network = tiny.backbone()
    with artifacts.new_folder(tmp_path / "backbone") as folder:
        save_file(
            {name: value.contiguous() for name, value in network.module.state_dict().items()},
            folder / "weights.safetensors",
        )
        facts.write(folder / "model.json", tiny.backbone_facts(network))
    again = load_backbone(tmp_path / "backbone", in_channels=3)
    assert again.spec == network.spec
    for name, value in again.module.state_dict().items():
        assert torch.equal(value, network.module.state_dict()[name])
    weights = tmp_path / "backbone" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"weights.safetensors is not what its manifest says"):
        load_backbone(tmp_path / "backbone", in_channels=3)
