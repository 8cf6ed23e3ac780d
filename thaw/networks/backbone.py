"""A backbone: a pretrained network without its output layer, its blocks, and the two halves of a cut."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from thaw.config.schema import share_of_blocks
from thaw.errors import BackboneError, first_line
from thaw.networks.blocks import Block, list_blocks
from thaw.networks.build import build, load_tensors
from thaw.networks.cut import CutPrefix, UncutPrefix, UncutSuffix, UntraceableError, cut, probe
from thaw.networks.spec import Spec
from thaw.pipeline import artifacts, facts
from thaw.pipeline.model_facts import BackboneFacts

Depth = int | str


@dataclass(frozen=True)
class Backbone:
    """A network that maps images [images, channels, height, width] to features [images, features]."""

    module: nn.Module
    spec: Spec
    fingerprint: str = ""
    """SHA-256 of the manifest of the folder that it was loaded from, if it was."""

    @cached_property
    def units(self) -> list[Block]:
        """The blocks with the module paths that belong to each, input first."""
        return list_blocks(self.module)

    @property
    def blocks(self) -> list[str]:
        """The blocks' names, input first."""
        return [block.name for block in self.units]

    @cached_property
    def num_features(self) -> int:
        """Length of the feature vector of one image."""
        try:
            with torch.inference_mode():
                return int(self(self.example(1)).shape[1])
        except (AssertionError, RuntimeError, ValueError) as error:  # what networks of a fixed input size raise
            raise BackboneError(
                f"{self.spec.name} cannot take images of {self.spec.input_px} px: {first_line(error)}; "
                "set backbone.input_px to null, or to a size that it can take"
            ) from None

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features [images, features] of images, those of its taps included, pooled as its spec says."""
        features: Tensor = self.network(images)
        return features

    @cached_property
    def network(self) -> nn.Module:
        """What maps images to features: the module itself, or its graph where taps or another pooling change it."""
        changed = bool(self.spec.taps) or self.spec.pool != "own"
        return self.split("all")[1] if changed else self.module

    def example(self, num_images: int) -> Tensor:
        """Return zeros of the shape that the network takes."""
        side = self.spec.input_px
        return torch.zeros(num_images, self.spec.in_channels, side, side).to(memory_format=torch.channels_last)

    def cut_index(self, depth: Depth) -> int:
        """Return how many blocks stay frozen at a depth: a number, a share such as `1/3`, `all`, or a block's name.

        A share is rounded half up to whole blocks, and is at least one. Raises: BackboneError if the depth is beyond
        the input or names no block.
        """
        if depth == "all":
            return 0
        if (share := share_of_blocks(depth)) is not None:
            return len(self.blocks) - max(1, math.floor(share * len(self.blocks) + Fraction(1, 2)))
        if isinstance(depth, str):
            if depth not in self.blocks:
                raise BackboneError(f"depth {depth!r} is no block of {self.spec.name}; it has {', '.join(self.blocks)}")
            return self.blocks.index(depth)
        if not 0 <= depth <= len(self.blocks):
            raise BackboneError(
                f"depth is {depth}; {self.spec.name} has {len(self.blocks)} blocks: "
                f"give 0 to {len(self.blocks)}, or all"
            )
        return len(self.blocks) - depth

    def split(self, depth: Depth) -> tuple[nn.Module, nn.Module]:
        """Return (prefix, suffix) with `suffix(*prefix(images))` equal to the whole network's features.

        `depth` blocks nearest the head form the suffix. Both share this network's tensors and their names. A network
        that cannot be traced is not cut: all of it is the suffix, lower blocks held still, or at depth 0 the prefix.
        Raises: BackboneError if there is no such depth, the network cannot be cut there, or taps or another pooling
        want it traced or are not to be had.
        """
        index = self.cut_index(depth)
        taps, pool = [self.blocks.index(name) for name in self._tap_names()], self.spec.pool
        random = torch.Generator().manual_seed(0)
        images = torch.rand(self.example(2).shape, generator=random)
        try:
            prefix, suffix = cut(self.module, self.units, index, images, taps=taps, pool=pool)
            probe(prefix, self.example(2), everywhere=self.spec.library == "onnx")
        except UntraceableError:
            if taps or pool != "own":
                raise
            return self._uncut(index)
        if isinstance(prefix, CutPrefix) and prefix.origin is not None:
            prefix.origin = replace(prefix.origin, spec=self.spec.model_dump_json())
        return prefix, suffix

    def _uncut(self, index: int) -> tuple[nn.Module, nn.Module]:
        if index == len(self.units):
            return UncutPrefix(self.module, everything=True), nn.Identity()
        frozen = [path for block in self.units[:index] for path in block.paths]
        return UncutPrefix(self.module, everything=False), UncutSuffix(self.module, frozen)

    def _tap_names(self) -> list[str]:
        names = self.blocks if self.spec.taps == ("all",) else list(self.spec.taps)
        if unknown := [name for name in names if name not in self.blocks]:
            raise BackboneError(
                f"backbone.taps names {unknown[0]!r}, which is no block of {self.spec.name}; it has "
                f"{', '.join(self.blocks)}"
            )
        return names

    def block_of(self, tensor_name: str) -> int:
        """Return the index of the block that a tensor belongs to; one outside all blocks belongs to the first."""
        owner = {path: index for index, block in enumerate(self.units) for path in block.paths}
        parts = tensor_name.split(".")
        found = (owner.get(".".join(parts[:length])) for length in range(len(parts), 0, -1))
        return next((index for index in found if index is not None), 0)


def assemble(spec: Spec, tensors: Mapping[str, Tensor] | None) -> Backbone:
    """Return the backbone of a spec with the given tensors, or with random weights."""
    module = build(spec)
    if tensors is not None:
        load_tensors(module, tensors, spec)
    return Backbone(module.to(memory_format=torch.channels_last), spec)


def twin(backbone: Backbone, tensors: Mapping[str, Tensor]) -> Backbone:
    """Return a second network with these tensors, which must fit, in place of its own; it shares all others."""
    module = build(backbone.spec)
    module.load_state_dict({**backbone.module.state_dict(), **tensors}, assign=True)
    return replace(backbone, module=module.to(memory_format=torch.channels_last))


def check_channels(asked: int | None, have: int) -> None:
    """Raises: BackboneError if params.yaml asks for other channels than the images have."""
    if asked is not None and asked != have:
        raise BackboneError(
            f"params.yaml: backbone.in_channels (or the length of backbone.mean and backbone.std) is {asked}, but the "
            f"images have {have} channel{'s' if have > 1 else ''}; correct it, or leave it out to take what they have"
        )


def load_backbone(folder: Path, *, in_channels: int) -> Backbone:
    """Return the backbone that the stage of that name stored, for images of that many channels.

    Raises: ArtifactError if the folder is not whole, BackboneError if it is for images of other channels, or names code
    that params.yaml does not name.
    """
    fingerprint = artifacts.verify(folder)
    stored = facts.read(folder / "model.json", BackboneFacts)
    check_channels(stored.in_channels, in_channels)
    spec = Spec.of(stored.backbone, folder).with_channels(in_channels)
    return replace(assemble(spec, load_file(folder / "weights.safetensors")), fingerprint=fingerprint)
