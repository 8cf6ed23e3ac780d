"""The source `onnx:PATH`: a network that Keras, TensorFlow, MXNet or another framework exported to ONNX."""

from pathlib import Path

import numpy as np
import torch

from thaw.errors import BackboneError, first_line
from thaw.networks.onnx import reading
from thaw.networks.sources.weights import Found
from thaw.networks.spec import IMAGENET_MEAN, IMAGENET_STD, Spec

# Largest difference to ONNX Runtime that is accepted, as a fraction of the features' largest magnitude.
_TOLERANCE = 1e-3


def describe(name: str) -> Spec:
    """Return the Spec of the network in a file, with its graph. Raises: BackboneError if it cannot be used."""
    from thaw.networks.onnx.network import packed

    path = Path(name)
    exported = reading.read(path)
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
    from thaw.networks.onnx.network import OnnxNetwork

    path = Path(name)
    exported = reading.read(path)
    network = OnnxNetwork(exported.model).eval()
    _compare(network, exported, path)
    return Found(dict(network.state_dict()), reading.sha256_of(path), f"see what changed {path}")


@torch.inference_mode()
def _compare(network: torch.nn.Module, exported: reading.Exported, path: Path) -> None:
    from thaw.networks.onnx.folding import run

    shape = (2, exported.channels, exported.input_px, exported.input_px)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    try:
        expected = run(exported.original, images.numpy())
        found = network(images).numpy()
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
