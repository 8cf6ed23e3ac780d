"""The source `file:PATH@ARCHITECTURE`: a file of weights for an architecture of timm or torchvision."""

import re
from pathlib import Path

from thaw.errors import BackboneError
from thaw.networks.build import build
from thaw.networks.sources import timm, torchvision
from thaw.networks.sources.weights import Found, read_tensors, unwrapped
from thaw.networks.spec import Spec
from thaw.pipeline import artifacts


def describe(name: str) -> Spec:
    """Return the Spec of `PATH@ARCHITECTURE`, where the architecture is `timm:NAME` or `torchvision:NAME`."""
    path, library, architecture = _parts(name)
    spec = timm.describe(architecture) if library == "timm" else torchvision.describe(architecture)
    return spec.model_copy(update={"license": "unknown", "url": f"file:{path.name}"})


def fetch(name: str, spec: Spec) -> Found:
    """Return the weights in a file, with what trainers put before the names taken off. Raises: BackboneError."""
    path, _, _ = _parts(name)
    if not path.is_file():
        raise BackboneError(f"backbone.source names the file {path}, which does not exist; correct the path")
    named = unwrapped(read_tensors(path), build(spec).state_dict().keys())
    return Found(named, artifacts.sha256_of(path), f"see what changed {path}")


def _parts(name: str) -> tuple[Path, str, str]:
    match = re.fullmatch(r"(.+)@(timm|torchvision):(.+)", name)
    if match is None:
        raise BackboneError(
            f"backbone.source is 'file:{name}'; say whose weights these are: file:PATH@timm:NAME or "
            "file:PATH@torchvision:NAME"
        )
    return Path(match[1]), match[2], match[3]
