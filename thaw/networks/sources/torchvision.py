"""The source `torchvision:NAME[/WEIGHTS]`: architectures of torchvision, with their weights on its site."""

from typing import Any

from thaw.errors import BackboneError
from thaw.networks.sources.download import nearest
from thaw.networks.spec import Spec

_HALVES = (0.5, 0.5, 0.5)


def describe(name: str) -> Spec:
    """Return the Spec of `NAME[/WEIGHTS]` in torchvision. Raises: BackboneError with the nearest names."""
    from torchvision import models

    architecture, _, tag = name.partition("/")
    known = models.list_models(module=models)
    if architecture not in known:
        raise BackboneError(f"torchvision has no classification model {architecture!r}{nearest(architecture, known)}")
    weights = models.get_model_weights(architecture)
    if tag and tag not in weights.__members__:
        raise BackboneError(
            f"torchvision has no weights {tag!r} for {architecture}{nearest(tag, list(weights.__members__))}"
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
