"""Cut a network in two at a block boundary: a prefix that can be cached and a suffix that can be trained.

The network is traced with torch.fx and its graph divided between blocks. The tensors of each image that are live across
the boundary are the boundary activation: one for a ResNet, several for a NASNet.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.models._features_fx import get_notrace_functions, get_notrace_modules
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import DualGraphModule, NodePathTracer

from thaw.errors import BackboneError, first_line
from thaw.networks.blocks import Block
from thaw.networks.crossing import Fixed, find_fixed, have_rows
from thaw.networks.pooling import Pool, repool
from thaw.networks.taps import add_taps, is_nhwc, tap_of
from thaw.pipeline import artifacts

# Layers that behave differently in training and evaluation stay whole, so that each mode keeps its own code.
_WHOLE_LAYERS = (
    "BatchNorm",
    "GroupNorm",
    "LayerNorm",
    "InstanceNorm",
    "Dropout",
    "DropPath",
    "StochasticDepth",
    "GreyConv",
)

_CONSTANT = "_tensor_constant"  # torch.fx's name


class UntraceableError(BackboneError):
    """The network's own code does not let torch.fx follow it."""


class _Tracer(NodePathTracer):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's tracer, with each node named by the module it stands in (its own numbering is quadratic)."""

    def _get_node_qualname(self, module_qualname: str, node: fx.Node) -> str:
        return module_qualname if node.op == "call_module" else f"{module_qualname}.{node}"


class _Identity(nn.Module):
    """The prefix of a network that is unfrozen to its input."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (images,)


@dataclass(frozen=True)
class Origin:
    """The network that a prefix was cut from, and which of the places in it the prefix gives: see `with_places`."""

    network: nn.Module
    blocks: tuple[Block, ...]
    taps: tuple[int, ...]
    pool: Pool
    trace: str
    """The network's traced graph as text, with the hashes of its constants."""
    places: tuple[str, ...]
    spec: str = ""
    """What the network was built from, as text."""


class CutPrefix(fx.GraphModule):
    """A prefix that knows what it was cut from."""

    origin: Origin | None = None


def cut(
    module: nn.Module,
    blocks: Sequence[Block],
    index: int,
    images: Tensor,
    *,
    taps: Sequence[int] = (),
    pool: Pool = "own",
) -> tuple[nn.Module, nn.Module]:
    """Return (prefix, suffix): blocks[:index] and blocks[index:], sharing the network's own tensors.

    `images` [2, channels, height, width] are run through, to find out what crosses the boundary. `taps` are the blocks
    whose pooled outputs are features as well (see taps.py). `pool` is how the last maps are pooled (see pooling.py).

    The prefix is in eval mode for good and maps images to a tuple of tensors; the suffix takes these tensors and
    follows `.train()` and `.eval()`. Tensors keep their names. What crosses the boundary without an axis of images is
    computed again in the suffix (see crossing.py). Raises: BackboneError if the network cannot be traced.
    """
    modes = {training: _trace(module, training=training) for training in (False, True)}
    module.eval()
    trace = _as_text(module, modes[False][0])
    divided = {
        training: _Division(*_prepared(module, traced, blocks, images, taps, pool), index)
        for training, traced in modes.items()
    }
    try:
        fixed = find_fixed(module, divided[False].prefix(), images) if index else {}
    except (AttributeError, TypeError) as error:  # the trace took a way for arguments that nobody gives, as a mask
        raise UntraceableError(f"the network's trace does not run, so it cannot be cut: {first_line(error)}") from error
    suffix = DualGraphModule(module, divided[True].suffix(fixed), divided[False].suffix(fixed)).eval()
    if not index:
        return _Identity(), suffix
    prefix = CutPrefix(module, divided[False].prefix(fixed)).eval()
    crossing = (position for position in range(len(divided[False].live)) if position not in fixed)
    places = tuple(_place(index, position) for position in crossing)
    prefix.origin = Origin(module, tuple(blocks), tuple(taps), pool, trace, places)
    return prefix, suffix


def with_places(origin: Origin, images: Tensor) -> tuple[fx.GraphModule, list[str]]:
    """Return a whole network that gives what crosses each of its boundaries, and the name of each place it gives.

    It also gives the pooled output of each block, as a tap does. What a prefix gives, cut at any depth, is some of
    that. `images` [2, channels, height, width] are run through, to leave out what has no row per image.
    """
    module, blocks = origin.network, origin.blocks
    traced = _trace(module, training=False)
    module.eval()
    graph, of_node = _prepared(module, traced, blocks, images, origin.taps, origin.pool)
    divisions = [_Division(graph, of_node, index) for index in range(1, len(blocks) + 1)]
    due: dict[fx.Node, list[_Given]] = {}
    for index, division in enumerate(divisions, 1):
        for position, node in enumerate(division.live):
            due.setdefault(division.last, []).append((_place(index, position), node, kept, ()))
    sources = {block: node for node, block in _inside(*traced, _up_to_pooling(module, blocks)).items()}
    for block, node in sources.items():
        due.setdefault(node, []).append((place_of_tap(block), node, tap_of, (is_nhwc(module),)))
    whole, given = divisions[-1].whole(due)
    with torch.inference_mode():
        two, one = (fx.Interpreter(module, graph=whole).run(images[:count].clone()) for count in (2, 1))
    rows = [have_rows(*pair) for pair in zip(two, one, strict=True)]
    output = list(whole.nodes)[-1]
    output.args = (tuple(node for node, has_rows in zip(given.values(), rows, strict=True) if has_rows),)
    for node, has_rows in zip(given.values(), rows, strict=True):
        if not has_rows:
            whole.erase_node(node)
    return fx.GraphModule(module, whole).eval(), [name for name, some in zip(given, rows, strict=True) if some]


def kept(value: Any) -> Any:
    """Return a copy of a tensor, since the next layer may work in place, and anything else as it is."""
    return value.clone() if isinstance(value, Tensor) else value


def place_of_tap(block: int) -> str:
    """Return the name of a block's pooled output among the places of its network."""
    return f"tap_of_{block}"


def sha256_of_tensor(value: Tensor) -> str:
    """Return the SHA-256 of a tensor's values."""
    return artifacts.sha256_of_bytes(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())


def _as_text(module: nn.Module, graph: fx.Graph) -> str:
    """Return a traced graph as text. Constants, which each trace numbers anew, stand in it by their values."""
    named = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    values = [sha256_of_tensor(getattr(module, name)) for name in named if name.startswith(_CONSTANT)]
    return "\n".join([re.sub(rf"{_CONSTANT}\d+", _CONSTANT, str(graph)), *values])


def _place(index: int, position: int) -> str:
    return f"cut_at_{index}_{position}"


def _prepared(
    module: nn.Module,
    traced: tuple[fx.Graph, dict[fx.Node, str]],
    blocks: Sequence[Block],
    images: Tensor,
    taps: Sequence[int],
    pool: Pool,
) -> tuple[fx.Graph, dict[fx.Node, int]]:
    """Return a traced graph with its taps and its pooling, and the block index of each node."""
    graph, names = traced
    inside = _inside(graph, names, _up_to_pooling(module, blocks)) if taps else {}
    own = repool(graph, module, pool, images, nhwc=is_nhwc(module)) if pool != "own" else None
    of_node = _blocks_of_nodes(graph, _inside(graph, names, blocks))
    if taps:
        add_taps(graph, of_node, inside, taps, nhwc=is_nhwc(module))
    if own is not None and not own.users:
        graph.erase_node(own)
    return graph, of_node


def _trace(module: nn.Module, *, training: bool) -> tuple[fx.Graph, dict[fx.Node, str]]:
    whole = {type(child) for child in module.modules() if any(word in type(child).__name__ for word in _WHOLE_LAYERS)}
    functions = get_notrace_functions()  # type: ignore[no-untyped-call]  # timm leaves it untyped
    layers = get_notrace_modules()  # type: ignore[no-untyped-call]  # timm leaves it untyped
    leaves = [*layers, *whole, *getattr(module, "leaf_types", ())]
    tracer = _Tracer(autowrap_functions=tuple(functions), leaf_modules=leaves)
    module.train(training)
    try:
        graph = tracer.trace(module)
    except Exception as error:  # torch.fx raises whatever the network's own code raises on a proxy
        raise UntraceableError(f"the network cannot be traced, so it cannot be cut: {first_line(error)}") from error
    return graph, dict(tracer.node_to_qualname)


def _inside(graph: fx.Graph, names: dict[fx.Node, str], blocks: Sequence[Block]) -> dict[fx.Node, int]:
    """Return the block index of each node that runs within a block, in order of execution."""
    owner = {path: index for index, block in enumerate(blocks) for path in block.paths}
    inside = {}
    for node in graph.nodes:
        if node.op not in {"get_attr", "placeholder", "output"}:
            path = str(node.target) if node.op == "call_module" else names.get(node, "")
            parts = path.split(".")
            found = (owner.get(".".join(parts[:length])) for length in range(len(parts), 0, -1))
            index = next((index for index in found if index is not None), None)
            if index is not None:
                inside[node] = index
    return inside


def _up_to_pooling(module: nn.Module, blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks, the last one up to its last layer with tensors: the pooling behind makes the own features."""
    *others, last = blocks
    with_tensors = [path for path in last.paths if module.get_submodule(path).state_dict()]
    return [*others, Block(last.name, last.paths[: last.paths.index(with_tensors[-1]) + 1])]


def _blocks_of_nodes(graph: fx.Graph, inside: dict[fx.Node, int]) -> dict[fx.Node, int]:
    """Return the block index of each node; it never falls along the order of execution."""
    current, of_node = 0, dict[fx.Node, int]()
    for node in graph.nodes:
        current = max(current, inside.get(node, current))
        of_node[node] = current
    for node in graph.nodes:  # a tensor read from the network belongs where it is first used
        if node.op == "get_attr" and node.users:
            of_node[node] = min(of_node[user] for user in node.users)
    return of_node


_Given = tuple[str, fx.Node, Callable[..., Any], tuple[Any, ...]]
"""A place by its name: a node, what is made of it there, and the further arguments of that."""


class _Division:
    """A traced network divided between two blocks."""

    def __init__(self, graph: fx.Graph, of_node: dict[fx.Node, int], index: int) -> None:
        images, *optional = (node for node in graph.nodes if node.op == "placeholder")
        self._defaults = {node: node.args[0] if node.args else None for node in optional}
        self._nodes = [node for node in graph.nodes if node not in self._defaults]
        self._below = {
            node for node in self._nodes if node is images or (node.op != "output" and of_node[node] < index)
        }
        crossing = [node for node in self._nodes if node in self._below and set(node.users) - self._below]
        self._read_again = {node for node in crossing if node.op == "get_attr"}
        self.live = [node for node in crossing if node.op != "get_attr"]
        """What crosses the boundary, in order of execution; of the same length in each mode."""
        self.last = [node for node in self._nodes if node in self._below and node.op != "get_attr"][-1]
        """What runs last below the boundary."""

    def prefix(self, fixed: Collection[int] = ()) -> fx.Graph:
        """Return the graph below the boundary; it gives what crosses but for the positions in `fixed`."""
        graph, copies = fx.Graph(), dict[fx.Node, Any](self._defaults)
        for node in self._nodes:
            if node in self._below:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(tuple(copies[node] for position, node in enumerate(self.live) if position not in fixed))
        return graph

    def whole(self, due: Mapping[fx.Node, Sequence[_Given]]) -> tuple[fx.Graph, dict[str, fx.Node]]:
        """Return the graph below the boundary, which gives what is `due` behind each node, and these by their names."""
        graph, copies = fx.Graph(), dict[fx.Node, Any](self._defaults)
        given: dict[str, fx.Node] = {}
        for node in self._nodes:
            if node in self._below:
                copies[node] = graph.node_copy(node, copies.__getitem__)
                for name, value, made, further in due.get(node, ()):
                    given[name] = graph.call_function(made, (copies[value], *further))
        graph.output(tuple(given.values()))
        return graph, given

    def suffix(self, fixed: Mapping[int, Fixed]) -> fx.Graph:
        """Return the graph above the boundary, which computes what is `fixed` by itself."""
        graph, copies = fx.Graph(), dict[fx.Node, Any](self._defaults)
        for position, node in enumerate(self.live):
            if position not in fixed:
                copies[node] = graph.placeholder(f"boundary_{position}")
        boundary = next(node for node in graph.nodes)
        for position, value in fixed.items():
            copies[self.live[position]] = value.add_to(graph, boundary)
        for node in self._nodes:
            if node not in self._below or node in self._read_again:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        return graph


@torch.inference_mode()
def probe(prefix: nn.Module, images: Tensor, *, everywhere: bool = False) -> list[torch.Size]:
    """Return the shape of each boundary tensor for one image. `images` has shape [images, channels, height, width].

    Raises: BackboneError if something else than a tensor with a row for each image crosses the boundary, an
    UntraceableError if that is so `everywhere`, as in exports that keep the number of images as a value.
    """
    boundary = prefix(images)
    for value in boundary:
        if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != len(images):
            raise (UntraceableError if everywhere else BackboneError)(
                "something other than a tensor with one row per image crosses this boundary; "
                "choose another depth (`thaw blocks` lists them)"
            )
    return [value.shape[1:] for value in boundary]


class UncutPrefix(nn.Module):
    """What lies below no cut: nothing, or with `everything` the whole network, in eval mode for good."""

    def __init__(self, network: nn.Module, *, everything: bool) -> None:
        super().__init__()
        self._network = network.eval() if everything else None

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the network's features of images, or the images themselves."""
        return (images if self._network is None else self._network(images),)


class UncutSuffix(nn.Module):
    """A whole network as what trains, its frozen blocks in eval mode whatever the mode; tensors keep their names."""

    def __init__(self, network: nn.Module, frozen: Sequence[str]) -> None:
        """`frozen` are the paths of the modules that belong to frozen blocks."""
        super().__init__()
        # The network's own registries: a tensor that `.to` replaces is replaced in both.
        for registry in ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"):
            setattr(self, registry, getattr(network, registry))
        self._whole = [network]  # in a list, so that its tensors are not found a second time
        self._frozen = tuple(frozen)
        self.eval()

    def train(self, mode: bool = True) -> "UncutSuffix":
        """Set the mode of the network, its frozen blocks excepted."""
        super().train(mode)
        self._whole[0].train(mode)
        for path in self._frozen:
            self._whole[0].get_submodule(path).eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's features of images."""
        features: Tensor = self._whole[0](images)
        return features
