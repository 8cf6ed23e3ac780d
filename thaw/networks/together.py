"""Several classifiers behind one frozen prefix, as one network: what is the same in all of them is run once."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from thaw.networks.backbone import Backbone
from thaw.networks.cut import UncutPrefix


class Member(NamedTuple):
    """One network with its output layers."""

    backbone: Backbone
    head: nn.Module


class Together(nn.Module):
    """Classifiers whose blocks below `index` are the same: those are run once, and so is a backbone that some share."""

    def __init__(self, members: Sequence[Member], index: int) -> None:
        super().__init__()
        backbones = {id(member.backbone): member.backbone for member in members}
        first, *others = backbones.values()
        if others:
            halves = [backbone.split(len(backbone.units) - index) for backbone in backbones.values()]
        else:  # nothing to share, and so nothing to trace
            halves = [(UncutPrefix(first.module, everything=False), first.network)]
        self.prefix = halves[0][0]
        self.suffixes = nn.ModuleList(suffix for _, suffix in halves)
        self.heads = nn.ModuleList(member.head for member in members)
        order = [*backbones]
        self.suffix_of = [order.index(id(member.backbone)) for member in members]
        """The suffix whose features each head reads."""
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the logits [images, classes] of each classifier."""
        boundary = self.prefix(images)
        features = [suffix(*boundary) for suffix in self.suffixes]
        return tuple(head(features[place]) for head, place in zip(self.heads, self.suffix_of, strict=True))

    def branches(self) -> list["Branch"]:
        """Return each backbone as one network from images to features, sharing this one's layers."""
        return [Branch(self.prefix, suffix) for suffix in self.suffixes]

    def cost(self, images: Tensor) -> float:
        """Return the multiplications of an answer of all classifiers, as a multiple of those of the first alone.

        `images` [images, channels, height, width] are run through, to count them.
        """
        alone = _multiplications(self.branches()[0], images)
        return _multiplications(self, images) / alone if alone else 1.0


class Branch(nn.Module):
    """A prefix and one of the suffixes behind it."""

    def __init__(self, prefix: nn.Module, suffix: nn.Module) -> None:
        super().__init__()
        self.prefix = prefix
        self.suffix = suffix

    def forward(self, images: Tensor) -> Tensor:
        """Return the features [images, features] of images."""
        features: Tensor = self.suffix(*self.prefix(images))
        return features


def _multiplications(network: nn.Module, images: Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    return int(counter.get_total_flops())
