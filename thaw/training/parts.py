"""What a phase is trained on in turn: each fold of the development images, then all of them; or one split's train."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from thaw.data.packed import LabelledRows, PackedImages, development_of, folds_of
from thaw.errors import ArtifactError
from thaw.pipeline.model_facts import ModelFacts
from thaw.training.phase_folder import Answers


@dataclass(frozen=True)
class Start:
    """What a phase starts from: the trained tensors and model.json of the head or of another phase."""

    tensors: Mapping[str, Tensor]
    model: ModelFacts
    folds: Sequence[Mapping[str, Tensor]] = ()
    """What was trained in each fold, where there are several."""


@dataclass(frozen=True)
class Part:
    """One training of a phase."""

    label: str
    """`fold 1 of 5`, `all images`, or nothing where it is the only one."""
    train: LabelledRows
    val: LabelledRows | None
    """None for all development images, of which none is left to look at."""
    start: Mapping[str, Tensor]


@dataclass(frozen=True)
class Outcome:
    """What the parts leave: the tensors that are kept, those of each of several folds, and answers on validation."""

    tensors: Mapping[str, Tensor]
    folds: list[Mapping[str, Tensor]]
    answers: Answers


def parts_of(images: PackedImages, start: Start) -> list[Part]:
    """Return the parts in the order in which they are trained; the last one's tensors are kept.

    Raises: ArtifactError if the start was trained in another number of folds than the images have.
    """
    folds = folds_of(images)
    if len(folds) != max(len(start.folds), 1):
        raise ArtifactError(
            f"{start.model.phase} was trained in {max(len(start.folds), 1)} folds, and the images have {len(folds)}; "
            "run `dvc repro`, which trains it anew"
        )
    if len(folds) == 1:
        return [Part("", folds[0].train, folds[0].val, start.tensors)]
    each = [
        Part(f"fold {number} of {len(folds)}", fold.train, fold.val, tensors)
        for number, (fold, tensors) in enumerate(zip(folds, start.folds, strict=True), 1)
    ]
    return [*each, Part("all images", development_of(images), None, start.tensors)]


def gather(
    parts: Sequence[Part], tensors: Sequence[Mapping[str, Tensor]], logits: Sequence[NDArray[np.float32]]
) -> Outcome:
    """Return what the parts leave together, from the tensors and the validation logits of each."""
    validated = [(part.val, answered) for part, answered in zip(parts, logits, strict=True) if part.val is not None]
    rows = np.concatenate([val.rows for val, _ in validated])
    order = np.argsort(rows)
    labels = np.concatenate([val.labels for val, _ in validated])
    folds = np.repeat(np.arange(len(validated)), [len(val.rows) for val, _ in validated])
    answers = Answers(
        np.concatenate([found for _, found in validated])[order], labels[order], rows[order], folds[order]
    )
    return Outcome(tensors[-1], [*tensors[:-1]], answers)


def mean_curves(curves: Sequence[list[dict[str, float]]], parts: Sequence[Part]) -> list[dict[str, float]]:
    """Return a row for each epoch: what several folds have on average, each image that is validated counting once."""
    weighted = [(rows, len(part.val.rows)) for rows, part in zip(curves, parts, strict=True) if part.val is not None]
    total = sum(weight for _, weight in weighted)
    epochs = zip(*(rows for rows, _ in weighted), strict=True)
    return (
        [
            {
                key: sum(row[key] * weight for row, (_, weight) in zip(rows, weighted, strict=True)) / total
                for key in rows[0]
            }
            for rows in epochs
        ]
        if len(weighted) > 1
        else weighted[0][0]
    )
