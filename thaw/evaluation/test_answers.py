"""What every candidate answers on the test images, in one pass: the blocks that none of them changed are run once."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thaw.activations.engine import Engine
from thaw.config.schema import ComputeParams
from thaw.data.packed import PackedImages
from thaw.errors import ArtifactError
from thaw.networks import together
from thaw.networks.together import Together
from thaw.pipeline import artifacts, timings
from thaw.pipeline.candidates import folder_of
from thaw.progress import progress
from thaw.training import phase_folder
from thaw.training.model import BATCH, Model, load_phase


def load_candidates(final: Model, phases: Path, backbone: Path) -> dict[str, Model]:
    """Return the models to test, by name.

    `final` is the winner, which names the candidates; `phases` is models/phases, `backbone` models/backbone. Where the
    winner is the mean of its folds' networks so are the others: what an ensemble gains is no gain of unfreezing.
    Raises: ArtifactError if a folder is missing or altered.
    """
    models: dict[str, Model] = {}
    for name in final.candidates:
        folder = folder_of(phases, name)
        artifacts.verify(folder)
        chosen = name == final.facts.phase
        models[name] = final if chosen else load_phase(folder, backbone, members=len(final.members))
    return models


@timings.counted("answer")
def answer(
    models: Mapping[str, Model],
    images: PackedImages,
    rows: NDArray[np.int64],
    *,
    compute: ComputeParams,
    label: str,
) -> dict[str, NDArray[np.float64]]:
    """Return each model's calibrated probabilities [images, classes] of rows of a prepared data set, by its name.

    The models are phases of one run, and computed in the engine for so many images.
    Raises: ArtifactError if they were made with another data set, or if the blocks that they share differ.
    """
    for name, model in models.items():
        if model.facts.lineage.data != images.fingerprint:
            raise ArtifactError(
                f"{name} was made with other images than data/prepared has now, whose classes and test images may be "
                "others; run `dvc repro`, which makes it anew"
            )
    first, *others = models.values()
    index = min(model.facts.cut for model in models.values())
    shared = phase_folder.frozen_digest(first.backbone, index)
    for model in others:
        if phase_folder.frozen_digest(model.backbone, index) != shared:
            raise ArtifactError("the phases rest on different backbones; run `dvc repro`, which makes them anew")
    network = Together([member for model in models.values() for member in model.members], index)
    sizes = [len(model.members) for model in models.values()]
    with timings.part("engine"):
        code = artifacts.sha256_of(Path(together.__file__))
        key = artifacts.digest([code, *sizes, *(model.fingerprint for model in models.values())])
        sample = first.look(images.read(rows[:BATCH]), 0)
        engine = Engine(network, sample, key=key, compute=compute, num_images=len(rows))
    logits: list[list[NDArray[np.float32]]] = [[] for _ in models]
    starts = range(0, len(rows), BATCH)
    for start in progress(starts, total=len(starts), label=label):
        squares = images.read(rows[start : start + BATCH])
        views = [engine(first.look(squares, view)) for view in range(first.num_answers)]
        answers = np.mean(views, axis=0)  # [members of all models, images, classes]
        for mine, own in zip(logits, np.split(answers, np.cumsum(sizes)[:-1]), strict=True):
            mine.append(own.mean(axis=0))
    return {
        name: model.calibrated(np.concatenate(mine)) for (name, model), mine in zip(models.items(), logits, strict=True)
    }
