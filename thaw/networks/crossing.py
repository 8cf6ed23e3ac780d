"""What crosses a cut without an axis of images: sizes, and tensors that are the same for every image.

The height and width of a map of tokens, or its positions, cannot be cached row by row. The suffix computes them again,
from the number of images in its batch and the network's own tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

_CONSTANTS = (int, float, bool, str, type(None), torch.dtype, torch.Size)


@dataclass(frozen=True)
class _PerImage:
    """A whole number that is a multiple of the number of images."""

    factor: int


@dataclass(frozen=True)
class Fixed:
    """A node of the traced network in eval mode that depends on the number of images, and on nothing else of them."""

    node: fx.Node
    sizes: Mapping[fx.Node, Any]
    """What those nodes give that are no tensors: constants, and multiples of the number of images."""

    def add_to(self, graph: fx.Graph, boundary: fx.Node) -> Any:
        """Compute it in another graph; return its node, or its value. `boundary` is a tensor with a row per image."""
        made: dict[fx.Node, Any] = {}

        def again(node: fx.Node) -> Any:
            if node not in made:
                known = node in self.sizes
                made[node] = _written(self.sizes[node], graph, boundary) if known else graph.node_copy(node, again)
            return made[node]

        return again(self.node)


@torch.inference_mode()
def find_fixed(module: nn.Module, prefix: fx.Graph, images: Tensor) -> dict[int, Fixed]:
    """Return what crosses a boundary and can be computed again behind it, by its position in the prefix's output.

    `prefix` is the graph below the boundary, which gives everything that crosses. `images` are two, of which one is
    run through as well: that shows what depends on their number. What depends on the images' values is not in the
    answer, and neither is a tensor with a row per image.
    """
    both = [fx.Interpreter(module, graph=prefix).run(images[:count].clone()) for count in (2, 1)]
    odd = [position for position, pair in enumerate(zip(*both, strict=True)) if not have_rows(*pair)]
    if not odd:
        return {}
    sizes = _sizes(module, prefix, images)
    crossing = list(prefix.nodes)[-1].args[0]
    assert isinstance(crossing, tuple)
    found = {position: crossing[position] for position in odd}
    return {position: Fixed(node, sizes) for position, node in found.items() if _is_fixed(node, sizes)}


def have_rows(two: Any, one: Any) -> bool:
    """Whether a value is a tensor with a row per image."""
    return all(isinstance(value, Tensor) and value.ndim > 0 for value in (two, one)) and (len(two), len(one)) == (2, 1)


def _is_fixed(node: fx.Node, sizes: Mapping[fx.Node, Any]) -> bool:
    if node in sizes:
        return True
    return node.op != "placeholder" and all(_is_fixed(used, sizes) for used in node.all_input_nodes)


def _sizes(module: nn.Module, graph: fx.Graph, images: Tensor) -> dict[fx.Node, Any]:
    """Return what each node of a graph gives that is no tensor and follows from the number of images."""
    two, one = (_Values(module, graph) for _ in range(2))
    two.run(images.clone())
    one.run(images[:1].clone())
    found = {}
    for node, value in two.kept.items():
        try:
            found[node] = _size(value, one.kept[node])
        except ValueError:
            continue
    return found


def _size(two: Any, one: Any) -> Any:
    """Return what gives `two` for two images and `one` for one. Raises: ValueError if that is not to be seen."""
    if isinstance(two, torch.device):
        return two
    if isinstance(two, tuple | list) and isinstance(one, tuple | list) and len(two) == len(one):
        return tuple(_size(*pair) for pair in zip(two, one, strict=True))
    if not isinstance(two, _CONSTANTS) or not isinstance(one, _CONSTANTS):
        raise ValueError
    if two == one:
        return two
    if isinstance(two, int) and isinstance(one, int) and two == 2 * one:
        return _PerImage(one)
    raise ValueError


def _written(value: Any, graph: fx.Graph, boundary: fx.Node) -> Any:
    """Return a size as an argument of nodes in a graph."""
    if isinstance(value, _PerImage):
        return graph.call_function(times_images, (boundary, value.factor))
    if isinstance(value, torch.device):
        return graph.call_function(getattr, (boundary, "device"))
    if isinstance(value, tuple):
        return tuple(_written(part, graph, boundary) for part in value)
    return value


def times_images(boundary: Tensor, factor: int) -> int:
    """Return the number of images in a batch, times a factor."""
    return len(boundary) * factor


class _Values(fx.Interpreter):
    """Runs a traced network and keeps what each node gives that is no tensor."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.kept: dict[fx.Node, Any] = {}

    def run_node(self, node: fx.Node) -> Any:
        """Return what a node gives."""
        value = super().run_node(node)
        if not isinstance(value, Tensor) and node.op != "output":
            self.kept[node] = value
        return value
