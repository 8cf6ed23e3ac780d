"""Norm layers of the suffix: what they normalise with while the rest trains."""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

NormMode = Literal["frozen", "stats", "train"]

# Every norm of torch that keeps running statistics: 1d, 2d, 3d and synchronised batch norm, and timm's layers made
# of them. Group, layer and instance norms without running statistics are the same in every mode.
_Running = (nn.modules.batchnorm._NormBase,)  # noqa: SLF001 - the one class that all of them derive from


def running_norms(module: nn.Module) -> Iterator[nn.modules.batchnorm._NormBase]:
    """Yield the norm layers that keep running statistics, without those whose scale and shift a rule freezes."""
    return (norm for norm in _with_statistics(module) if not _is_held(norm))


def train_with_norms(module: nn.Module, mode: NormMode) -> None:
    """Put a module into train mode with its norm layers as `mode` says; call it wherever you would call `.train()`.

    `frozen` normalises with the running statistics and keeps them; `stats` normalises with them and updates them;
    `train` normalises with the batch and updates them.
    """
    module.train()
    for norm in _with_statistics(module):
        norm.train(mode == "train" and not _is_held(norm))


def follow_statistics(module: nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
    """Make norm layers in eval mode update their running statistics from what passes through; return the hooks.

    Used for the mode `stats` around training only. The update is BatchNorm's own (Ioffe and Szegedy 2015,
    arXiv:1502.03167, algorithm 2): an exponential average with the layer's momentum, over the unbiased variance.
    """
    return [norm.register_forward_pre_hook(_update) for norm in running_norms(module)]


@torch.no_grad()
def _update(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert isinstance(norm, _Running)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    values = inputs[0].detach().float()
    alone = isinstance(norm, nn.modules.instancenorm._InstanceNorm)  # noqa: SLF001 - base of 1d, 2d and 3d
    dims = [dim for dim in range(values.ndim) if dim > 1 or (dim == 0 and not alone)]
    if math.prod(values.shape[dim] for dim in dims) <= 1:
        return  # one value per channel has no variance
    variance, mean = torch.var_mean(values, dim=dims, correction=1)
    if alone:  # each image has statistics of its own, and their mean is followed
        variance, mean = variance.mean(dim=0), mean.mean(dim=0)
    if norm.num_batches_tracked is not None and not alone:
        norm.num_batches_tracked.add_(1)
    # Without a momentum the layer keeps the plain average over all batches.
    momentum = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked or 1)
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance, momentum)


def _with_statistics(module: nn.Module) -> Iterator[nn.modules.batchnorm._NormBase]:
    for child in module.modules():
        if isinstance(child, _Running) and child.running_mean is not None:
            yield child


def _is_held(norm: nn.Module) -> bool:
    """Whether a rule freezes a norm layer: it has parameters of its own, and none of them trains."""
    own = [parameter.requires_grad for parameter in norm.parameters(recurse=False)]
    return bool(own) and not any(own)
