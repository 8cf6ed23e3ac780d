"""Sources that people bring themselves: files of weights, Python callables, models of Thaw."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests import tiny
from tests.unit.test_training_model import write_final
from thaw.errors import BackboneError
from thaw.networks.sources.opening import describe, fetch_tensors, open_backbone, random_tensors
from thaw.pipeline import artifacts, facts
from thaw.training.model import load


def saved(path: Path, *, prefix: str = "", extra: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Save the weights of a tiny network as a trainer would, and return them by their own names."""
    tensors = dict(tiny.backbone(seed=5).module.state_dict())
    named = {f"{prefix}{name}": value.contiguous() for name, value in tensors.items()} | (extra or {})
    if path.suffix == ".safetensors":
        save_file(named, path)
    else:
        torch.save({"state_dict": named, "epoch": 3}, path)
    return tensors


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.", "_orig_mod.module."])
def test_weights_in_a_file_are_those_of_the_architecture_that_is_named(tmp_path: Path, name: str, prefix: str) -> None:
    tensors = saved(tmp_path / name, prefix=prefix, extra={f"{prefix}fc.weight": torch.zeros(2, 2)})
    source = f"file:{tmp_path / name}@timm:test_resnet"
    network = open_backbone(source)
    assert all(torch.equal(value, tensors[key]) for key, value in network.module.state_dict().items())
    assert network.spec.sha256 == artifacts.sha256_of(tmp_path / name)
    assert (network.spec.name, network.spec.url) == ("test_resnet", f"file:{name}")
    with pytest.raises(
        BackboneError,
        match=r"but backbone\.sha256 is 0+; see what changed .*w\.\w+, or set backbone\.sha256 if you trust these",
    ):
        fetch_tensors(source, sha256="0" * 64)


def test_a_file_for_another_architecture_lists_what_is_missing_and_what_is_unexpected(tmp_path: Path) -> None:
    save_file({"stem.conv": torch.zeros(2), "odd.weight": torch.ones(3)}, tmp_path / "w.safetensors")
    with pytest.raises(
        BackboneError, match=r"0 of \d+ tensors match .* missing, odd.weight, stem.conv unexpected; name the archit"
    ):
        open_backbone(f"file:{tmp_path / 'w.safetensors'}@timm:test_resnet")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file:w.pth", r"say whose weights these are: file:PATH@timm:NAME or file:PATH@torchvision:NAME"),
        ("file:nowhere.pth@timm:test_resnet", r"names the file nowhere.pth, which does not exist"),
        ("file:w.pth@timm:test_resnat", r"timm has no model 'test_resnat'; the nearest are"),
        ("python:tests.tiny", r"names no callable; write python:MODULE:CALLABLE"),
        ("python:no_such_module:net", r"python:no_such_module:net cannot be called: ModuleNotFoundError: No module"),
        ("python:tests.tiny:preprocessing", r"gives a Preprocessing; it must give a torch.nn.Module"),
        ("model:nowhere", r"there is no such folder; give a copy of a run's models/final"),
    ],
)
def test_a_source_that_cannot_be_used_is_one_line_that_says_what_to_do(name: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message) as caught:
        open_backbone(name)
    assert "\n" not in str(caught.value)


def net() -> nn.Module:
    """A network as somebody's project would define it, with weights of its own and an output layer."""
    torch.manual_seed(9)
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
    body = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU())
    return nn.Sequential(stem, body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))


def test_a_network_of_python_loses_its_output_layer_and_keeps_its_weights() -> None:
    source = "python:tests.unit.test_networks_own_sources:net"
    network = open_backbone(source)
    images = torch.randn(2, 3, 224, 224)
    whole = net().eval()
    assert isinstance(whole, nn.Sequential)
    with torch.inference_mode():
        torch.testing.assert_close(network.module(images), whole[:-1](images))
        prefix, suffix = network.split(1)
        assert torch.equal(suffix(*prefix(images)), network.module(images))
    assert network.num_features == 12
    assert network.spec.mean == (0.485, 0.456, 0.406)
    assert len(network.spec.sha256) == 64
    assert network.spec.sha256 == open_backbone(source).spec.sha256


def test_the_code_of_a_network_of_python_is_part_of_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    code = "import torch\nfrom torch import nn\n\ndef net():\n    torch.manual_seed(0)\n"
    code += "    return nn.Sequential(nn.Conv2d(3, 4, 3), %s)\n"
    hashes = []
    for name, last in (("one_net", "nn.ReLU()"), ("two_net", "nn.Tanh()")):
        (tmp_path / f"{name}.py").write_text(code % last)
        spec, tensors = fetch_tensors(f"python:{name}:net", sha256=None)
        hashes.append((spec.sha256, tensors["0.weight"]))
    assert torch.equal(hashes[0][1], hashes[1][1])
    assert hashes[0][0] != hashes[1][0]


def test_random_weights_are_always_the_same_ones_and_leave_the_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    (_, first), (_, second) = random_tensors("timm:test_resnet"), random_tensors("timm:test_resnet")
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def model(folder: Path, *, in_channels: int = 3) -> dict[str, torch.Tensor]:
    """Write a model as `select` does, and return its backbone's tensors."""
    network = tiny.backbone(in_channels=in_channels, seed=6)
    start = tiny.start(network)
    tensors = {f"backbone.{name}": value.contiguous() for name, value in network.module.state_dict().items()}
    with artifacts.new_folder(folder) as new:
        save_file(tensors | dict(start.tensors), new / "weights.safetensors")
        facts.write(new / "model.json", start.model)
    return dict(network.module.state_dict())


def test_a_model_is_the_start_of_another_and_is_named_as_its_parent(tmp_path: Path) -> None:
    tensors = model(tmp_path / "cars")
    source = f"model:{tmp_path / 'cars'}"
    network = open_backbone(source)
    assert all(torch.equal(value, tensors[name]) for name, value in network.module.state_dict().items())
    parent = network.spec.parent
    assert parent is not None
    assert parent.classes == tiny.CLASSES
    assert parent.data == "fingerprint"
    assert parent.model == artifacts.verify(tmp_path / "cars")
    assert network.spec.sha256 == artifacts.sha256_of(tmp_path / "cars" / "weights.safetensors")
    assert describe(source).input_px == network.spec.input_px


def test_what_is_built_on_an_ensemble_is_built_on_its_first_network_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    final = write_final(tmp_path / "cars", members=3)
    first = load(final).members[0].backbone.module.state_dict()
    network = open_backbone(f"model:{final}")
    assert all(torch.equal(value, first[name]) for name, value in network.module.state_dict().items())
    said = f"model:{final} is the mean of 3 networks; the first of them is what is built on"
    assert capsys.readouterr().out.splitlines() == [said]
    open_backbone(f"model:{write_final(tmp_path / 'one')}")
    assert not capsys.readouterr().out


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@pytest.mark.usefixtures("scratch")
def test_a_model_is_brought_from_where_dvc_has_it_at_a_revision(tmp_path: Path) -> None:
    repository = tmp_path / "cars"
    repository.mkdir()
    tensors = model(repository / "models" / "final")
    git(repository, "init", "--quiet")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for words in (["init", "--quiet"], ["add", "--quiet", "models/final"]):
        subprocess.run(["dvc", *words], cwd=repository, check=True, env=environment)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "cars")
    git(repository, "tag", "v1")
    git(repository, "rm", "--quiet", "--cached", "models/final.dvc")
    git(repository, "commit", "--quiet", "--message", "gone")
    (repository / "models" / "final.dvc").unlink()
    network = open_backbone(f"model:{repository}#models/final@v1")
    assert all(torch.equal(value, tensors[name]) for name, value in network.module.state_dict().items())
    with pytest.raises(BackboneError, match=r"^model:.* could not be brought: .* has no models/nowhere at v1; correct"):
        open_backbone(f"model:{repository}#models/nowhere@v1")


def test_a_model_that_learned_grey_serves_grey_and_refuses_colour(tmp_path: Path) -> None:
    tensors = model(tmp_path / "grey", in_channels=1)
    network = open_backbone(f"model:{tmp_path / 'grey'}", in_channels=1)
    assert all(torch.equal(value, tensors[name]) for name, value in network.module.state_dict().items())
    with pytest.raises(BackboneError, match="was trained on grey images and has no weights for colour; convert"):
        open_backbone(f"model:{tmp_path / 'grey'}")


class Canary:
    """Leaves a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("saved_by", [pickle.dumps, None], ids=["pickle", "torch"])
def test_a_pickle_in_the_place_of_a_parents_weights_is_refused_and_does_not_run(tmp_path: Path, saved_by: Any) -> None:
    start = tiny.start(tiny.backbone())
    with artifacts.new_folder(tmp_path / "cars") as new:
        weights = new / "weights.safetensors"
        bad = {"backbone.conv1": Canary(tmp_path / "canary")}
        weights.write_bytes(saved_by(bad)) if saved_by else torch.save(bad, weights)
        facts.write(new / "model.json", start.model)
    with pytest.raises(BackboneError, match=r"weights.safetensors is not a whole safetensors file"):
        open_backbone(f"model:{tmp_path / 'cars'}")
    assert not (tmp_path / "canary").exists()
    if saved_by:  # and the canary would have sung
        pickle.loads((tmp_path / "cars" / "weights.safetensors").read_bytes())
        assert (tmp_path / "canary").exists()


def test_a_model_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    model(tmp_path / "cars")
    (tmp_path / "cars" / "model.json").write_text("{}")
    with pytest.raises(BackboneError, match=r"is no whole model of Thaw: .*model.json is not what its manifest says"):
        open_backbone(f"model:{tmp_path / 'cars'}")
