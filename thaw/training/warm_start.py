"""Make a phase start where its head fits: norm statistics of the new images, and a head solved on what they give.

With norm layers in train mode the suffix normalises by the batch, while the head was solved on features normalised by
the statistics of the pretraining images. Unless both are brought together first, the first epoch is spent on repairing
the damage (docs/decisions/0008-warm-start-before-the-first-step.md).
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw.head.examples import FeatureSet
from thaw.head.linear import fit_linear, linear_module
from thaw.training.norms import running_norms

# Weight of the mean loss against half the squared norm of the weights, in the head that training starts from. The head
# that is best on validation has weights so large that small steps of the suffix upset it
# (docs/decisions/0011-a-phase-starts-from-a-strongly-regularised-head.md).
STRONG = 1.7


@torch.no_grad()
def estimate_statistics(suffix: nn.Module, batches: Iterator[list[Tensor]]) -> None:
    """Replace the running statistics of norm layers by their averages over batches of boundary tensors.

    Adaptive batch normalisation, Li et al. 2016 (arXiv:1603.04779): the weights stay, the statistics are the target
    domain's. Every batch counts alike, so let them be of one size. Leaves the suffix in eval mode.
    """
    norms = list(running_norms(suffix))
    momenta = [norm.momentum for norm in norms]
    suffix.eval()  # dropout would add noise
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # torch then keeps the plain average of all batches
    for batch in batches:
        suffix(*batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    suffix.eval()


@torch.inference_mode()
def pooled(suffix: nn.Module, batches: Iterator[list[Tensor]]) -> NDArray[np.float32]:
    """Return the features [images, features] that a suffix in eval mode makes of batches of boundary tensors."""
    suffix.eval()
    return np.concatenate([suffix(*batch).float().cpu().numpy() for batch in batches])


def solve_head(head: nn.Linear, train: FeatureSet) -> None:
    """Give a linear head the weights of a strongly regularised fit on these features."""
    strength = STRONG / len(train.labels)  # scikit-learn's C weighs the loss of each image
    fit = linear_module(fit_linear(train, head.out_features, strengths=(strength,)))
    head.load_state_dict(fit.state_dict())
