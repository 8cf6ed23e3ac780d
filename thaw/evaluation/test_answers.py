"""What every candidate answers on the test images, in one pass: the blocks that none of them changed are run once."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw.activations.engine import Engine
from thaw.config.schema import ComputeParams
from thaw.data.packed import PackedImages
from thaw.errors import ArtifactError
from thaw.pipeline import artifacts, facts, timings
from thaw.pipeline.candidates import folder_of
from thaw.pipeline.facts import ModelFacts
from thaw.progress import progress
from thaw.training import phase_folder
from thaw.training.model import BATCH, Model, load_phase


def load_distinct(final: Model, phases: Path, backbone: Path) -> tuple[dict[str, Model], dict[str, str]]:
    """Return the models to test, by name, and for each candidate the name of the model that answers for it.

    `final` is the winner, which names the candidates; `phases` is models/phases, `backbone` models/backbone. A phase
    that gained nothing is what it started from, and is not run again.
    Raises: ArtifactError if a folder is missing or altered.
    """
    models: dict[str, Model] = {}
    same: dict[str, str] = {}
    for name in final.candidates:  # each after the one that it starts from
        folder = folder_of(phases, name)
        artifacts.verify(folder)
        stored = facts.read(folder / "model.json", ModelFacts)
        if stored.best_epoch == 0 and stored.start is not None:
            same[name] = same[stored.start]
            continue
        models[name] = final if name == final.facts.phase else load_phase(folder, backbone)
        same[name] = name
    return models, same


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

    The models are phases of one run, and computed in the fastest engine.
    Raises: ArtifactError if the blocks that they share differ.
    """
    first, *others = models.values()
    index = min(model.facts.cut for model in models.values())
    shared = phase_folder.frozen_digest(first.backbone, index)
    for model in others:
        if phase_folder.frozen_digest(model.backbone, index) != shared:
            raise ArtifactError("the phases rest on different backbones; run `dvc repro`, which makes them anew")
    together = _Together([*models.values()], index).eval()
    with timings.part("engine"):
        key = artifacts.digest([artifacts.sha256_of(Path(__file__)), *(model.fingerprint for model in models.values())])
        engine = Engine(together, first.look(images.read(rows[:BATCH]), 0), key=key, compute=compute)
    logits: list[list[NDArray[np.float32]]] = [[] for _ in models]
    starts = range(0, len(rows), BATCH)
    for start in progress(starts, total=len(starts), label=label):
        squares = images.read(rows[start : start + BATCH])
        views = [engine(first.look(squares, view)) for view in range(first.num_answers)]
        for mine, answers in zip(logits, zip(*views, strict=True), strict=True):
            mine.append(np.mean(answers, axis=0))
    return {
        name: model.calibrated(np.concatenate(mine)) for (name, model), mine in zip(models.items(), logits, strict=True)
    }


class _Together(nn.Module):
    """Several classifiers with the same blocks below `index` as one network with an output each."""

    def __init__(self, models: Sequence[Model], index: int) -> None:
        super().__init__()
        halves = [model.backbone.split(len(model.backbone.units) - index) for model in models]
        self.prefix = halves[0][0]
        self.suffixes = nn.ModuleList(suffix for _, suffix in halves)
        self.heads = nn.ModuleList(model.head for model in models)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the logits [images, classes] of each."""
        boundary = self.prefix(images)
        return tuple(head(suffix(*boundary)) for suffix, head in zip(self.suffixes, self.heads, strict=True))
