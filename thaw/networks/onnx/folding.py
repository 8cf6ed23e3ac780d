"""Fold what an exported network computes from constants, and the number of images where it travels as a value.

Exporters write `x.reshape(len(x), -1)` as arithmetic on the shape of `x`. Such a number is no activation: it would
cross every cut. So the graph is folded for a number of images that occurs nowhere else, and where that number is left,
in the shapes of reshapes and expansions, it is replaced by what any number of images gives.
"""

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper, shape_inference
from onnxscript import ir, optimizer

_LIMIT = 2**31 - 1
_MARK = 9973  # a prime, so that its multiples are telling
_ON_SHAPES = {"Shape", "Size"}
_SPREADING = {"Expand": 1, "ConstantOfShape": 0, "Range": 1}  # which input says how far


def folded(model: ModelProto) -> ModelProto:
    """Return a network with constants folded and the shapes of its values, for any number of images.

    Where the number of images cannot be told apart from other values, shape arithmetic stays as it is.
    """
    plain = _fold(model)
    if not any(node.op_type in _ON_SHAPES for node in plain.graph.node):
        return plain
    own = _without_number(model)
    return own if own is not None and _same(plain, own) else plain


def run(model: ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what ONNX Runtime says that a network gives for images."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: images})[0]
    return found


def _fold(model: ModelProto) -> ModelProto:
    network = ir.from_proto(model)
    optimizer.inline(network)
    for _ in range(2):  # not optimizer.optimize, which also folds norms into convolutions
        optimizer.fold_constants(
            network,
            onnx_shape_inference=True,
            input_size_limit=_LIMIT,
            output_size_limit=_LIMIT,
            should_fold=_should_fold,
        )
        optimizer.remove_unused_nodes(network)
    bare = ir.to_proto(network)
    for node in [node for node in bare.graph.node if node.op_type == "Constant"]:
        for value in [item.t for item in node.attribute if item.name == "value"]:
            bare.graph.initializer.add().CopyFrom(value)
            bare.graph.initializer[-1].name = node.output[0]
            bare.graph.node.remove(node)
    return shape_inference.infer_shapes(bare)


def _should_fold(node: ir.Node) -> bool | None:
    """Whether a node that spreads a value is folded: yes, unless what comes out grows with the number of images."""
    place = _SPREADING.get(node.op_type)
    given = node.inputs[place] if place is not None and place < len(node.inputs) else None
    value = ir.convenience.get_const_tensor(given) if given is not None else None
    return None if value is None else not _marked(value.numpy())


def _marked(value: NDArray[np.generic]) -> list[int]:
    """Return the places of a shape that hold the marked number of images, or a multiple of it."""
    if value.dtype != np.int64 or value.ndim > 1:
        return []
    return [int(place) for place in np.flatnonzero((value % _MARK == 0) & (value != 0))]


def _without_number(model: ModelProto) -> ModelProto | None:
    """Return the network folded for a marked number of images, the mark then replaced; None where that cannot be."""
    marked = ModelProto()
    marked.CopyFrom(model)
    marked.graph.input[0].type.tensor_type.shape.dim[0].dim_value = _MARK
    del marked.graph.value_info[:]
    found = _fold(marked)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
    nodes = list(found.graph.node)
    del found.graph.node[:]
    for node in nodes:
        for place, name in enumerate(node.input):
            at = _marked(shapes[name]) if name in shapes else []
            if at and not _replaced(found, node.op_type, shapes[name].tolist(), at, f"{node.name}_{name}"):
                return None
            if at:
                node.input[place] = f"{node.name}_{name}"
        found.graph.node.append(node)
    if any(node.op_type in _ON_SHAPES for node in nodes):
        return None
    found.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "images"
    found.graph.output[0].type.tensor_type.ClearField("shape")
    del found.graph.value_info[:]
    return shape_inference.infer_shapes(found)


def _replaced(found: ModelProto, kind: str, shape: list[int], at: list[int], name: str) -> bool:
    """Add the shape as `name`, for any number of images; return whether it can be said."""
    graph = found.graph
    if kind == "Reshape" and len(at) == 1 and (-1 not in shape or (at == [0] and shape[0] == _MARK)):
        shape[at[0]] = 0 if -1 in shape else -1  # copied from what is reshaped, or worked out
        graph.initializer.append(numpy_helper.from_array(np.array(shape), name))
        return True
    if kind in {"Expand", "ConstantOfShape"} and at == [0] and shape[0] == _MARK:
        images, first, rest = graph.input[0].name, f"{name}_first", f"{name}_rest"
        graph.initializer.append(numpy_helper.from_array(np.array([0]), first))
        graph.initializer.append(numpy_helper.from_array(np.array(shape[1:], dtype=np.int64), rest))
        graph.node.extend(
            [
                helper.make_node("Shape", [images], [f"{name}_shape"], name=f"{name}_shape"),
                helper.make_node("Gather", [f"{name}_shape", first], [f"{name}_number"], name=f"{name}_number", axis=0),
                helper.make_node("Concat", [f"{name}_number", rest], [name], name=name, axis=0),
            ]
        )
        return True
    return False


def _same(one: ModelProto, other: ModelProto) -> bool:
    """Whether two networks give the same for three images."""
    sides = [dim.dim_value for dim in one.graph.input[0].type.tensor_type.shape.dim][1:]
    images = np.random.default_rng(0).random((3, *sides), dtype=np.float32)
    try:
        return np.allclose(run(one, images), run(other, images), rtol=1e-3, atol=1e-5)
    except Exception:  # noqa: BLE001 - whatever a runtime says of a graph that does not hold for three images
        return False
