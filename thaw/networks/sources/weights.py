"""Read a file of weights without executing anything in it, under the names that the network knows."""

import pickle
import warnings
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from thaw.errors import BackboneError, first_line

_MEND = "bring it again from its source"
# What trainers and wrappers put before every name of the network that they hold.
_WRAPPERS = ("module.", "model.", "backbone.", "encoder.", "network.", "net.", "_orig_mod.")


@dataclass(frozen=True)
class Found:
    """Weights as they were found: by the network's own names, with the SHA-256 of what held them."""

    tensors: dict[str, Tensor]
    sha256: str
    remedy: str
    """What to do if the hash is not the one that was expected, beside trusting these."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file or of a state dict saved by torch; no code in it is ever run.

    Raises: BackboneError if the file is anything else.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise BackboneError(f"{path} is not a whole safetensors file ({first_line(error)}); {_MEND}") from None
    _check_unpacked_size(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's own text advises to read the file with code execution switched on
        raise BackboneError(f"{path} holds something other than plain tensors, so it was not opened; {_MEND}") from None
    except Exception as error:  # noqa: BLE001 - a damaged pickle leads its reader into any of Python's errors
        raise BackboneError(f"{path} cannot be read as plain tensors: {first_line(error)}; {_MEND}") from None
    if isinstance(value, Mapping):
        for key in ("state_dict", "model"):
            value = value[key] if isinstance(value.get(key), Mapping) else value
    if not isinstance(value, Mapping) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise BackboneError(
            f"{path} does not hold a state dict (names and tensors); save the model's state_dict() alone"
        )
    return {str(name): tensor for name, tensor in value.items()}


def _check_unpacked_size(path: Path) -> None:
    """Refuse a zip that unpacks to more than it is: torch stores tensors as they are, only a bomb is compressed."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile as error:
        raise BackboneError(f"{path} is not a whole file of torch ({error}); {_MEND}") from None
    if unpacked > path.stat().st_size:
        raise BackboneError(
            f"{path} is compressed, {path.stat().st_size} bytes that unpack to {unpacked}; files of torch never are, "
            f"so it was not opened; {_MEND}"
        )


def unwrapped(tensors: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """Return tensors under the names that a network wants, without what trainers put before them.

    A name that leads to none of the network's stays as it is.
    """
    return {_own_name(name, wanted): value for name, value in tensors.items()}


def _own_name(name: str, wanted: Collection[str]) -> str:
    shorter = name
    while shorter not in wanted:
        prefix = next((wrapper for wrapper in _WRAPPERS if shorter.startswith(wrapper)), None)
        if prefix is None:
            return name
        shorter = shorter.removeprefix(prefix)
    return shorter
