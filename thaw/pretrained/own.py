"""Networks that people bring themselves: a file of weights for a known architecture, or a Python callable.

The callable is imported by name from the folder that the command runs in, and its code is run: use your own only.
"""

import re
from pathlib import Path
from typing import Any

from torch import nn

from thaw import files
from thaw.errors import BackboneError
from thaw.network.build import build, call_python, source_of
from thaw.network.spec import IMAGENET_MEAN, IMAGENET_STD, Spec
from thaw.pretrained import libraries
from thaw.pretrained.weights import Found, read_tensors, unwrapped

_USUAL_PX = 224


def describe_file(name: str) -> Spec:
    """Return the Spec of `PATH@ARCHITECTURE`, where the architecture is `timm:NAME` or `torchvision:NAME`."""
    path, library, architecture = _parts(name)
    spec = libraries.describe_timm(architecture) if library == "timm" else libraries.describe_torchvision(architecture)
    return spec.model_copy(update={"license": "unknown", "url": f"file:{path.name}"})


def fetch_file(name: str, spec: Spec) -> Found:
    """Return the weights in a file, with what trainers put before the names taken off. Raises: BackboneError."""
    path, _, _ = _parts(name)
    if not path.is_file():
        raise BackboneError(f"backbone.source names the file {path}, which does not exist; correct the path")
    named = unwrapped(read_tensors(path), build(spec).state_dict().keys())
    return Found(named, files.sha256_of(path), f"see what changed {path}")


def describe_python(name: str) -> Spec:
    """Return the Spec of `MODULE:CALLABLE`: what its `default_cfg` says, as timm's networks have it, or ImageNet's.

    Raises: BackboneError if it cannot be called.
    """
    config: Any = getattr(call_python(name), "default_cfg", None)
    config = config if isinstance(config, dict) else {}
    channels = config.get("input_size", (3,))[0]
    return Spec(
        library="python",
        name=name,
        in_channels=channels,
        input_px=config.get("input_size", (3, _USUAL_PX, _USUAL_PX))[-1],
        mean=tuple(config.get("mean", IMAGENET_MEAN)),
        std=tuple(config.get("std", IMAGENET_STD)),
        interpolation=config.get("interpolation", "bilinear"),
        license=config.get("license") or "unknown",
        url=f"python:{name}",
        sha256="",
    )


def fetch_python(name: str, spec: Spec) -> Found:
    """Return the weights that a callable's network comes with.

    Their hash is that of all its tensors in order and of the file in which the callable is defined.
    """
    module: nn.Module = build(spec)
    tensors = dict(module.state_dict())
    hashes = {key: files.sha256_of_bytes(value.contiguous().numpy().tobytes()) for key, value in tensors.items()}
    hashes[":code"] = files.sha256_of(source_of(name))
    return Found(tensors, files.digest(hashes), f"see what changed {name}")


def _parts(name: str) -> tuple[Path, str, str]:
    match = re.fullmatch(r"(.+)@(timm|torchvision):(.+)", name)
    if match is None:
        raise BackboneError(
            f"backbone.source is 'file:{name}'; say whose weights these are: file:PATH@timm:NAME or "
            "file:PATH@torchvision:NAME"
        )
    return Path(match[1]), match[2], match[3]
