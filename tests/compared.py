"""Runs of the pipeline made by hand: what `compare` reads, with a model that looks at brightness. No test here."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import pandas as pd
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests import tiny
from thaw.errors import ArtifactError
from thaw.pipeline import artifacts, facts, tables
from thaw.pipeline.report_facts import ClassFigures
from thaw.pipeline.revisions import Tree
from thaw.serving.exported import metadata

SIZE_PX = 16


@dataclass(frozen=True)
class Told:
    """An image of one grey level, 0 to 255, its label, and what the model of a run answers if it is tested."""

    grey: int
    label: str
    predicted: str
    probability: float = 0.8
    """Of the answer."""
    label_probability: float | None = None
    """None: all that is left of 1, where the answer is another one."""
    group: str = ""
    split: str = "test"

    @property
    def content(self) -> bytes:
        """The image as a PNG."""
        buffer = BytesIO()
        Image.fromarray(np.full((SIZE_PX, SIZE_PX), self.grey, np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    @property
    def sha256(self) -> str:
        """The hash of the PNG."""
        return hashlib.sha256(self.content).hexdigest()


def write_run(root: Path, images: Sequence[Told], classes: Sequence[str] = ("dark", "light")) -> Path:
    """Write raw images, samples.csv, predictions.csv and classes.json into a project's folder, and return it."""
    for image in images:
        path = root / "raw" / f"{image.grey}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.content)
    own = [
        image.label_probability
        if image.label_probability is not None
        else image.probability
        if image.predicted == image.label
        else 1 - image.probability
        for image in images
    ]
    table = pd.DataFrame(
        {
            "id": [image.sha256[:16] for image in images],
            "path": [f"{image.grey}.png" for image in images],
            "label": [image.label for image in images],
            "split": [image.split for image in images],
            "group": [image.group for image in images],
            "sha256": [image.sha256 for image in images],
            "predicted": [image.predicted for image in images],
            "probability": [image.probability for image in images],
            "label_probability": own,
        }
    )
    tables.write(root / "data/prepared/samples.csv", table[["id", "path", "label", "split", "group", "sha256"]])
    tested = table[table["split"] == "test"].drop(columns=["split", "group", "sha256"])
    tables.write(root / "reports/predictions.csv", tested)
    facts.write(root / "reports/classes.json", ClassFigures({name: {"support": 1} for name in classes}))
    (root / "params.yaml").write_text(yaml.safe_dump({"data": {"raw": "raw"}}), encoding="utf-8")
    return root


def write_export(root: Path, classes: Sequence[str] = ("dark", "light")) -> None:
    """Write models/export of a model: the last class is as likely as the image is bright, the first what is left."""
    size = {"size_px": SIZE_PX, "channels": 1}
    described = tiny.exported_facts(classes=[*classes], preprocessing=tiny.preprocessing().model_dump() | size)
    between = np.zeros((1, len(classes)), np.float32)
    between[0, [0, -1]] = -1, 1
    rest = np.eye(1, len(classes), dtype=np.float32)
    weights = {"scale": np.float32(1 / 255), "axes": np.array([1, 2, 3]), "between": between, "rest": rest}
    weights |= {"column": np.array([-1, 1])}
    nodes = [
        helper.make_node("Cast", ["squares"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["bright"]),
        helper.make_node("Reshape", ["bright", "column"], ["columns"]),
        helper.make_node("MatMul", ["columns", "between"], ["shares"]),
        helper.make_node("Add", ["shares", "rest"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("squares", TensorProto.UINT8, ["images", SIZE_PX, SIZE_PX, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["images", len(classes)])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, metadata(described))
    with artifacts.new_folder(root / "models/export") as folder:
        onnx.save(model, folder / "model.onnx")
        facts.write(folder / "model.json", described)


def tree(root: Path, name: str) -> Tree:
    """Return the files of a folder as those of a revision."""

    def opened(path: str) -> BinaryIO:
        try:
            return (root / path).open("rb")
        except OSError:
            raise ArtifactError(f"{path} of {name} is nowhere") from None

    return Tree(name, opened, None if name == "workspace" else "c0ffee" + "0" * 34)
