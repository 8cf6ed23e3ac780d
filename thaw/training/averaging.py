"""The mean of a phase's weights and those of its start, as a candidate of its own.

Two fine-tunings from one point often lie in one basin of the loss, and their mean can be better than either (SWA,
Izmailov et al. 2018, arXiv:1803.05407; model soups, Wortsman et al. 2022, arXiv:2203.05482). A phase with `warm_start`
begins by solving another head, and then the mean may be worse than both (docs/log.md). So `select` decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from thaw.activations.sources import Source
from thaw.data.packed import LabelledRows
from thaw.pipeline import artifacts
from thaw.pipeline.candidates import FOLDER, average_name
from thaw.pipeline.model_facts import ModelFacts
from thaw.training import checkpoint, phase_folder
from thaw.training.loop import Phase
from thaw.training.parts import Outcome


@dataclass(frozen=True)
class Average:
    """The mean's tensors, named as those of the phase, and its logits [images, classes] on validation."""

    tensors: dict[str, Tensor]
    val_logits: NDArray[np.float32]


def write_average(folder: Path, average: Outcome, model: ModelFacts) -> None:
    """Add the mean to a phase's folder, in one of its own; `model` is the phase's model.json."""
    own = {"phase": average_name(model.start or "", model.phase), "start": model.phase}
    with artifacts.new_folder(folder / FOLDER) as inside:
        phase_folder.write(
            inside,
            tensors=average.tensors,
            folds=average.folds,
            model=model.model_copy(update=own),
            answers=average.answers,
            curves=(),
        )


def average_of(
    phase: Phase,
    start: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    val: tuple[Source, LabelledRows] | None,
) -> Average:
    """Return the mean of two sets of tensors of a phase's model, and what it answers; the model then holds it.

    `start` has what the phase trains as it was before: what its start trained, and elsewhere the pretrained tensors.
    """
    tensors = mean_of(start, trained)
    for module in (phase.model, phase.stepper.eval_model):
        module.load_state_dict(tensors)
    phase.stepper.round()
    return Average(checkpoint.trained_tensors(phase.stepper.eval_model), phase.answer(val))


def mean_of(start: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the mean of each pair of tensors, running statistics included; counters are those of `trained`.

    The statistics are not estimated anew on training images: that was measured to be worse (docs/log.md).
    """
    return {
        name: (start[name] + value) / 2 if value.is_floating_point() else value.clone()
        for name, value in trained.items()
    }
