"""Which classes are taken for which, and the images behind each cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.pipeline.report_facts import Figures
from thaw.report.sources import Answers

MOST_NAMED = 12
"""Classes up to which each row and column of the matrix has its name beside it and each cell its number inside."""
_MOST_PAIRS = 15


@dataclass(frozen=True)
class Cell:
    """Test images of one class that the model gives to one class."""

    actual: int
    predicted: int
    count: int
    share: float
    """Of the images of the actual class, 0 to 1."""


@dataclass(frozen=True)
class Matrix:
    """The confusion matrix of the test set."""

    classes: list[str]
    cells: list[list[Cell]]
    """Rows are actual classes, columns predicted ones; empty where there is no room for names and numbers."""
    filled: list[Cell]
    """The cells that hold an image."""
    pairs: list[Cell]
    """The most frequent confusions, most frequent first."""
    wrong: int
    images: int

    @property
    def small(self) -> bool:
        """Whether there is room for names and numbers."""
        return len(self.classes) <= MOST_NAMED


def matrix(answers: Answers, classes: Sequence[str]) -> Matrix:
    """Return the confusion matrix of these answers."""
    counts = counted(answers, len(classes))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def cell(row: int, column: int) -> Cell:
        return Cell(row, column, int(counts[row, column]), float(shares[row, column]))

    places = range(len(classes))
    cells = [[cell(row, column) for column in places] for row in places] if len(classes) <= MOST_NAMED else []
    filled = [cell(int(row), int(column)) for row, column in zip(*counts.nonzero(), strict=True)]
    errors = [one for one in filled if one.actual != one.predicted]
    pairs = sorted(errors, key=lambda one: (-one.count, -one.share, one.actual, one.predicted))
    return Matrix(list(classes), cells, filled, pairs[:_MOST_PAIRS], sum(one.count for one in errors), len(answers))


def counted(answers: Answers, num_classes: int) -> NDArray[np.int64]:
    """Return how many images of each class [actual] were given to each class [predicted]."""
    flat = np.bincount(answers.labels * num_classes + answers.predicted, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes).astype(np.int64)


@dataclass(frozen=True)
class ClassRow:
    """A class in the table of classes."""

    index: int
    name: str
    support: int
    """Test images of it."""
    figures: dict[str, float | None]
    """precision, recall and f1, None where one is not defined, and the ends of their intervals."""


def class_rows(counts: NDArray[np.int64], classes: Sequence[str], known: Mapping[str, Figures]) -> list[ClassRow]:
    """Return a row for each class.

    `known` is classes.json: what it has of a class, intervals included, is taken from there.
    """
    hits = np.diag(counts)
    support, guesses = counts.sum(axis=1), counts.sum(axis=0)
    return [
        ClassRow(
            index,
            name,
            int(known.get(name, {}).get("support", support[index])),
            {
                "precision": _ratio(hits[index], guesses[index]),
                "recall": _ratio(hits[index], support[index]),
                "f1": _ratio(2 * hits[index], support[index] + guesses[index]),
                **known.get(name, {}),
            },
        )
        for index, name in enumerate(classes)
    ]


def in_turn(answers: Answers, num_classes: int) -> NDArray[np.int64]:
    """Return positions of the answers so that every cell has its turn: the first image of each, then the second.

    The first image of a cell is the most telling one: the surest of the errors, the least sure of the right answers.
    Errors come before right answers.
    """
    wrong = answers.labels != answers.predicted
    telling = np.where(wrong, -answers.probability, answers.probability)
    cell = answers.labels * num_classes + answers.predicted
    order = np.lexsort((answers.rows, telling, cell))
    _, first, sizes = np.unique(cell[order], return_index=True, return_counts=True)
    turn = np.arange(len(order)) - np.repeat(first, sizes)
    turns = np.empty(len(order), np.int64)
    turns[order] = turn
    return np.lexsort((answers.rows, telling, ~wrong, turns))


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None
