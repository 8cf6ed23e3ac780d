"""Write the whole classifier as ONNX and as a program of torch.export: the same bytes each time, nothing pickled."""

import json
import logging
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import external_data_helper

from thaw.errors import ArtifactError, BackboneError, first_line
from thaw.export.graph import ExportableClassifier
from thaw.networks.onnx import runtime
from thaw.networks.spec import Spec
from thaw.pipeline import facts, timings
from thaw.pipeline.model_facts import ExportedFacts, ExportedInput, ExportedPreprocessing, ModelFacts, Origin
from thaw.serving.exported import CLASS_MAPS, FACTS_FILE, FORMAT, OCCLUSION, ONNX_FILE, metadata

PROGRAM_FILE = "model.pt2"


def describe(
    model: ModelFacts, spec: Spec, whole: ExportableClassifier, *, fingerprint: str, license_: str
) -> ExportedFacts:
    """Return what an exported classifier says of itself, from the model.json of models/final and its fingerprint."""
    settings, augment = model.preprocessing, model.augment
    return ExportedFacts(
        format=FORMAT,
        classes=model.classes,
        preprocessing=ExportedPreprocessing(
            size_px=settings.size_px,
            fit=settings.fit,
            max_megapixels=settings.max_megapixels,
            background=settings.background,
            value_range=settings.value_range,
            plane=settings.plane,
            dtype=settings.dtype,
            channels=spec.in_channels,
        ),
        input=ExportedInput(input_px=spec.input_px, mean=list(spec.input_mean), std=list(spec.input_std)),
        flips=augment.flip if augment.tta else "none",
        views=len(whole.symmetries),
        members=model.members,
        cost=whole.cost if model.members else None,
        temperature=whole.temperature,
        explanation=CLASS_MAPS if whole.has_maps else OCCLUSION,
        backbone=Origin(library=spec.library, name=spec.name, license=spec.license, url=spec.url),
        license=license_,
        phase=model.phase,
        fingerprint=fingerprint,
        lineage=model.lineage,
    )


@timings.counted("export")
def write(folder: Path, whole: ExportableClassifier, stored: ExportedFacts, *, torch_program: bool) -> None:
    """Fill a folder with model.onnx and model.json, and model.onnx.data where the weights are large.

    With `torch_program` there is model.pt2 too, the program of torch.export.
    Raises: BackboneError, with the exporter's reason, if the network cannot be exported.
    """
    settings = stored.preprocessing
    shape = (2, settings.size_px, settings.size_px, settings.channels)
    squares = torch.from_numpy(np.zeros(shape, settings.pixel_type))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    images = torch.export.Dim("images", min=1)
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            program = torch.export.export(whole, (squares,), dynamic_shapes=({0: images},), strict=False)
            names = ["probabilities", "maps"][: 2 if whole.has_maps else 1]
            exported: Any = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=["squares"], output_names=names
            )
    except Exception as error:
        raise BackboneError(
            f"{stored.backbone.name} cannot be exported: {first_line(error)}; models/final holds the model "
            "all the same (thaw.load); stop at `dvc repro evaluate`, or choose another backbone"
        ) from error
    _save_onnx(folder / ONNX_FILE, exported.model_proto, stored)
    if torch_program:
        _save_program(folder / PROGRAM_FILE, program)
    facts.write(folder / FACTS_FILE, stored)


def _save_onnx(path: Path, model: onnx.ModelProto, stored: ExportedFacts) -> None:
    """Save a graph without the exporter's notes: they hold paths of this machine and stack traces.

    Tensors that are too large for one file lie beside it, in `model.onnx.data`.
    """
    for part in (model, model.graph, *model.functions, *_nodes(model)):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    onnx.helper.set_model_props(model, metadata(stored))
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > runtime.LARGEST_BYTES:
        external_data_helper.convert_model_to_external_data(model, location=f"{path.name}.data")
        external_data_helper.write_external_data_tensors(model, str(path.parent))
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path))


def _nodes(model: onnx.ModelProto) -> list[Any]:
    pending: list[Any] = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    found = []
    while pending:
        node = pending.pop()
        found.append(node)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                pending += graph.node
    return found


def _save_program(path: Path, program: torch.export.ExportedProgram) -> None:
    """Save a program of torch.export without stack traces and example inputs, which it would pickle.

    Raises: ArtifactError if anything in the file is pickled after all.
    """
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    program.example_inputs = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tensors that it takes to be shared
        torch.export.save(program, path)
    if found := pickled(path):
        raise ArtifactError(f"torch.export pickled {found[0]} of {path.name}; nothing of Thaw's may be, report it")


def pickled(path: Path) -> list[str]:
    """Return the names of what is pickled in a program of torch.export: payloads that say so, and example inputs."""
    found = []
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = entry.filename
            if name.endswith("_config.json"):
                payloads = json.loads(archive.read(name))["config"]
                found += [payload["path_name"] for payload in payloads.values() if payload["use_pickle"]]
            elif "/sample_inputs/" in name and entry.file_size:
                found.append(name)
    return sorted(found)
