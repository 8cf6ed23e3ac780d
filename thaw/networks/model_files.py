"""The files of trained tensors: what float16 holds without loss takes half the bytes there, and is read as float32.

A model's folder has frozen.safetensors, the backbone's tensors that no phase trained, and beside it the file of the
chosen phase, or of each of its folds, byte for byte: DVC then stores and pushes that file once.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from thaw.errors import ArtifactError, first_line
from thaw.pipeline import artifacts

FROZEN, WEIGHTS, FOLDS = "frozen.safetensors", "weights.safetensors", "fold-*.safetensors"


def save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors on the processor; those of float32 that float16 holds exactly are written as such."""
    save_file({name: _halved(value).contiguous() for name, value in tensors.items()}, path)


def load(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, those of float16 as float32. Raises: ArtifactError if it holds something else."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} is not a whole safetensors file ({first_line(error)}); bring its folder again from its source"
        ) from None
    return {name: value.float() if value.dtype == torch.float16 else value for name, value in tensors.items()}


def load_folds(folder: Path) -> list[dict[str, Tensor]]:
    """Return what was trained in each of several folds, in their order; nothing where there is one."""
    return [load(path) for path in sorted(folder.glob(FOLDS))]


def load_networks(folder: Path) -> list[dict[str, Tensor]]:
    """Return the tensors of each network of a model, from a folder that was verified.

    The first has all of its own; the others have what they trained in place of it. An older model has one file.
    """
    frozen = load(folder / FROZEN) if (folder / FROZEN).exists() else {}
    first, *others = load_folds(folder) or [load(folder / WEIGHTS)]
    return [frozen | first, *others]


def digest(folder: Path) -> str:
    """Return the SHA-256 of a model's tensors: of its one file, or of the names and hashes of its files."""
    hashes = {path.name: artifacts.sha256_of(path) for path in folder.glob("*.safetensors")}
    return hashes[WEIGHTS] if [*hashes] == [WEIGHTS] else artifacts.digest(hashes)


@torch.no_grad()
def round_matrices(module: nn.Module) -> None:
    """Round every matrix and kernel that trains to float16 in place, but one with a value beyond it.

    A vector (norm, bias) has few bytes, and a running variance may be small.
    """
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.ndim > 1:
            rounded = parameter.half().to(parameter.dtype)
            if bool(torch.isfinite(rounded).all()):
                parameter.copy_(rounded)


def _halved(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.half()
    return half if torch.equal(half.float(), tensor) else tensor
