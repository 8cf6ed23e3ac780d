"""Open a backbone by its source: describe it, bring its weights, check their hash."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thaw.config.messages import KERAS
from thaw.errors import BackboneError
from thaw.networks.backbone import Backbone, assemble
from thaw.networks.build import build
from thaw.networks.sources import download, file, fitting, model, onnx, package, python, timm, torchvision
from thaw.networks.sources.weights import Found
from thaw.networks.spec import Spec
from thaw.pipeline.model_facts import TakenFacts


@dataclass(frozen=True)
class _Kind:
    """How a kind of source is described by its name, and its weights found."""

    describe: Callable[[str], Spec]
    fetch: Callable[[str, Spec], Found]


_KINDS = {
    "package": _Kind(package.describe, package.fetch),
    "timm": _Kind(timm.describe, download.fetch_published),
    "torchvision": _Kind(torchvision.describe, download.fetch_published),
    "file": _Kind(file.describe, file.fetch),
    "onnx": _Kind(onnx.describe, onnx.fetch),
    "python": _Kind(python.describe, python.fetch),
    "model": _Kind(model.describe, model.fetch),
}


def describe(source: str) -> Spec:
    """Return the Spec of a source, without bringing its weights. Raises: BackboneError with the nearest names."""
    kind, name = _split(source)
    return kind.describe(name)


def open_backbone(
    source: str,
    *,
    pretrained: bool = True,
    in_channels: int = 3,
    input_px: int | None = None,
    keep: str | None = None,
    taps: Sequence[str] = (),
    pool: str = "own",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Backbone:
    """Return the backbone of a source such as `package:efficientnet_lite0`, `timm:NAME` or `model:FOLDER`.

    `input_px` is the side of the square that the network sees; None takes what it was pretrained with. `keep` is the
    last block that is kept, `taps` are blocks whose pooled outputs are features as well, `pool` (own, avg, max, both)
    is how the last maps are pooled. `mean` and `std` replace what is subtracted from an image and divides it.

    Raises: BackboneError if the source is unknown, its weights cannot be had, or they do not fit.
    """
    if in_channels < 1:
        raise BackboneError(f"in_channels is {in_channels}; it must be 1 (grey), 3 (colour) or another number of bands")
    spec, tensors = fetch_tensors(source, sha256=None) if pretrained else (describe(source), None)
    spec = spec.with_channels(in_channels).normalised(mean, std).with_input_size(input_px).truncated(keep, taps, pool)
    return assemble(spec, tensors)


def fetch_tensors(source: str, *, sha256: str | None) -> tuple[Spec, dict[str, Tensor]]:
    """Return the Spec and the tensors of `fetch` by name."""
    spec, found = fetch(source, sha256=sha256)
    return spec, found.tensors


def fetch(source: str, *, sha256: str | None, pretrained: bool = True) -> tuple[Spec, Found]:
    """Return the Spec, completed by the hash of the weights, and the weights in the network's own names.

    Without `pretrained` they are random ones.

    Raises: BackboneError if they cannot be had, have another hash than `sha256`, or are not plain tensors.
    """
    if not pretrained:
        spec, tensors = random_tensors(source)
        return spec, Found(tensors, "", "")
    kind, name = _split(source)
    spec = kind.describe(name)
    found = kind.fetch(name, spec)
    if sha256 is not None and found.sha256 != sha256:
        raise BackboneError(
            f"the weights of {source} have SHA-256 {found.sha256}, but backbone.sha256 is {sha256}; "
            f"{found.remedy}, or set backbone.sha256 if you trust these"
        )
    return spec.model_copy(update={"sha256": found.sha256}), found


def taken_by(found: Found, source: str, backbone: Backbone) -> TakenFacts | None:
    """Say in a line what of a file of weights a network took, and return it; None for a source that is no such file."""
    if found.taken is None:
        return None
    changed = fitting.resampled(found.tensors, backbone.module, backbone.spec.input_px)
    taken = found.taken.model_copy(update={"resampled": changed})
    print(file.words(source, taken))
    return taken


def random_tensors(source: str) -> tuple[Spec, dict[str, Tensor]]:
    """Return the Spec of a source with random weights, always the same ones: the control for pretraining."""
    spec = describe(source)
    if spec.library == "onnx":
        raise BackboneError(
            f"backbone.pretrained is false, but {source} does not say how its weights were first drawn; as the "
            "control, take the same architecture from timm or torchvision"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return spec, dict(build(spec).state_dict())


def _split(source: str) -> tuple[_Kind, str]:
    kind, _, name = source.partition(":")
    if kind == "keras":
        raise BackboneError(f"backbone.source is {source!r}; {KERAS}")
    if kind not in _KINDS:
        *some, last = (f"{known}:" for known in _KINDS)
        raise BackboneError(f"backbone.source is {source!r}; it must start with {', '.join(some)} or {last}")
    return _KINDS[kind], name
