"""Features from inside a network: pooled activations of several blocks, beside what it ends in.

A head that sees more than the last block is better where the images are far from those that the network was pretrained
on (Head2Toe, Evci et al. 2022, arXiv:2201.03529). The taps are nodes of the traced graph, so a cut goes through them as
through any other: what a tap below the cut gives is a boundary tensor.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

_TOO_SMALL = 1e-6


def add_taps(
    graph: fx.Graph, of_node: dict[fx.Node, int], inside: Mapping[fx.Node, int], indices: Sequence[int], *, nhwc: bool
) -> None:
    """Let a traced network also give the pooled outputs of these blocks, behind its own features.

    `of_node` is the block that each node counts to, and is extended; `inside` has the nodes that a block itself runs,
    in order; `nhwc` says whether maps are [images, height, width, channels].
    """
    output = list(graph.nodes)[-1]
    pooled = []
    for index in indices:
        source = [node for node, block in inside.items() if block == index][-1]
        with graph.inserting_after(source):
            tap = graph.call_function(pool, (source, nhwc))
        of_node[tap] = index
        pooled.append(tap)
    with graph.inserting_before(output):
        joined = graph.call_function(join, (output.args[0], *pooled))
    of_node[joined] = max(of_node.values())
    output.args = (joined,)


def separate(network: fx.GraphModule) -> None:
    """Let a whole traced network with taps give its own features and each tap's as tensors of their own."""
    output = list(network.graph.nodes)[-1]
    (joined,) = output.args[0]
    output.args = (tuple(joined.args),)
    network.graph.erase_node(joined)
    network.recompile()


def pool(value: Tensor, nhwc: bool) -> Tensor:
    """Return mean, maximum and deviation of each channel [images, 3 channels].

    `value` is a map of channels, tokens [images, tokens, channels], or features, which stay as they are.
    """
    if value.ndim == 2:
        return value
    axes = ((1, 2) if nhwc else (2, 3)) if value.ndim == 4 else (1,)
    seen = value.clone() if value.requires_grad else value  # the next layer may work in place
    deviation = (seen.var(axes, correction=0) + _TOO_SMALL).sqrt()
    return torch.cat([seen.mean(axes), seen.amax(axes), deviation], dim=1)


def tap_of(value: Any, nhwc: bool) -> Tensor | None:
    """Return what a tap gives of a block's output, or None of an output that cannot be pooled."""
    return pool(value, nhwc) if isinstance(value, Tensor) and 2 <= value.ndim <= 4 else None


def join(*features: Tensor) -> Tensor:
    """Return features side by side, at the scale that each block gives them.

    Bringing each to the same mean square loses what the scale says of an image (docs/log.md).
    """
    return torch.cat(features, dim=1)


def is_nhwc(module: nn.Module) -> bool:
    """Whether a network's blocks give [images, height, width, channels], as Swin transformers do."""
    return getattr(module, "output_fmt", "") == "NHWC" or type(module).__name__.startswith("Swin")
