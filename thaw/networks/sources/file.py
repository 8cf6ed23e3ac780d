"""The source `file:PATH[#KEY]@ARCHITECTURE`: a file of weights for an architecture of timm or torchvision."""

import re
from functools import partial
from pathlib import Path

from thaw.errors import BackboneError
from thaw.names import on_one_line
from thaw.networks.build import build
from thaw.networks.sources import fitting, timm, torchvision
from thaw.networks.sources.weights import Found, read
from thaw.networks.spec import Spec
from thaw.pipeline import artifacts
from thaw.pipeline.model_facts import TakenFacts


def describe(name: str) -> Spec:
    """Return the Spec of `PATH[#KEY]@ARCHITECTURE`, where the architecture is `timm:NAME` or `torchvision:NAME`."""
    path, key, library, architecture = _parts(name)
    spec = timm.describe(architecture) if library == "timm" else torchvision.describe(architecture)
    return spec.model_copy(update={"license": "unknown", "url": f"file:{path.name}" + (f"#{key}" if key else "")})


def fetch(name: str, spec: Spec) -> Found:
    """Return the weights in a file by the network's own names, and what else it holds. Raises: BackboneError."""
    path, key, _, _ = _parts(name)
    if not path.exists():
        raise BackboneError(f"backbone.source names the file {path}, which does not exist; correct the path")
    tensors, taken = fitting.take(read(path), build(spec), key, partial(_with_key, name))
    return Found(tensors, artifacts.sha256_of(path), f"see what changed {path}", taken)


def words(source: str, taken: TakenFacts) -> str:
    """Return the line that says what of a file was used for a source, and what was not."""
    return f"{source}: {fitting.words(taken, partial(_with_key, source.removeprefix('file:')))}"


def _with_key(name: str, key: str) -> str:
    path, _, library, architecture = _parts(name)
    return on_one_line(f"file:{path}#{key}@{library}:{architecture}")


def _parts(name: str) -> tuple[Path, str | None, str, str]:
    """Return the path, the key if there is one, the library and the architecture that a source names."""
    match = re.fullmatch(r"(.+)@(timm|torchvision):(.+)", name)
    if match is None:
        raise BackboneError(
            f"backbone.source is 'file:{name}'; say whose weights these are: file:PATH@timm:NAME or "
            "file:PATH@torchvision:NAME"
        )
    path, hash_mark, key = match[1].partition("#")
    if hash_mark and not Path(match[1]).exists():
        return Path(path), key, match[2], match[3]
    return Path(match[1]), None, match[2], match[3]
