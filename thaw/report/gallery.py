"""The images that the page shows: those behind the confusion matrix, the worst answers, doubtful labels, duplicates."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from thaw.data.folds import places
from thaw.pipeline.data_facts import Group
from thaw.report.confusion import in_turn
from thaw.report.gradcam import grad_cam
from thaw.report.pictures import LARGE_PX, THUMB_PX, Budget, heat, thumbnail
from thaw.report.sources import Answers, Sources
from thaw.training.model import Model

VIEWER_CHARACTERS = 4_500_000
"""Of data URIs behind the confusion matrix; with all the rest a page stays below 8 MB."""
MOST_VIEWED = 3000
_MOST_WORST, _MOST_DOUBTFUL, _MOST_GROUPS, _MOST_IN_GROUP = 12, 24, 12, 4


class Viewer(TypedDict):
    """What the page's script shows behind a cell, as JSON."""

    classes: list[str]
    images: list[tuple[str, int, int, float, float, str]]
    """Path, actual class, predicted class, its probability, that of the actual class, data URI."""
    totals: dict[str, int]
    """How many images each cell really has, by `ACTUAL,PREDICTED`."""


@dataclass(frozen=True)
class Entry:
    """An image with the model's answer."""

    path: str
    split: str
    label: str
    predicted: str
    probability: float
    """Of the class that the model names."""
    label_probability: float
    picture: str
    """A data URI."""
    loss: float | None = None
    """Nats; None where the images are not in the order of their losses."""
    heat: str | None = None
    """A data URI of the heat map, where there is one."""


@dataclass(frozen=True)
class Copy:
    """An image of a group of duplicates."""

    path: str
    label: str
    split: str
    picture: str | None
    """A data URI; None where the image is not in the data set."""


@dataclass(frozen=True)
class Lookalikes:
    """A group of duplicates."""

    size: int
    splits: Sequence[str]
    images: list[Copy]
    labels: list[str]
    """The labels of its first images, each once."""


@dataclass(frozen=True)
class Duplicates:
    """How many groups of a kind of duplicates there are, the first of them, and how many are not shown."""

    count: int
    groups: list[Lookalikes]
    more: int
    contradictory: int
    """How many have more than one label, as near copies may have."""


def viewer(sources: Sources, *, characters: int = VIEWER_CHARACTERS) -> Viewer:
    """Return what the page's script shows: as many images as there is room for, every cell in its turn."""
    answers, budget = sources.test, Budget(characters)
    images: list[tuple[str, int, int, float, float, str]] = []
    order = in_turn(answers, len(sources.images.classes))[:MOST_VIEWED]
    for position in order:
        uri = thumbnail(_pixels(sources, answers, position))
        if not budget.take(uri):
            break
        own, other = (round(float(values[position]), 4) for values in (answers.probability, answers.label_probability))
        actual, predicted = int(answers.labels[position]), int(answers.predicted[position])
        images.append((_path(sources, answers, position), actual, predicted, own, other, uri))
    totals = Counter(f"{actual},{given}" for actual, given in zip(answers.labels, answers.predicted, strict=True))
    return {"classes": sources.images.classes, "images": images, "totals": dict(sorted(totals.items()))}


def worst(sources: Sources, model: Model) -> tuple[list[Entry], bool]:
    """Return the test images with the largest loss, largest first, and whether heat maps could be made.

    A heat map says what in the plain view speaks for the class that the model names.
    """
    answers = sources.test
    order = _by_loss(answers)
    squares = sources.images.read(answers.rows[order])
    maps = grad_cam(model.members, model.look(squares, 0), answers.predicted[order].tolist())
    entries = largest_losses(sources, answers)
    if maps is None:
        return entries, False
    return [replace(entry, heat=heat(one)) for entry, one in zip(entries, maps, strict=True)], True


def largest_losses(sources: Sources, answers: Answers) -> list[Entry]:
    """Return the images with the largest loss, largest first."""
    eps = float(np.finfo(np.float64).eps)
    entries = [_entry(sources, answers, position, LARGE_PX) for position in _by_loss(answers)]
    return [replace(entry, loss=-math.log(max(entry.label_probability, eps))) for entry in entries]


def _by_loss(answers: Answers) -> NDArray[np.int64]:
    return np.lexsort((answers.rows, answers.label_probability))[:_MOST_WORST]


def doubtful(sources: Sources) -> tuple[list[Entry], int]:
    """Return the first test and validation images whose label is likely wrong, and how many there are in all.

    With folds these are all images but those that every fold trains on.
    """
    answers = sources.test if sources.validation is None else _joined(sources.test, sources.validation)
    found = label_errors(answers.labels, answers.predicted, answers.label_probability, answers.probability)
    return [_entry(sources, answers, position, THUMB_PX) for position in found[:_MOST_DOUBTFUL]], len(found)


def label_errors(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    label_probability: NDArray[np.float64],
    probability: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Return the positions of images whose label is likely wrong, the largest contradiction first.

    Confident learning (Northcutt, Jiang and Chuang 2021, arXiv:1911.00068, section 3.1): a class's threshold is the
    mean probability that its own images get for it, and an image whose probability reaches the threshold of another
    class counts as one of that class.
    For each image its label, the class that the model names, and the model's probabilities of the two. The model must
    not have been trained on these images. Listed is an image that gets less than the threshold for its label, and at
    least the threshold for the class that the model names instead. Ordered by the difference of the probabilities.
    """
    if not len(labels):
        return np.zeros(0, np.int64)
    num_classes = int(max(labels.max(), predicted.max())) + 1
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, label_probability, num_classes)
    thresholds = np.divide(sums, counts, out=np.full(num_classes, np.inf), where=counts > 0)
    doubtful = (predicted != labels) & (label_probability < thresholds[labels]) & (probability >= thresholds[predicted])
    found = np.flatnonzero(doubtful)
    return found[np.argsort(label_probability[found] - probability[found], kind="stable")]


def lookalikes(sources: Sources) -> dict[str, Duplicates]:
    """Return the groups of duplicates in audit.json by kind, first those with several labels, then across splits."""
    rows = {str(path): row for row, path in enumerate(sources.images.samples["path"])}
    kinds = {}
    audit = sources.audit
    for kind, listed in (("exact_duplicates", audit.exact_duplicates), ("near_duplicates", audit.near_duplicates)):
        groups = sorted(listed.first, key=lambda group: (len(set(group.labels)) < 2, len(group.splits) < 2))
        shown = [
            Lookalikes(
                group.images,
                group.splits,
                [_copy(sources, rows, *pair) for pair in _first_pairs(group)],
                sorted(set(group.labels)),
            )
            for group in groups[:_MOST_GROUPS]
        ]
        kinds[kind] = Duplicates(listed.count, shown, listed.count - len(shown), getattr(listed, "contradictory", 0))
    return kinds


def _first_pairs(group: Group) -> list[tuple[str, str]]:
    return list(zip(group.paths, group.labels, strict=True))[:_MOST_IN_GROUP]


def _copy(sources: Sources, rows: Mapping[str, int], path: str, label: str) -> Copy:
    row = rows.get(path)
    picture = None if row is None else thumbnail(sources.images.read(np.array([row]))[0], 96)
    split = "" if row is None else places(sources.images.samples.iloc[row : row + 1])[0]
    return Copy(path, label, split, picture)


def _entry(sources: Sources, answers: Answers, position: int, side_px: int) -> Entry:
    classes = sources.images.classes
    return Entry(
        path=_path(sources, answers, position),
        split=places(sources.images.samples.iloc[answers.rows[position] : answers.rows[position] + 1])[0],
        label=classes[answers.labels[position]],
        predicted=classes[answers.predicted[position]],
        probability=float(answers.probability[position]),
        label_probability=float(answers.label_probability[position]),
        picture=thumbnail(_pixels(sources, answers, position), side_px),
    )


def _path(sources: Sources, answers: Answers, position: int) -> str:
    return str(sources.images.samples["path"].iloc[answers.rows[position]])


def _pixels(sources: Sources, answers: Answers, position: int) -> NDArray[Any]:
    square: NDArray[Any] = sources.images.read(answers.rows[position : position + 1])[0]
    return square


def _joined(*parts: Answers) -> Answers:
    def columns(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])

    return Answers(*(columns(name) for name in ("rows", "labels", "predicted", "probability", "label_probability")))
