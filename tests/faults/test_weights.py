"""Weights that are no weights: refused with one line, and no code in them is run."""

import argparse
import functools
import importlib
import os
import pickle
import runpy
import subprocess
import zipfile
from collections import defaultdict
from collections.abc import Callable
from math import nan
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.unit.test_training_model import write_final
from thaw.errors import BackboneError
from thaw.networks.sources.opening import open_backbone
from thaw.networks.sources.weights import read_tensors
from thaw.pipeline import artifacts
from thaw.training.model import load


class Canary:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return os.mkdir, (str(self.path),)


def refused(path: Path, match: str) -> str:
    with pytest.raises(BackboneError, match=match) as caught:
        read_tensors(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    if "weights_only" in text:  # torch's own advice, to read it with code execution, needs a warning
        assert "if you trust who wrote it" in text
    return text


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.bin", "weights"])
@pytest.mark.parametrize("how", ["torch", "torch, inside", "old torch", "pickle"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, name: str, how: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / name
    if how == "pickle":
        path.write_bytes(pickle.dumps(Canary(canary)))
    else:
        value = {"a": torch.ones(2), "b": Canary(canary)} if how == "torch, inside" else Canary(canary)
        torch.save(value, path, _use_new_zipfile_serialization=how != "old torch")
    text = refused(path, r"would call posix\.mkdir when it is opened, so it was not opened; weights need no such call")
    assert "python -c" not in text  # to convert it would run it
    assert not canary.exists()
    pickled = path.read_bytes()  # and the canary would have sung
    if how == "pickle":
        pickle.loads(pickled)
        assert canary.exists()


class Calls:
    """Calls a function with these arguments where it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


class Builds:
    """As an object of a class: what is called lies in its state."""

    def __init__(self, inside: object) -> None:
        self.inside = inside


def _in_a_namespace(call: Calls) -> object:
    return argparse.Namespace(lr=0.1, path=call)


def _in_an_object(call: Calls) -> object:
    return Builds([Builds(call)])


def _as_a_factory(call: Calls) -> object:
    return {"default": defaultdict(list, {"a": [call]})}


def _in_a_partial(call: Calls) -> object:
    return functools.partial(print, call)


def _among_arrays(call: Calls) -> object:
    return np.array([call, 1], dtype=object)


@pytest.mark.parametrize("place", [_in_a_namespace, _in_an_object, _as_a_factory, _in_a_partial, _among_arrays])
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, lambda canary: (f"touch {canary}",), r"posix\.system"),
        (exec, lambda canary: (f"open('{canary}', 'w')",), r"builtins\.exec"),
        (eval, lambda canary: (f"open('{canary}', 'w')",), r"builtins\.eval"),
        (open, lambda canary: (str(canary), "w"), r"_?io\.open"),
        (subprocess.Popen, lambda canary: (["touch", str(canary)],), r"subprocess\.Popen"),
        (runpy.run_path, lambda canary: (str(canary),), r"runpy\.run_path"),
        (importlib.import_module, lambda _: ("antigravity",), r"importlib\.import_module"),
        (getattr, lambda _: (Builds(None), "inside"), r"builtins\.getattr"),
        (torch.hub.load, lambda canary: (str(canary), "net"), r"torch\.hub\.load"),
        (np.load, lambda canary: (str(canary), None, True), r"numpy\.load"),
        (Path.touch, lambda canary: (canary,), r"pathlib\.Path\.touch|builtins\.getattr"),
    ],
)
def test_what_a_file_would_call_beside_its_weights_is_refused_by_name_and_does_not_run(
    tmp_path: Path,
    function: Callable[..., object],
    arguments: Callable[[Path], tuple[object, ...]],
    name: str,
    place: Callable[[Calls], object],
    is_zip: bool,
) -> None:
    canary, path = tmp_path / "canary", tmp_path / "w.pth"
    value = {"state_dict": {"a": torch.ones(2)}, "args": place(Calls(function, *arguments(canary)))}
    torch.save(value, path, _use_new_zipfile_serialization=is_zip)
    before = torch.serialization.get_safe_globals()
    text = refused(path, f"would call ({name}) when it is opened, so it was not opened; weights need no such call")
    assert "python -c" not in text  # a line that would run it
    assert not canary.exists()
    assert set(torch.serialization.get_safe_globals()) == set(before)


@pytest.mark.parametrize("code", [b"cos\nsystem\n", b"cposix\nsystem\n", b"cnt\nsystem\n", b"c__builtin__\nexec\n"])
@pytest.mark.parametrize("use", [b"(X\x04\x00\x00\x00truetR.", b"q\x00.", b")\x81.", b"}b."])
def test_a_pickle_that_was_written_by_hand_is_refused(tmp_path: Path, code: bytes, use: bytes) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", b"\x80\x02" + code + use)
        archive.writestr("w/version", b"3\n")
        archive.writestr("w/byteorder", b"little")
    refused(path, "would call|cannot be read without running code|does not hold a state dict|is compressed")


def test_a_mapping_that_holds_itself_and_one_without_end_are_read(tmp_path: Path) -> None:
    value: dict[str, object] = {"net": {"a": torch.ones(2)}}
    value["self"] = value
    inner = value
    for _ in range(400):
        inner["more"] = {"self": inner}
        inner = inner["more"]  # type: ignore[assignment]
    torch.save(value, tmp_path / "w.pth")
    assert set(read_tensors(tmp_path / "w.pth")) == {"a"}


def test_a_whole_model_instead_of_its_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    refused(tmp_path / "w.pth", r"holds a whole network, torch\.nn\.modules\.linear\.Linear, in place of weights")


@pytest.mark.parametrize("value", [[torch.ones(2)], torch.ones(2), {"a": 3}, {"a": {}}, "text"])
def test_what_is_not_a_state_dict_is_refused_with_what_to_save(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "w.pth")
    refused(
        tmp_path / "w.pth", r"does not hold a state dict \(names and tensors\); save the model's state_dict\(\) alone"
    )


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html><html><body>Not found</body></html>", b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(9)]
)
def test_a_web_page_or_another_file_under_the_name_of_weights_is_refused(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "bring it again from its source")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_weights_that_are_cut_short_are_refused(tmp_path: Path, name: str, kept: float) -> None:
    path, tensors = tmp_path / name, {"a": torch.randn(500), "b": torch.randn(20, 20)}
    save_file(tensors, path) if name.endswith("safetensors") else torch.save(tensors, path)
    assert set(read_tensors(path)) == {"a", "b"}
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    refused(path, "bring it again from its source")


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,16]}}',
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,999999]}}',
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
        b'{"a":{"dtype":"X9","shape":[4],"data_offsets":[0,16]}}',
        b"[1, 2]",
        b"{",
    ],
)
def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    refused(path, "is not a whole safetensors file")


def test_a_safetensors_header_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    refused(path, "is not a whole safetensors file")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    plain, bomb = tmp_path / "plain.pth", tmp_path / "bomb.pth"
    torch.save({"a": torch.zeros(2_000_000)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert bomb.stat().st_size < 50_000
    refused(bomb, r"is compressed, \d+ bytes that unpack to \d+; files of torch never are, so it was not opened")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for name in ("missing.pth", "missing.safetensors"):
        refused(tmp_path / name, "No such file|bring it again")
    (tmp_path / "folder.pth").mkdir()
    refused(tmp_path / "folder.pth", "is a folder; name the file of weights in it")


def sparse(value: torch.Tensor) -> torch.Tensor:
    return value.to_sparse()


@pytest.mark.parametrize(
    ("tensor", "change", "what", "remedy"),
    [
        (
            "conv1.0.weight",
            lambda value: value.double(),
            "values of type float64 where the network has float32",
            "save them as float32",
        ),
        (
            "conv1.0.weight",
            lambda value: value.char(),
            "values of type int8 where the network has float32",
            "save them as float32",
        ),
        (
            "conv1.0.weight",
            lambda value: value.to(torch.complex64),
            r"complex numbers \(complex64\)",
            "save them as float32",
        ),
        (
            "conv1.0.weight",
            lambda value: value.index_fill(0, torch.tensor(1), float("-inf")),
            "NaN or infinity",
            "bring them again",
        ),
        ("conv1.0.weight", sparse, "no dense values", "save them as dense tensors"),
        ("bn1.running_var", lambda value: value - 1.5, r"a variance below zero \(-0\.5\)", "bring them again"),
        (
            "bn1.num_batches_tracked",
            lambda value: value.float(),
            "values of type float32 where .* has int64",
            "save them as int64",
        ),
    ],
)
def test_a_value_that_no_weight_has_is_refused_with_the_name_of_its_tensor(
    tmp_path: Path, tensor: str, change: Callable[[torch.Tensor], torch.Tensor], what: str, remedy: str
) -> None:
    tensors = dict(tiny.backbone().module.state_dict())
    tensors[tensor] = change(tensors[tensor])
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=f"^the weights of file:w.pth hold {what} in {tensor}; {remedy}"):
        open_backbone(f"file:{tmp_path / 'w.pth'}@timm:test_resnet")


def test_halves_become_floats_without_loss(tmp_path: Path) -> None:
    tensors = tiny.backbone().module.half().state_dict()
    torch.save(tensors, tmp_path / "w.pth")
    opened = open_backbone(f"file:{tmp_path / 'w.pth'}@timm:test_resnet").module.state_dict()
    assert all(torch.equal(value, tensors[name].to(value.dtype)) for name, value in opened.items())
    assert opened["conv1.0.weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("file", "tensor", "value"),
    [("fold-00", "backbone.bn1.running_var", -1.0), ("fold-00", "head.weight", nan), ("fold-01", "head.bias", nan)],
)
def test_a_model_from_elsewhere_is_looked_at_to_its_last_member(
    tmp_path: Path, file: str, tensor: str, value: float
) -> None:
    good = write_final(tmp_path / "good", members=2)
    with artifacts.new_folder(tmp_path / "final") as new:
        for path in good.glob("[!m]*"):
            (new / path.name).write_bytes(path.read_bytes())
        (new / "model.json").write_bytes((good / "model.json").read_bytes())
        tensors = load_file(new / f"{file}.safetensors")
        save_file(tensors | {tensor: torch.full_like(tensors[tensor], value)}, new / f"{file}.safetensors")
    with pytest.raises(BackboneError, match=rf"^the weights hold .* in {tensor}; bring them again"):
        load(tmp_path / "final")
