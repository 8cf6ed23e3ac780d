"""The layers of a network in ONNX, node by node: onnx2pytorch makes them, here they become layers that can be trained.

What it leaves to do: constants become parameters where they are weights, a batch norm gets torch's momentum instead of
ONNX's, nothing works in place, and an operator that it can only guess is refused.
"""

import functools
import warnings
from typing import Any

import numpy as np
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from thaw.errors import BackboneError, first_line

# Operators whose constants of more than one number are weights; elsewhere they are shapes, bounds and scales.
_WITH_WEIGHTS = {
    "Add", "Concat", "Div", "Expand", "Gather", "GroupNormalization", "LayerNormalization", "Mul", "PRelu", "Sub",
}  # fmt: skip
# Operators whose inputs from the second on are weights in any case, since torch's layers hold them.
_LAYERS = {"BatchNormalization", "Conv", "ConvTranspose", "Gemm", "InstanceNormalization", "MatMul"}
# Operators that take Python's numbers for their shapes and axes, which ONNX Runtime's exporter can follow.
_TAKES_NUMBERS = {"Reshape", "Squeeze", "Unsqueeze", "Pad"}
_REDUCTIONS = {"ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin}


class Operator(nn.Module):
    """An operator of ONNX with the constants among its inputs."""

    def __init__(self, call: Any, constants: dict[int, Any], *, first_of_many: bool) -> None:
        """`call` takes the operator's inputs in order; `constants` are those of its inputs that do not vary."""
        super().__init__()
        self.call = call
        self._first_of_many = first_of_many
        self._plain = {place: value for place, value in constants.items() if not isinstance(value, Tensor)}
        self._tensors = {place for place, value in constants.items() if isinstance(value, Tensor)}
        for place, value in constants.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(f"constant_{place}", value)
            elif isinstance(value, Tensor):
                self.register_buffer(f"constant_{place}", value, persistent=False)

    def forward(self, *live: Tensor) -> Any:
        """Return what the operator makes of the inputs that vary."""
        varying = iter(live)
        inputs = []
        for place in range(len(live) + len(self._tensors) + len(self._plain)):
            if place in self._plain:
                inputs.append(self._plain[place])
            else:
                inputs.append(getattr(self, f"constant_{place}") if place in self._tensors else next(varying))
        output = self.call(*inputs)
        return output[0] if self._first_of_many else output


class _Concat(nn.Module):
    """Tensors side by side along an axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self._axis = axis

    def forward(self, *values: Tensor) -> Tensor:
        return torch.cat(values, dim=self._axis)


class _Reduction(nn.Module):
    """A mean, a sum or an extreme over axes that are known: the library's asks a tensor, which no exporter follows."""

    def __init__(self, reduce: Any, axes: tuple[int, ...], *, keepdim: bool) -> None:
        super().__init__()
        self._reduce, self._axes, self._keepdim = reduce, axes, keepdim

    def forward(self, values: Tensor) -> Tensor:
        reduced: Tensor = self._reduce(values, dim=self._axes, keepdim=self._keepdim)
        return reduced


def weight_names(graph: GraphProto, node: NodeProto) -> list[str]:
    """Return the initialisers that a node holds as weights."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = [constants[name] for name in node.input if name in constants]
    floats = [tensor for tensor in found if tensor.data_type == TensorProto.FLOAT]
    if node.op_type in _LAYERS:
        return [tensor.name for tensor in floats]
    return [tensor.name for tensor in floats if node.op_type in _WITH_WEIGHTS and np.prod(tensor.dims) > 1]


def layers_of(model: ModelProto) -> list[tuple[NodeProto, nn.Module]]:
    """Return the nodes of a network in order of execution, each with its layer.

    Raises: BackboneError naming the operators that are not supported.
    """
    from onnx2pytorch import ConvertModel

    own = ModelProto()
    own.CopyFrom(model)
    _make_ready(own.graph)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", "No explicit conversion")  # the library would guess
            converted = ConvertModel(own)
    except Exception as error:  # noqa: BLE001 - the library raises whatever it runs into
        raise BackboneError(_unsupported(own, error)) from None
    constants = {tensor.name: tensor for tensor in own.graph.initializer}
    return [(node, _layer(own.graph, node, getattr(converted, converted.mapping[node.output[0]]), constants))
            for node in own.graph.node]  # fmt: skip


def _make_ready(graph: GraphProto) -> None:
    """Mend what onnx2pytorch does not expect: attributes at their default, a sum behind a product that is no bias."""
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    flat = _flattenings(graph)
    nodes = list(graph.node)
    del graph.node[:]
    for node, following in zip(nodes, [*nodes[1:], None], strict=True):
        graph.node.append(node)
        if node.name in flat:
            graph.node[-1].CopyFrom(helper.make_node("Flatten", node.input[:1], node.output, name=node.name))
        for attribute in [item for item in node.attribute if item.name == "training_mode" and not item.i]:
            graph.node[-1].attribute.remove(attribute)
        if node.op_type == "MatMul" and following is not None and following.op_type == "Add":
            weight, added = (
                next((sizes[name] for name in each.input if name in sizes), None) for each in (node, following)
            )
            if weight and added and added != weight[-1:]:
                graph.node[-1].output[0] += "_product"
                graph.node.append(helper.make_node("Identity", [graph.node[-1].output[0]], [node.output[0]]))


def _flattenings(graph: GraphProto) -> set[str]:
    """Return the reshapes that make a vector of each image's maps, however many they are."""
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.value_info}
    wanted = {tensor.name: tensor for tensor in graph.initializer if list(tensor.dims) == [2]}
    return {
        node.name
        for node in graph.node
        if node.name and node.op_type == "Reshape" and node.input[1] in wanted
        if len(shapes.get(node.input[0], ())) == 4
        and numpy_helper.to_array(wanted[node.input[1]])[1] in {-1, np.prod(shapes[node.input[0]][1:])}
    }


def _unsupported(model: ModelProto, error: Exception) -> str:
    """Return what to say of a network that cannot be turned into layers, with every operator at fault."""
    from onnx2pytorch.convert.operations import convert_operations

    opset = next(item.version for item in model.opset_import if item.domain in {"", "ai.onnx"})
    at_fault = set()
    for node in model.graph.node:
        alone = GraphProto(node=[node], initializer=model.graph.initializer)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                list(convert_operations(alone, opset))
        except Exception:  # noqa: BLE001 - any of the library's errors says that it cannot
            at_fault.add(node.op_type)
    named = f"uses {', '.join(sorted(at_fault))}, which cannot be trained" if at_fault else "cannot be trained"
    return f"the network {named} here ({first_line(error)}); export it otherwise, in inference mode and float32"


def _layer(graph: GraphProto, node: NodeProto, made: Any, constants: dict[str, TensorProto]) -> nn.Module:
    inputs = list(node.input)
    while inputs and not inputs[-1]:
        inputs.pop()
    if isinstance(made, nn.Module):
        for part in made.modules():
            if hasattr(part, "inplace"):
                vars(part)["inplace"] = False  # a value may be read again
            if isinstance(part, nn.modules.pooling._MaxPoolNd) and len(node.output) == 1:  # noqa: SLF001 - base of 1d to 3d
                part.return_indices = False
    if node.op_type in _LAYERS and any(name in constants for name in inputs[1:]):
        return _with_weights(node, made, inputs, constants)
    if node.op_type == "LayerNormalization" and (norm := _layer_norm(node, inputs, constants)) is not None:
        return norm
    if node.op_type in _REDUCTIONS and (axes := _axes(node, inputs, constants)):
        return _Reduction(_REDUCTIONS[node.op_type], axes, keepdim=bool(made.keepdim))
    call = _Concat(made.keywords["dim"]) if isinstance(made, functools.partial) else made
    held = {place: _constant(graph, node, constants[name]) for place, name in enumerate(inputs) if name in constants}
    held |= {place: None for place, name in enumerate(inputs) if not name}
    many = _gives_many(call) and len(node.output) == 1
    return call if isinstance(call, nn.Module) and not held and not many else Operator(call, held, first_of_many=many)


def _axes(node: NodeProto, inputs: list[str], constants: dict[str, TensorProto]) -> tuple[int, ...]:
    """Return the axes of a reduction, none if they are computed or not given; older exports have an attribute."""
    if len(inputs) > 1:
        return tuple(numpy_helper.to_array(constants[inputs[1]]).tolist()) if inputs[1] in constants else ()
    return tuple(next((item.ints for item in node.attribute if item.name == "axes"), ()))


def _gives_many(call: Any) -> bool:
    from onnx2pytorch.constants import MULTIOUTPUT_LAYERS

    parts = call.modules() if isinstance(call, nn.Sequential) else [call]
    return any(isinstance(part, MULTIOUTPUT_LAYERS) and getattr(part, "return_indices", True) for part in parts)


def _with_weights(node: NodeProto, made: Any, inputs: list[str], constants: dict[str, TensorProto]) -> nn.Module:
    computed = [name for name in inputs[1:] if name not in constants]
    if computed or inputs[0] in constants:
        raise BackboneError(
            f"the {node.op_type} {node.name} takes weights that the network computes itself; such a layer cannot be "
            "trained here: export the network otherwise"
        )
    layer: Any = made
    if node.op_type == "BatchNormalization":
        layer = made.bnu
        kept = next((item.f for item in node.attribute if item.name == "momentum"), 0.9)
        layer.momentum = 1 - kept  # ONNX counts what stays, torch what is new
    found: nn.Module = layer
    return found


def _layer_norm(node: NodeProto, inputs: list[str], constants: dict[str, TensorProto]) -> nn.Module | None:
    """Return torch's own layer, where the node is what that computes."""
    axis = next((item.i for item in node.attribute if item.name == "axis"), -1)
    weights = [constants[name] for name in inputs[1:] if name in constants]
    shape = list(weights[0].dims) if weights else []
    if len(weights) != len(inputs) - 1 or not shape or (axis < 0 and -axis != len(shape)) or len(node.output) > 1:
        return None
    eps = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-5)
    norm = nn.LayerNorm(shape, eps=eps, bias=len(weights) > 1)
    for parameter, value in zip(norm.parameters(), weights, strict=True):
        parameter.data = _tensor(value)
    return norm


def _constant(graph: GraphProto, node: NodeProto, value: TensorProto) -> Any:
    if value.name in weight_names(graph, node):
        return nn.Parameter(_tensor(value))
    if node.op_type in _TAKES_NUMBERS and value.data_type == TensorProto.INT64 and len(value.dims) == 1:
        return numpy_helper.to_array(value).tolist()
    return _tensor(value)


def _tensor(value: TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(value).copy())
