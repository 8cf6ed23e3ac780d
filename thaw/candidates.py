"""What every candidate answers on the test images, in one pass: the blocks that none of them changed are run once."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw import files, timing
from thaw.errors import ArtifactError
from thaw.images.pack import PackedImages
from thaw.model import BATCH, Model
from thaw.network.engine import Engine
from thaw.params import ComputeParams
from thaw.progress import progress
from thaw.training import artifact


@timing.counted("answer")
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
    index = min(model.facts["cut"] for model in models.values())
    shared = artifact.frozen_digest(first.backbone, index)
    for model in others:
        if artifact.frozen_digest(model.backbone, index) != shared:
            raise ArtifactError("the phases rest on different backbones; run `dvc repro`, which makes them anew")
    together = _Together([*models.values()], index).eval()
    with timing.part("engine"):
        key = files.digest([files.sha256_of(Path(__file__)), *(model.fingerprint for model in models.values())])
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
