"""The source `onnx:PATH`: a network that Keras, TensorFlow, MXNet or another framework exported to ONNX."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from thaw.errors import BackboneError, first_line
from thaw.networks.onnx import reading
from thaw.networks.sources.weights import Found
from thaw.networks.spec import IMAGENET_MEAN, IMAGENET_STD, Spec
from thaw.pipeline.bounded import Bounded, Bounds, Lost

# Largest difference to ONNX Runtime that is accepted, as a fraction of the features' largest magnitude.
_TOLERANCE = 1e-3
# What reading and running a network may take: activations of two images, and its weights in several forms.
_LEAST_BYTES, _COPIES, _SECONDS = 2**30, 8, 600

Task = TypeVar("Task")
Result = TypeVar("Result")


def describe(name: str) -> Spec:
    """Return the Spec of the network in a file, with its graph. Raises: BackboneError if it cannot be used."""
    from thaw.networks.onnx.network import packed

    path = Path(name)
    exported = _read(path)
    return Spec(
        library="onnx",
        name=path.name,
        in_channels=3 if exported.channels == 3 else 1,
        input_px=exported.input_px,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        interpolation="bilinear",
        license="unknown",
        url=f"onnx:{path.name}",
        sha256="",
        graph=packed(exported.model),
    )


def fetch(name: str, _: Spec) -> Found:
    """Return the weights in a file, after torch and ONNX Runtime were seen to agree on what the network computes.

    Raises: BackboneError if they do not.
    """
    from thaw.networks.onnx.network import built

    path = Path(name)
    exported = _read(path)
    try:
        network = built(exported.model).eval()
    except ValueError as error:
        raise BackboneError(f"{path} is not a valid network: {error}; export it again") from None
    _compare(network, exported, path)
    return Found(dict(network.state_dict()), reading.sha256_of(path), f"see what changed {path}")


def _read(path: Path) -> reading.Exported:
    """Return what reading.read makes of a file, in a process with limits: a few bytes may spread into any number.

    Raises: BackboneError as that does, and if the process died or its memory did not suffice.
    """
    return _within_bounds(reading.read, path, path)


def _within_bounds(work: Callable[[Task], Result], task: Task, path: Path) -> Result:
    size = path.stat().st_size if path.is_file() else 0
    size += sum(beside.stat().st_size for beside in path.parent.glob("*.data") if beside.is_file())
    bounds = Bounds(memory_bytes=_LEAST_BYTES + _COPIES * size, seconds=_SECONDS)
    with Bounded(work, bounds) as process:
        found = process(task)
    if isinstance(found, Lost):
        raise BackboneError(
            f"{path} cannot be read within {bounds.memory_bytes / 1e6:.0f} million bytes and {_SECONDS} seconds of "
            f"processor time: {found.reason}; export the network without tensors that are computed from constants"
        )
    return found


@torch.inference_mode()
def _compare(network: torch.nn.Module, exported: reading.Exported, path: Path) -> None:
    from thaw.networks.onnx.folding import run

    shape = (2, exported.channels, exported.input_px, exported.input_px)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    try:
        expected = _within_bounds(partial(run, exported.original), images.numpy(), path)
        found = network(images).numpy()
    except BackboneError:
        raise
    except Exception as error:  # noqa: BLE001 - either runtime has errors of its own
        raise BackboneError(
            f"{path} does not run on two images of {exported.input_px} px: {first_line(error)}; export it with a "
            "number of images that is not fixed, in inference mode"
        ) from None
    scale = float(np.abs(expected).max())
    difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("nan")
    if not difference <= _TOLERANCE * max(scale, 1e-6):
        raise BackboneError(
            f"{path} gives features in torch that differ from ONNX Runtime's by {difference:.2g} of {scale:.2g}; "
            "export it in float32, with another opset"
        )
