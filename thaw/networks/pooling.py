"""Another pooling of a network's last maps than its own: their average, their maximum, or both side by side.

The network's own pooling is found in its traced graph, as what takes its last maps, or tokens, to one value per
channel. It is replaced there, and what the network does behind it (a norm, a layer) is done with what comes out: with
`both` twice.
"""

from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from thaw.errors import BackboneError
from thaw.networks.taps import join

Pool = Literal["own", "avg", "max", "both"]

_ROUNDING = 1e-4
# What takes a whole map to a value per channel, or lays it out; a strided convolution or window does not.
_FUNCTIONS = {"adaptive_avg_pool2d", "adaptive_max_pool2d", "mean", "amax", "flatten", "view", "reshape"}


def repool(graph: fx.Graph, module: nn.Module, pool: Pool, images: Tensor, *, nhwc: bool) -> fx.Node:
    """Replace the own pooling of a traced network and return its node, which nothing uses any more.

    `images` [2, channels, height, width] are run through once, in eval mode. `nhwc` says whether the network's maps are
    [images, height, width, channels].
    Raises: BackboneError if it has no pooling to replace, or already pools so.
    """
    found = _Last(module, graph)
    with torch.inference_mode():
        found.run(images)
    own, axes, skip, shape = _own_pooling(found, module, nhwc)
    ways = ("avg", "max") if pool == "both" else (pool,)
    if len(ways) == 1 and _same(pooled(found.value, pool, axes, skip, shape), found.users[own]):
        raise BackboneError(
            f"head.pool is {pool}, and that is how this network pools already, with the same result; set it to own"
        )
    behind = _dependants(graph, own)
    with graph.inserting_after(own):
        replaced = [graph.call_function(pooled, (found.map, way, axes, skip, shape)) for way in reversed(ways)][::-1]
    own.replace_all_uses_with(replaced[0])
    output = list(graph.nodes)[-1]
    if len(replaced) == 2:
        copies = {replaced[0]: replaced[1]}
        with graph.inserting_before(output):
            for node in behind:
                copies[node] = graph.node_copy(node, lambda used: copies.get(used, used))
            first: Any = output.args[0]
            output.args = (graph.call_function(join, (first, copies[first])),)
    return own


def pooled(value: Tensor, way: str, axes: tuple[int, ...], skip: int, shape: tuple[int, ...]) -> Tensor:
    """Return the average or maximum of a map over its axes, [images, *shape], without the first `skip` tokens."""
    seen = value[:, skip:] if skip else value
    value = seen.mean(axes) if way == "avg" else seen.amax(axes)
    return value.reshape(-1, *shape).clone()  # what follows may work in place, and the maximum is needed again


def _own_pooling(
    found: "_Last", module: nn.Module, nhwc: bool
) -> tuple[fx.Node, tuple[int, ...], int, tuple[int, ...]]:
    """Return the pooling, the axes that it goes over, how many tokens it leaves out, and the shape that follows."""
    users = list(found.users)
    if len(users) != 1 or not _is_pooling(users[0], module):
        raise BackboneError(
            "head.pool has no pooling to replace: the features of this network are not the average or maximum of its "
            "last maps, nor one of its tokens; set it to own, or raise backbone.input_px if its maps end in 1 x 1"
        )
    own, size = users[0], found.value.shape
    axes: tuple[int, ...]
    after = found.users[own].shape
    if len(size) == 3:
        channels, axes, is_token = size[2], (1,), "getitem" in str(own.target)
        skip = int(getattr(module, "num_prefix_tokens", 1)) if is_token else 0
    else:
        first, last = size[1] == after[1:].numel(), size[3] == after[1:].numel()
        behind = nhwc if first == last else last  # some networks change the order before they pool
        channels, axes, skip = (size[3], (1, 2), 0) if behind else (size[1], (2, 3), 0)
    if after[1:].numel() == channels:
        return own, axes, skip, tuple(after[1:])
    graph = own.graph
    if any(_has_tensors(node, module) for node in _dependants(graph, own)):
        raise BackboneError(
            f"head.pool cannot act: this network's last layers read all of its maps of "
            f"{' x '.join(map(str, size[1:]))}; set it to own, or remove these layers with backbone.keep"
        )
    return own, axes, skip, (channels,)


def _same(value: Tensor, other: Tensor) -> bool:
    """Whether two tensors differ by rounding only, whatever their scale."""
    return value.shape == other.shape and bool((value - other).abs().max() <= _ROUNDING * other.abs().max())


def _is_pooling(node: fx.Node, module: nn.Module) -> bool:
    if node.op == "call_module":
        name = type(module.get_submodule(str(node.target))).__name__
        return not _has_tensors(node, module) and ("Adaptive" in name or "Flatten" in name)
    name = str(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name == "getitem":  # a token is picked; a slice is none
        index = node.args[1]
        return isinstance(index, tuple) and len(index) == 2 and isinstance(index[1], int)
    return name in _FUNCTIONS


def _has_tensors(node: fx.Node, module: nn.Module) -> bool:
    return node.op == "call_module" and bool(module.get_submodule(str(node.target)).state_dict())


def _dependants(graph: fx.Graph, first: fx.Node) -> list[fx.Node]:
    """Return the nodes that use what a node gives, directly or not, in order of execution, without the output."""
    reached = {first}
    for node in graph.nodes:
        if node.op != "output" and reached & set(node.all_input_nodes):
            reached.add(node)
    return [node for node in graph.nodes if node in reached and node is not first]


class _Last(fx.Interpreter):
    """Runs a traced network and keeps its last maps, or tokens, and what is made of them."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.map: Any = None
        self.value = torch.empty(0)
        self.users: dict[fx.Node, Tensor] = {}

    def run_node(self, node: fx.Node) -> Any:
        """Return what a node gives."""
        value = super().run_node(node)
        if isinstance(value, Tensor) and node.op not in {"get_attr", "output"}:
            if len(value) == 2 and value.ndim in (3, 4) and sum(side > 1 for side in value.shape[1:]) >= 2:
                self.map, self.value, self.users = node, value, {}
            elif self.map in node.all_input_nodes:
                self.users[node] = value
        return value
