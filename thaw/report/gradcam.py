"""Where an answer comes from: Grad-CAM on the last feature map of a network.

Selvaraju et al. 2017, Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization,
arXiv:1610.02391, equations 1 and 2.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw.networks.backbone import Backbone
from thaw.networks.taps import is_nhwc
from thaw.networks.together import Member

_BATCH = 8


def grad_cam(members: Sequence[Member], images: Tensor, classes: Sequence[int]) -> NDArray[np.float32] | None:
    """Return how much each place speaks for a class of each image, [images, rows, columns], 0 to 1.

    `images` [images, channels, height, width] are what the network takes, `classes` [images] the indices asked about.
    Each map is divided by its maximum; one where nothing speaks for the class is 0. The map is the output of the last
    block whose places the answer depends on. Tokens are laid back on their grid; where a transformer answers by a
    class token alone, its last block passes nothing on from the others, so the block before it is taken.
    Of several networks, whose mean logits are asked about, the maps of all are one with the channels of all.
    None for a network without such a map.
    """
    maps = [
        _batch(members, images[start : start + _BATCH], classes[start : start + _BATCH])
        for start in range(0, len(images), _BATCH)
    ]
    known = [part for part in maps if part is not None]
    return np.concatenate(known) if known and len(known) == len(maps) else None


def _batch(members: Sequence[Member], images: Tensor, classes: Sequence[int]) -> NDArray[np.float32] | None:
    passes = [_outputs(member, images, classes) for member in members]
    network = members[0].backbone.module
    for of_all in zip(*passes, strict=True):  # the same layer of each, last layer first
        weighted = [part for value, gradient in of_all if (part := _weighted(value, gradient, network)) is not None]
        if weighted:
            return _scaled(torch.stack(weighted).sum(0))
    return None


def _outputs(member: Member, images: Tensor, classes: Sequence[int]) -> list[tuple[Tensor, Tensor | None]]:
    """Return the output of each layer that may be the map, the last one first, with the gradient of the logit asked."""
    backbone, seen = member.backbone, list[Tensor]()

    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim in {3, 4} and len(output) == len(images):
            seen.append(output)

    backbone.module.eval()
    hooks = [module.register_forward_hook(keep) for module in _watched(backbone)]
    try:
        with torch.enable_grad():
            logits = member.head(backbone(images.detach().requires_grad_()))
            asked = logits[torch.arange(len(images)), torch.as_tensor(classes)].sum()
            gradients = torch.autograd.grad(asked, seen, allow_unused=True) if seen else ()
    finally:
        for hook in hooks:
            hook.remove()
    return [(value.detach(), gradient) for value, gradient in zip(reversed(seen), reversed(gradients), strict=True)]


def _watched(backbone: Backbone) -> list[nn.Module]:
    """Return the modules whose outputs may be the map: those of the blocks, and where a graph runs, their layers."""
    blocks = [backbone.module.get_submodule(path) for unit in backbone.units for path in unit.paths]
    if backbone.network is backbone.module:
        return blocks
    return list(dict.fromkeys(layer for block in blocks for layer in block.modules()))


def _places(value: Tensor, network: nn.Module) -> Tensor | None:
    """Return a block's output as [images, channels, rows, columns], None if it has no places to tell apart."""
    tokens = getattr(network, "num_prefix_tokens", None)
    if value.ndim == 4 and tokens is None:
        value = value.permute(0, 3, 1, 2) if is_nhwc(network) else value
    elif value.ndim == 3:
        side = math.isqrt(value.shape[1])
        skipped = value.shape[1] - side**2 if tokens is None else int(tokens)
        side = math.isqrt(value.shape[1] - skipped)
        if side**2 != value.shape[1] - skipped:
            return None
        value = value[:, skipped:].transpose(1, 2).reshape(len(value), -1, side, side)
    else:
        return None
    return value if value.shape[2] * value.shape[3] > 1 else None


def _weighted(value: Tensor, gradient: Tensor | None, network: nn.Module) -> Tensor | None:
    """Return the sum of a layer's channels [images, rows, columns], each by its weight; None if nothing depends on it.

    Without places to tell apart, or where the answer depends on none of them, it is None as well.
    """
    if gradient is None:
        return None
    places, slopes = (_places(part, network) for part in (value, gradient))
    if places is None or slopes is None or not bool(slopes.any()):
        return None
    return (slopes.mean((2, 3), keepdim=True) * places).sum(1)


def _scaled(maps: Tensor) -> NDArray[np.float32]:
    maps = maps.clamp(min=0)
    largest = maps.amax((1, 2), keepdim=True)
    scaled: NDArray[np.float32] = torch.where(largest > 0, maps / largest, torch.zeros_like(maps)).float().numpy()
    return scaled
