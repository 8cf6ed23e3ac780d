"""A network in ONNX as a torch module: its layers under the names that the exporter kept, or stage by stage.

With that, blocks, cuts, norms and rules mean what they mean in every other network. The network's graph is kept as text
without its weights, so that a model can be built again without the file that it came from.
"""

import base64
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from keyword import iskeyword
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto
from torch import Tensor, nn

from thaw.errors import BackboneError, first_line
from thaw.networks.blocks import list_blocks
from thaw.networks.onnx.layers import layers_of, weight_names

_NOTED = "pkg.torch.onnx.name_scopes"
_SHRINKING = {"Conv", "MaxPool", "AveragePool"}


def packed(model: ModelProto) -> str:
    """Return a network's graph as text, without its weights and without what exporters note of where they ran."""
    bare = ModelProto()
    bare.CopyFrom(model)
    held = {name for node in model.graph.node for name in weight_names(model.graph, node)}
    for tensor in bare.graph.initializer:
        if tensor.name in held:
            for field in ("raw_data", "float_data"):
                tensor.ClearField(field)
    for part in [bare, bare.graph, *bare.graph.node, *bare.graph.value_info, *bare.graph.initializer]:
        noted = [item for item in part.metadata_props if item.key == _NOTED]
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
        part.metadata_props.extend(noted)
    return base64.b64encode(zlib.compress(bare.SerializeToString(deterministic=True), 9)).decode("ascii")


def unpacked(text: str) -> "OnnxNetwork":
    """Return the network of a packed graph, all weights zero. Raises: ValueError if it is damaged, or as `built`."""
    try:
        model = ModelProto.FromString(zlib.decompress(base64.b64decode(text)))
        held = {name for node in model.graph.node for name in weight_names(model.graph, node)}
        for tensor in model.graph.initializer:
            if tensor.name in held:
                tensor.raw_data = bytes(4 * math.prod(tensor.dims))
    except Exception as error:  # noqa: BLE001 - base64, zlib and protobuf have errors of their own
        raise ValueError(first_line(error)) from None
    return built(model)


def built(model: ModelProto) -> "OnnxNetwork":
    """Return the network of a graph, its weights those in it.

    Raises: BackboneError naming operators that are not supported, ValueError if the graph does not hold together.
    """
    try:
        return OnnxNetwork(model)
    except BackboneError:
        raise
    except Exception as error:  # noqa: BLE001 - a name, a shape or a value that is not there is met anywhere
        raise ValueError(first_line(error)) from None


class Scope(nn.ModuleDict):
    """Layers that the exporter named together."""


class Stage(nn.Module):
    """Layers of one resolution, in a network whose names group nothing."""


@dataclass(frozen=True)
class _Step:
    path: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    done: tuple[str, ...]
    """Values that nothing reads any more."""


class OnnxNetwork(nn.Module):
    """A network in ONNX: maps images [images, channels, height, width] to features [images, features]."""

    def __init__(self, model: ModelProto) -> None:
        """`model` as onnx_file.read gives it. Raises: BackboneError naming operators that are not supported."""
        super().__init__()
        nodes, layers = zip(*layers_of(model), strict=True)
        self._input, self._output = model.graph.input[0].name, model.graph.output[0].name
        self.leaf_types = {type(part) for layer in layers for part in layer.modules()}
        """Layers that tracing does not look into."""
        names = _paths(nodes, model.graph)
        paths = self._placed(names, layers, Scope)
        num_layers = sum(next(layer.parameters(), None) is not None for layer in layers)
        if not 3 <= len(list_blocks(self)) <= max(3, num_layers // 2):  # the names group nothing
            for name in list(self._modules):
                delattr(self, name)
            stages = _stages(nodes, model.graph)
            names = [
                (path if path[0] == "tail" else (stage, "_".join(path)))
                for stage, path in zip(stages, names, strict=True)
            ]
            paths = self._placed(names, layers, Stage)
        self._steps = _steps(nodes, paths, {self._input}, self._output)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of images."""
        values: dict[str, Any] = {self._input: images}
        for step in self._steps:
            output = self._layer(step.path)(*(values[name] for name in step.inputs))
            for place, name in enumerate(step.outputs):
                values[name] = output[place] if len(step.outputs) > 1 else output
            for name in step.done:
                del values[name]
        features: Tensor = values[self._output]
        return features

    def _layer(self, path: str) -> nn.Module:
        """Return the layer at a path, or what stands in the place of its block if that was removed."""
        module: nn.Module = self
        for name in path.split("."):
            child = dict(module.named_children()).get(name)
            if child is None:
                break
            module = child
        return module

    def _placed(
        self, paths: Sequence[tuple[str, ...]], layers: Sequence[nn.Module], kind: type[nn.Module]
    ) -> list[str]:
        """Register each layer at its path within modules of a kind, or beside what is there; return where."""
        return [self._place(path, layer, kind) for path, layer in zip(paths, layers, strict=True)]

    def _place(self, path: tuple[str, ...], layer: nn.Module, kind: type[nn.Module]) -> str:
        scope: nn.Module = self
        walked = []
        for part in path[:-1]:
            name = _free(scope, part, shared=kind)
            if not hasattr(scope, name):
                scope.add_module(name, kind())
            scope = getattr(scope, name)
            walked.append(name)
        name = _free(scope, path[-1], shared=None)
        scope.add_module(name, layer)
        return ".".join([*walked, name])


def _free(scope: nn.Module, part: str, *, shared: type[nn.Module] | None) -> str:
    """Return a name that is free in a scope; one of a module of the kind `shared` will do."""
    base = re.sub(r"\W", "_", part) or "layer"
    name, number = base, 1
    while (hasattr(scope, name) or iskeyword(name)) and not (shared and isinstance(getattr(scope, name, None), shared)):
        number += 1
        name = f"{base}_{number}"
    return name


def _paths(nodes: Sequence[NodeProto], graph: GraphProto) -> list[tuple[str, ...]]:
    """Return where each layer belongs: by what torch notes of its module, by the name of its node or its weight.

    `/layer1/layer1.0/conv1/Conv` is such a name of a node, `layer1.0.conv1.weight` and `model/conv1/kernel:0` are such
    names of weights. A node without any of them stands beside the one before it.
    """
    paths, scope = [], tuple[str, ...]()
    for node in nodes:
        weights = weight_names(graph, node)
        noted = next((item.value for item in node.metadata_props if item.key == _NOTED), "")
        named = [name for name in weights if re.search(r"[^./:][./][^./:]", name)]
        own = () if weights else (node.op_type.lower(),)
        if noted:
            path = (*_parts(re.findall(r"'([^']*)'", noted)[-2]), *own)
            # A norm that was folded into a convolution leaves the one its name and the other its weight.
            path = next((_parts(name)[:-1] for name in named if _parts(name)[:-2] == path[:-1]), path)
        elif "/" in node.name.strip("/"):
            path = _parts(node.name)[: -1 if weights else None]
        elif named:
            path = _parts(named[0])[:-1]
        else:
            path = (*scope, node.op_type.lower())
        path = path or (*scope, node.op_type.lower())
        scope = path[:-1]
        paths.append(path)
    # What follows the last weights pools: it stays if the network is to end earlier.
    last = max((place for place, node in enumerate(nodes) if weight_names(graph, node)), default=-1)
    return [path if place <= last else ("tail", path[-1]) for place, path in enumerate(paths)]


def _parts(name: str) -> tuple[str, ...]:
    """Return the parts of a name; of `features/features.0/features.0.1/Conv` each is the end of what it repeats."""
    if "/" not in name:
        return tuple(part for part in name.split(".") if part)
    return tuple(part.rpartition(".")[2] for part in name.split("/") if part)


def _stages(nodes: Sequence[NodeProto], graph: GraphProto) -> list[str]:
    """Return the stage of each node: a new one begins where a convolution or pooling lowers the resolution.

    It begins as early as only one tensor passes, so that a residual block is not torn apart.
    """
    areas = {value.name: _area(value) for value in graph.value_info}
    narrow = _narrow_places(nodes, graph)
    starts, area = [0], 0
    for place, node in enumerate(nodes):
        now = areas.get(node.output[0], 0)
        if node.op_type in _SHRINKING and now > 1:
            if 1 < now < area:
                earliest = [after + 1 for after in narrow if starts[-1] <= after < place]
                starts.append(max(earliest, default=place))
            area = min(area, now) if area else now
    lengths = [end - start for start, end in pairwise([*starts, len(nodes)])]
    return [f"stage{number}" for number, length in enumerate(lengths) for _ in range(length)]


def _area(value: Any) -> int:
    sides = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    return sides[2] * sides[3] if len(sides) == 4 else 0


def _narrow_places(nodes: Sequence[NodeProto], graph: GraphProto) -> list[int]:
    """Return the places in the order of execution after which one tensor alone is still to be read."""
    last = {name: place for place, node in enumerate(nodes) for name in node.input}
    live, places = {value.name for value in graph.input}, []
    for place, node in enumerate(nodes):
        live = {name for name in live | set(node.output) if last.get(name, len(nodes)) > place}
        if len(live) == 1:
            places.append(place)
    return places


def _steps(nodes: Sequence[NodeProto], paths: list[str], given: set[str], output: str) -> list[_Step]:
    live = set(given)
    last = {name: place for place, node in enumerate(nodes) for name in node.input}
    steps = []
    for place, (node, path) in enumerate(zip(nodes, paths, strict=True)):
        inputs = tuple(name for name in node.input if name in live)
        outputs = tuple(node.output)
        live.update(outputs)
        done = {name for name in (*inputs, *outputs) if last.get(name, -1) <= place and name != output}
        steps.append(_Step(path, inputs, outputs, tuple(sorted(done))))
    return steps
