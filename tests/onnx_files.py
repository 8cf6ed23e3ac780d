"""Networks and graphs in ONNX files, as exporters write them. No test here."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torchvision import models


def network(name: str) -> nn.Module:
    """Return a classifier of torchvision whose norms are not as they begin."""
    torch.manual_seed(3)
    module: nn.Module = models.get_model(name, weights=None, num_classes=5)
    return moved(module)


def moved(module: nn.Module) -> nn.Module:
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            assert child.running_mean is not None
            assert child.running_var is not None
            child.running_mean.normal_(0, 0.1)
            child.running_var.uniform_(0.5, 1.5)
    return module.eval()


def exported(module: nn.Module, path: Path, *, side_px: int = 64, norms: bool = False, images: int = 0) -> Path:
    """Export a network by torch's older exporter; `norms` keeps norm layers apart, `images` fixes their number."""
    torch.onnx.export(
        module,
        (torch.zeros(images or 2, 3, side_px, side_px),),
        path,
        dynamo=False,
        input_names=["images"],
        dynamic_axes={} if images else {"images": {0: "n"}},
        opset_version=17,
        do_constant_folding=not norms,
        training=torch.onnx.TrainingMode.PRESERVE if norms else torch.onnx.TrainingMode.EVAL,
    )
    return path


def saved(path: Path, nodes: list[Any], weights: dict[str, Any], shape: list[Any], **more: Any) -> Path:
    """Save a graph from `images` to `out` as an exporter might."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, **{"opset_imports": [helper.make_opsetid("", 17)]} | more), path)
    return path


def small(
    path: Path, *, nhwc: bool = False, shape: list[Any] | None = None, last: str = "Gemm", flat: str = ""
) -> Path:
    """Save two convolutions, a pooling and an output layer; `flat` is how a reshape flattens instead."""
    draw = np.random.default_rng(0)
    weights = {
        "a": draw.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "b": draw.normal(size=(6, 4, 3, 3)).astype(np.float32),
        "c": draw.normal(size=(6, 2)).astype(np.float32),
    }
    first = [helper.make_node("Transpose", ["images"], ["x"], perm=[0, 3, 1, 2])] if nhwc else []
    flattened = [helper.make_node("Flatten", ["p"], ["f"])]
    if flat == "constant":
        weights["shape"] = np.array([-1, 6])
        flattened = [helper.make_node("Reshape", ["p", "shape"], ["f"], name="reshape")]
    elif flat == "computed":  # as exporters write `maps.reshape(len(images), 6)`
        weights |= {"zero": np.array([0]), "six": np.array([6])}
        first += [
            helper.make_node("Shape", ["images"], ["sizes"]),
            helper.make_node("Gather", ["sizes", "zero"], ["number"]),
        ]
        concat = helper.make_node("Concat", ["number", "six"], ["shape"], axis=0)
        flattened = [concat, helper.make_node("Reshape", ["p", "shape"], ["f"], name="reshape")]
    nodes = [
        *first,
        helper.make_node("Conv", ["x" if nhwc else "images", "a"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["z"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["z"], ["p"]),
        *flattened,
        helper.make_node(last, ["f", "c"] if last != "Softmax" else ["f"], ["s"]),
        helper.make_node("Softmax", ["s"], ["out"]),
    ]
    return saved(path, nodes, weights, shape or (["n", 32, 32, 3] if nhwc else ["n", 3, 32, 32]))
