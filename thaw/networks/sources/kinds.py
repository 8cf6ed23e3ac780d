"""What a file of weights is, by its first bytes, and what to do with one that is none of torch's or safetensors'."""

import json
import tarfile
import zipfile
from pathlib import Path
from shlex import quote

from thaw.errors import BackboneError
from thaw.networks.sources.pickled import LEGACY, check_names, command, conversion, names_in

_AGAIN = "bring it again from its source"
_ONNX = "export the network to ONNX, and name that file: onnx:PATH (docs/guide/backbones.md has the commands)"
_STARTS = {
    b"\x89HDF": f"is a file of HDF5, as Keras writes it; {_ONNX}",
    b"version https://git-lfs": "is a pointer that git LFS left in place of the file; run `git lfs pull`",
    b"\x1f\x8b": "is compressed by gzip; unpack it with gunzip, and name what it holds",
    b"BZh": "is compressed by bzip2; unpack it with bunzip2, and name what it holds",
    b"\xfd7zXZ": "is compressed by xz; unpack it with unxz, and name what it holds",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; unpack it with unzstd, and name what it holds",
}
"""First bytes of files that hold weights in another way, or none, and the way out."""


def is_safetensors(path: Path) -> bool:
    """Tell whether a file is one of torch or of safetensors. Raises: BackboneError with the way out for all others."""
    if path.is_dir():
        raise _refused(path, _of_folder(path))
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise _refused(path, f"cannot be read ({error.strerror}); {_AGAIN}") from None
    if not start:
        raise _refused(path, f"is empty; {_AGAIN}")
    for known, what in _STARTS.items():
        if start.startswith(known):
            raise _refused(path, what)
    if path.suffix == ".onnx":
        raise _refused(path, f"is a network in ONNX; set backbone.source to onnx:{path}")
    if zipfile.is_zipfile(path):
        _check_zip(path)
        return False
    if start[8:9] == b"{" or (path.suffix == ".safetensors" and not start.startswith(b"\x80")):
        return True
    if not start.startswith(LEGACY):
        _check_other(path, start)
    return False


def _check_zip(path: Path) -> None:
    """Refuse a zip that torch.save did not write, or that unpacks to more than it is: only a bomb is compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _refused(path, f"is not a whole file of torch ({error}); {_AGAIN}") from None
    if what := _of_zip(path, names):
        raise _refused(path, what)
    size = path.stat().st_size
    if unpacked > size:
        raise _refused(
            path,
            f"is compressed, {size} bytes that unpack to {unpacked}; files of torch never are, so it was not opened; "
            f"{_AGAIN}",
        )


def _of_zip(path: Path, names: list[str]) -> str:
    """Return what a zip with files of these names is, and the way out; nothing for one that torch.save wrote."""
    shown = json.dumps(str(path))
    if any(name.endswith(".npy") for name in names):
        make = f'import timm, torch; m = timm.create_model("ARCHITECTURE"); m.load_pretrained({shown})'
        line = command(path, "m.state_dict()", before=make)
        return f"is an archive of numpy, as JAX writes it, with names of its own; where timm reads these: {line}"
    if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
        line = command(path, f'torch.jit.load({shown}, map_location="cpu").state_dict()')
        return f"is a network of torch.jit, code and weights; write its weights alone, where it may run: {line}"
    if any(name.endswith("weights.h5") for name in names):
        return f"is a network of Keras; {_ONNX}"
    if not any(name.endswith("data.pkl") for name in names):
        return "is a zip that torch.save did not write; unpack it, and name the file of weights in it"
    return ""


def _check_other(path: Path, start: bytes) -> None:
    """Refuse tars, pickles that torch.save did not write, and what is no file of weights at all."""
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            is_old = {"storages", "tensors", "pickle"} <= set(archive.getnames())
        if is_old:
            raise _refused(path, f"is a tar, which torch wrote before 0.4; {conversion(path)}")
        raise _refused(path, "is a tar; unpack it, and name the file of weights in it")
    if not start.startswith(b"\x80") and start[:1] not in b"()]}c":  # pickles that begin otherwise are older still
        raise _refused(path, f"is no file of torch or safetensors: it begins with {start[:8]!r}; {_AGAIN}")
    check_names(path, names_in(path)[0].values())
    line = command(path, f'pickle.load(open({json.dumps(str(path))}, "rb"))', before="import pickle, torch")
    raise _refused(
        path, f"is a pickle that torch.save did not write; if you trust who wrote it, this runs its code: {line}"
    )


def _of_folder(path: Path) -> str:
    if any(path.glob("*.distcp")):
        files = f"{quote(str(path))} {quote(f'{path}.pth')}"
        line = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {files}"
        return f"is a distributed checkpoint; make one file of it: {line}"
    return "is a folder; name the file of weights in it"


def _refused(path: Path, what: str) -> BackboneError:
    return BackboneError(f"{path} {what}")
