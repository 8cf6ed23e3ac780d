"""Which blocks does a new task pull at? Norms of gradients relative to those of the weights, block by block.

The measure of surgical fine-tuning (Auto-RGN, Lee et al. 2022, arXiv:2210.11466), taken once at the head that a phase
begins with: of a head with large weights it would be mostly noise (decision 0011). It is shown as evidence and decides
nothing.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from thaw.activations.prefix import Views
from thaw.augment.draws import representatives
from thaw.data.packed import LabelledRows
from thaw.networks.backbone import Backbone

IMAGES = 64
_AT_ONCE = 16


def relative_gradients(
    backbone: Backbone,
    views: Views,
    known: LabelledRows,
    head: Mapping[str, Tensor],
    *,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """Return by block the norm of the loss's gradient over that of the weights, at most 64 images being looked at.

    `head` are the tensors of a linear head on the backbone's features. Vectors (norm layers, biases) do not count.
    """
    chosen = representatives(known.labels, IMAGES, seed=seed, purpose="gradients")
    rows, labels = known.rows[chosen], torch.from_numpy(known.labels[chosen])
    network = backbone.module.eval().to(device)
    weights = {name: value.requires_grad_() for name, value in network.named_parameters() if value.ndim > 1}
    weight, bias = (head[f"head.{name}"].float().to(device) for name in ("weight", "bias"))
    for start in range(0, len(rows), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        logits = functional.linear(backbone(views.plain(rows[part]).to(device)), weight, bias)
        loss = functional.cross_entropy(logits, labels[part].to(device), reduction="sum") / len(rows)
        torch.autograd.backward(loss)
    squares = np.zeros((2, len(backbone.blocks)))
    for name, value in weights.items():
        if value.grad is not None:
            block = backbone.block_of(name)
            squares[:, block] += (
                float(value.grad.double().square().sum()),
                float(value.detach().double().square().sum()),
            )
    return {
        name: float(np.sqrt(pulled / held)) if held else 0.0
        for name, pulled, held in zip(backbone.blocks, *squares, strict=True)
    }
