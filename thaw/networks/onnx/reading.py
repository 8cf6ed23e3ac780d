"""Read a network that another framework exported to ONNX, as features: its output layer taken off, its input as ours.

The file is data: reading it runs no code. Tensors beside it (`.onnx.data`) must lie in its own folder.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, external_data_helper, helper

from thaw.errors import BackboneError, first_line
from thaw.pipeline import artifacts

_USUAL_PX, _LARGEST_PX = 224, 2048  # the second is that of backbone.input_px
_LARGEST_BYTES = 2**31 - 1  # of a protobuf message
_IR_VERSION = 10  # of the container; later ones add nothing that is used here, and ONNX Runtime lags behind
DOMAINS = ("", "ai.onnx")
# What stands between a classifier's last layer and its output.
_SQUASHES = {"Softmax", "LogSoftmax", "Sigmoid"}
_SHAPES = {"Identity", "Cast", "Dropout", "Flatten", "Reshape", "Squeeze"}


@dataclass(frozen=True)
class Exported:
    """A network in ONNX that maps `images` [images, channels, height, width] to features [images, features]."""

    model: ModelProto
    """Constants folded: no node computes what does not depend on the images."""
    original: ModelProto
    """The same before folding, which is what the file itself says."""
    channels: int
    input_px: int


def sha256_of(path: Path) -> str:
    """Return the hash of a file, or of it and of the files that hold its tensors."""
    beside = {place: artifacts.sha256_of(path.parent / place) for place in _external(_parse(path), path)}
    return artifacts.digest({"": artifacts.sha256_of(path), **beside}) if beside else artifacts.sha256_of(path)


def read(path: Path) -> Exported:
    """Return the network in a file. Raises: BackboneError if it is no ONNX, or no network from images to features."""
    model = _parse(path)
    size = path.stat().st_size
    for place in _external(model, path):
        size += (path.parent / place).stat().st_size
    if size > _LARGEST_BYTES:
        raise BackboneError(f"{path} and its tensors are {size} bytes; networks of up to 2 GiB can be read")
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # noqa: BLE001 - ONNX raises its own kinds beside the system's
        raise BackboneError(f"the tensors beside {path} cannot be read: {first_line(error)}") from None
    _refuse_strangers(model, path)
    model.ir_version = min(model.ir_version, _IR_VERSION)
    channels, input_px = _take_images(model.graph, path)
    _remove_output(model.graph, path)
    return Exported(_folded(model, path), model, channels, input_px)


def _parse(path: Path) -> ModelProto:
    if not path.is_file():
        raise BackboneError(f"backbone.source names the file {path}, which does not exist; correct the path")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # noqa: BLE001 - protobuf has errors of its own
        raise BackboneError(f"{path} is no ONNX file ({first_line(error)}); export the network again") from None
    if not model.graph.node:
        raise BackboneError(f"{path} is no ONNX file, or one without a network in it; export the network again")
    return model


def _external(model: ModelProto, path: Path) -> list[str]:
    """Return the files beside a model that hold its tensors. Raises: BackboneError for one outside its folder."""
    tensors = [tensor for tensor in _tensors(model) if external_data_helper.uses_external_data(tensor)]
    places = sorted({external_data_helper.ExternalDataInfo(tensor).location for tensor in tensors})
    folder = path.parent.resolve()
    for place in places:
        target = path.parent / place
        if not place or folder not in target.resolve().parents:
            raise BackboneError(f"{path} wants tensors from {place!r}, outside its own folder; they were not read")
        if not target.is_file():
            raise BackboneError(f"{path} wants its tensors from {place}, which is not there; copy it beside the file")
    return places


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from model.graph.initializer
    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        for attribute in node.attribute:
            yield from [attribute.t] if attribute.HasField("t") else attribute.tensors


def _refuse_strangers(model: ModelProto, path: Path) -> None:
    """Refuse operators of other domains than ONNX's own, and a version of ONNX that is not known here."""
    own = {(function.domain, function.name) for function in model.functions}
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    foreign = {f"{node.domain}:{node.op_type}" for node in nodes if node.domain not in DOMAINS}
    foreign -= {f"{domain}:{name}" for domain, name in own}
    if foreign:
        raise BackboneError(
            f"{path} uses operators that are not ONNX's own: {', '.join(sorted(foreign))}; export the network in "
            "float32, without quantisation or custom operators"
        )
    newest = onnx.defs.onnx_opset_version()
    opset = max((item.version for item in model.opset_import if item.domain in DOMAINS), default=0)
    if not 0 < opset <= newest:
        raise BackboneError(f"{path} is of opset {opset}; opsets up to {newest} are known: export it with an older one")


def _take_images(graph: GraphProto, path: Path) -> tuple[int, int]:
    """Make the input `images` [images, channels, height, width]; return its channels and the side in pixels."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise BackboneError(f"{path} has the inputs {names}; a network of one, the images, is needed")
    kind = inputs[0].type.tensor_type
    sides = [dim.dim_value for dim in kind.shape.dim]
    if len(sides) != 4 or kind.elem_type != TensorProto.FLOAT:
        raise BackboneError(
            f"the input {inputs[0].name} of {path} is not float32 of [images, channels, height, width]; export it so"
        )
    last = sides[1] not in {1, 3} and sides[3] in {1, 3}
    channels, height, width = (sides[3], *sides[1:3]) if last else sides[1:]
    if channels not in {1, 3}:
        raise BackboneError(
            f"the input {inputs[0].name} of {path} has the shape {sides} (0: not fixed), from which it cannot be told "
            "where its 1 or 3 channels are; export it with a fixed number of channels"
        )
    if (height or width) != (width or height):
        raise BackboneError(f"{path} takes images of {width} x {height} px; export it for a square")
    input_px, name = height or width or _USUAL_PX, inputs[0].name
    if not 0 < input_px <= _LARGEST_PX:
        raise BackboneError(f"{path} takes images of {input_px} px; export it for 1 to {_LARGEST_PX}")
    images = f"{name}_nchw" if last else name
    if last:
        graph.node.insert(0, helper.make_node("Transpose", [images], [name], name=images, perm=[0, 2, 3, 1]))
    shape = ["images", channels, input_px, input_px]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(images, TensorProto.FLOAT, shape))
    return channels, input_px


def _remove_output(graph: GraphProto, path: Path) -> None:
    """Let the network end in what its last linear layer reads; one that ends in features already stays as it is."""
    if len(graph.output) != 1:
        names = ", ".join(value.name for value in graph.output)
        raise BackboneError(f"{path} has the outputs {names}; export it with one, the classes or the features")
    made_by = {name: node for node in graph.node for name in node.output}
    live = _depends_on_images(graph)
    name, squashed = graph.output[0].name, False
    if name not in made_by:
        raise BackboneError(f"{path} has the output {name}, which no operator gives; export the network again")
    while name in made_by and made_by[name].op_type in _SQUASHES | _SHAPES:
        squashed |= made_by[name].op_type in _SQUASHES
        name = made_by[name].input[0]
    features, flat = _before_linear(made_by, name, live)
    if features is None:
        if squashed:
            last = made_by[name].op_type if name in made_by else "its input"
            raise BackboneError(
                f"the output layer of {path} was not found: what goes into its last activation comes from {last}, "
                "not from a linear layer; export the network without its output layer"
            )
        return
    if not flat:
        graph.node.append(helper.make_node("Flatten", [features], [f"{features}_flat"], name=f"{features}_flat"))
        features = f"{features}_flat"
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(features, TensorProto.FLOAT, None))


def _before_linear(made_by: dict[str, NodeProto], name: str, live: set[str]) -> tuple[str | None, bool]:
    """Return what the linear layer that gives `name` reads, and whether it is one vector per image."""
    node = made_by.get(name)
    if node is not None and node.op_type == "Add":
        node = next((made_by.get(value) for value in node.input if value in live), None)
        while node is not None and node.op_type in {"Cast", "Identity"}:
            node = made_by.get(node.input[0])
        node = node if node is not None and node.op_type == "MatMul" else None
    if node is None or any(value in live for value in node.input[1:]):
        return None, True
    if node.op_type in {"Gemm", "MatMul"}:
        return node.input[0], True
    kernel = next((list(item.ints) for item in node.attribute if item.name == "kernel_shape"), None)
    return (node.input[0], False) if node.op_type == "Conv" and kernel == [1, 1] else (None, True)


def _depends_on_images(graph: GraphProto) -> set[str]:
    live = {value.name for value in graph.input}
    for node in graph.node:
        if live.intersection(node.input):
            live.update(node.output)
    return live


def _folded(model: ModelProto, path: Path) -> ModelProto:
    from thaw.networks.onnx.folding import folded

    try:
        found = folded(model)
    except Exception as error:  # noqa: BLE001 - whatever a malformed graph leads ONNX's tools into
        raise BackboneError(f"{path} is not a valid network: {first_line(error)}; export it again") from None
    kind = found.graph.output[0].type.tensor_type
    if kind.HasField("shape") and len(kind.shape.dim) != 2:
        raise BackboneError(
            f"{path} ends in a tensor of {len(kind.shape.dim)} dimensions; features are [images, features]: export it "
            "with its pooling"
        )
    return found
