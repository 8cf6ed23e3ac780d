"""Confident learning, against cases done by hand and against its definition written as loops."""

import numpy as np
import pytest
from numpy.typing import NDArray

from thaw.report.gallery import label_errors


def errors(labels: list[int], predicted: list[int], own: list[float], given: list[float]) -> list[int]:
    found = label_errors(np.array(labels), np.array(predicted), np.array(own), np.array(given))
    return [int(index) for index in found]


def test_a_label_is_in_doubt_if_the_image_reaches_the_threshold_of_another_class() -> None:
    # Both thresholds are 0.6: the mean of 0.9, 0.8, 0.1 and that of 0.9, 0.7, 0.2.
    labels, own = [0, 0, 0, 1, 1, 1], [0.9, 0.8, 0.1, 0.9, 0.7, 0.2]
    assert errors(labels, [0, 0, 1, 1, 1, 0], own, [0.9, 0.8, 0.9, 0.9, 0.7, 0.8]) == [2, 5]


def test_an_answer_that_is_less_sure_than_that_class_usually_gets_is_no_evidence() -> None:
    labels, own = [0, 0, 1, 1], [0.9, 0.125, 0.875, 0.75]
    assert errors(labels, [0, 1, 1, 1], own, [0.9, 0.8, 0.875, 0.75]) == []
    assert errors(labels, [0, 1, 1, 1], own, [0.9, 0.8125, 0.875, 0.75]) == [1], (
        "0.8125 is the mean of the second class"
    )


def test_the_largest_contradiction_comes_first_and_equal_ones_in_order() -> None:
    labels, own = [0] * 5 + [1], [0.9, 0.3, 0.1, 0.3, 0.9, 0.6]
    assert errors(labels, [0, 1, 1, 1, 0, 1], own, [0.9, 0.7, 0.9, 0.7, 0.9, 0.6]) == [2, 1, 3]


def test_a_class_without_images_has_no_threshold_to_reach() -> None:
    assert errors([0, 0], [0, 2], [0.9, 0.01], [0.9, 0.99]) == []
    assert errors([], [], [], []) == []


@pytest.mark.parametrize("seed", range(20))
def test_it_is_what_the_definition_says(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, 60)
    chances = random.dirichlet(np.full(4, 0.4), 60)
    predicted = chances.argmax(axis=1)
    found = label_errors(labels, predicted, chances[np.arange(60), labels], chances.max(axis=1))
    assert sorted(found.tolist()) == by_definition(labels, chances)


def by_definition(labels: NDArray[np.int64], chances: NDArray[np.float64]) -> list[int]:
    thresholds = {
        c: np.mean([row[c] for row, label in zip(chances, labels, strict=True) if label == c]) for c in labels
    }
    found = []
    for index, (row, label) in enumerate(zip(chances, labels, strict=True)):
        best = int(np.argmax(row))
        if best != label and best in thresholds and row[best] >= thresholds[best] and row[label] < thresholds[label]:
            found.append(index)
    return found
