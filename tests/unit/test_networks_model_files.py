"""What a file of trained tensors holds, and what comes back from it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from thaw.errors import ArtifactError
from thaw.networks import model_files


def test_what_float16_holds_is_stored_so_and_every_tensor_comes_back_as_it_was(tmp_path: Path) -> None:
    exact, count = torch.tensor([[0.5, -1.25], [2.0, 0.0]]), torch.tensor(3)
    tensors = {"exact": exact, "fine": exact / 3, "large": exact * 1e6, "count": count}
    model_files.save(tensors, tmp_path / "weights.safetensors")
    stored, found = load_file(tmp_path / "weights.safetensors"), model_files.load(tmp_path / "weights.safetensors")
    assert {name: value.dtype for name, value in stored.items()} == {
        "exact": torch.float16, "fine": torch.float32, "large": torch.float32, "count": torch.int64
    }  # fmt: skip
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in tensors.items())


def test_only_matrices_that_train_are_rounded_and_none_with_a_value_beyond_float16() -> None:
    layers = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    layers[1].requires_grad_(False)
    layers[2].get_parameter("weight").data[0, 0] = 1e6
    before = {name: value.clone() for name, value in layers.state_dict().items()}
    model_files.round_matrices(layers)
    changed = [name for name, value in layers.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["0.weight"]
    assert torch.equal(layers[0].get_parameter("weight"), before["0.weight"].half().float())


@pytest.mark.parametrize("folds", [1, 3])
def test_a_model_is_read_from_its_files_and_from_the_one_file_of_an_older_one(tmp_path: Path, folds: int) -> None:
    frozen, trained = {"backbone.a": torch.rand(3)}, [{"head.b": torch.rand(2)} for _ in range(folds)]
    save_file(frozen, tmp_path / "frozen.safetensors")
    names = ["weights"] if folds == 1 else [f"fold-{number:02d}" for number in range(folds)]
    for name, tensors in zip(names, trained, strict=True):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    first, *others = model_files.load_networks(tmp_path)
    assert {*first} == {"backbone.a", "head.b"}
    assert torch.equal(first["head.b"], trained[0]["head.b"])
    assert [{*other} for other in others] == [{"head.b"}] * (folds - 1)
    (older := tmp_path / "older").mkdir()
    save_file(frozen | trained[0], older / "weights.safetensors")
    (found,) = model_files.load_networks(older)
    assert {*found} == {*first}
    assert len({model_files.digest(tmp_path), model_files.digest(older)}) == 2


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"x" * 300])
def test_a_file_that_holds_no_tensors_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"weights\.safetensors is not a whole safetensors file \(.*\); bring its"):
        model_files.load_networks(tmp_path)
