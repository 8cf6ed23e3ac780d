"""The source `python:MODULE:CALLABLE`: a network that a function of yours returns.

The callable is imported by name from the folder that the command runs in, and its code is run: use your own only.
"""

from typing import Any

from torch import nn

from thaw.networks.build import build, call_python, source_of
from thaw.networks.sources.weights import Found
from thaw.networks.spec import IMAGENET_MEAN, IMAGENET_STD, Spec
from thaw.pipeline import artifacts

_USUAL_PX = 224


def describe(name: str) -> Spec:
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


def fetch(name: str, spec: Spec) -> Found:
    """Return the weights that a callable's network comes with.

    Their hash is that of all its tensors in order and of the file in which the callable is defined.
    """
    module: nn.Module = build(spec)
    tensors = dict(module.state_dict())
    hashes = {key: artifacts.sha256_of_bytes(value.contiguous().numpy().tobytes()) for key, value in tensors.items()}
    hashes[":code"] = artifacts.sha256_of(source_of(name))
    return Found(tensors, artifacts.digest(hashes), f"see what changed {name}")
