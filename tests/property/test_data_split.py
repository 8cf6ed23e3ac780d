"""Split and folds keep groups and copies whole, heed no order, are balanced, and leave each class to train on."""

from collections import Counter
from random import Random

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from thaw.data.split import SPLITS, assign
from thaw.data.units import connected

Image = tuple[str, str, str]
BASE = [(f"{label}{index}", "", label) for label in "ab" for index in range(60)]

# Contents and groups from small sets, so that copies and groups of several images are common.
image = st.tuples(
    st.integers(0, 30).map("h{}".format), st.sampled_from(["", "", "g1", "g2", "g3"]), st.sampled_from("abc")
)
folds = st.sampled_from([1, 2, 5, 9])


def assigned(rows: list[Image], num_folds: int = 1, seed: int = 0) -> list[tuple[str, int]]:
    """Return the split and the fold of each image."""
    table = pd.DataFrame(rows, columns=["sha256", "group", "label"], dtype=object)
    table = table.assign(split="", path=[str(row) for row in range(len(rows))])
    found, fold, _ = assign(table, seed=seed, val_fraction=0.1, test_fraction=0.25, folds=num_folds)
    return list(zip(found, fold, strict=True))


@given(st.lists(image, max_size=30), folds, st.integers(0, 5))
def test_every_image_has_one_place_and_what_belongs_together_shares_it(
    rows: list[Image], num_folds: int, seed: int
) -> None:
    found = assigned(BASE + rows, num_folds, seed)
    assert len(found) == len(BASE) + len(rows)
    assert {where for where, _ in found} == (set(SPLITS) if num_folds == 1 else {"train", "test"})
    assert {fold for _, fold in found} == {-1, *range(num_folds)}
    for column in (0, 1):
        seen: dict[str, tuple[str, int]] = {}
        for row, where in zip(BASE + rows, found, strict=True):
            if row[column]:
                assert seen.setdefault(row[column], where) == where


@given(st.lists(image, max_size=30), folds, st.integers(0, 5))
def test_every_class_is_in_every_training_part(rows: list[Image], num_folds: int, seed: int) -> None:
    found = assigned(BASE + rows, num_folds, seed)
    classes = {label for _, _, label in BASE + rows}
    for number in range(num_folds):
        trained = {
            label
            for (_, _, label), (where, fold) in zip(BASE + rows, found, strict=True)
            if where != "test" and fold != number
        }
        assert trained == classes


@given(st.lists(image, max_size=30), st.integers(0, 5))
def test_the_number_of_folds_changes_no_test_image(rows: list[Image], seed: int) -> None:
    tested = [[where == "test" for where, _ in assigned(BASE + rows, number, seed)] for number in (1, 2, 7)]
    assert tested[0] == tested[1] == tested[2]


@given(st.lists(image, max_size=20), folds, st.randoms(use_true_random=False))
def test_the_order_of_the_listing_does_not_matter(rows: list[Image], num_folds: int, random: Random) -> None:
    every = list(enumerate(BASE + rows))
    found = assigned([row for _, row in every], num_folds)
    random.shuffle(every)
    numbers, shuffled = zip(*every, strict=True)
    again = dict(zip(numbers, assigned(list(shuffled), num_folds), strict=True))
    assert [again[number] for number in range(len(found))] == found


@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), folds, st.integers(0, 1000))
def test_single_images_are_balanced_by_class(sizes: list[int], num_folds: int, seed: int) -> None:
    rows = [(f"{label}-{i}", "", "abcde"[label]) for label, number in enumerate(sizes) for i in range(number)]
    found = assigned(BASE + rows, num_folds, seed)
    for label in "abcde"[: len(sizes)]:
        own = [where for row, where in zip(BASE + rows, found, strict=True) if row[2] == label]
        tested = sum(where == "test" for where, _ in own)
        assert abs(tested - len(own) / 4) <= max(1, len(own) / 16)
        counts, left = Counter(fold for _, fold in own), len(own) - tested
        even = left / num_folds if num_folds > 1 else left * 0.1 / 0.75
        for number in range(num_folds) if left > 1 else ():
            assert abs(counts[number] - even) <= max(1, even / 4) + 1e-9


@given(st.integers(3, 80), st.lists(st.integers(0, 10_000).map("new{}".format), unique=True, max_size=40))
def test_each_new_image_moves_at_most_one_old_image_into_or_out_of_test(size: int, names: list[str]) -> None:
    old = [(f"{label}{index}", "", label) for label in "ab" for index in range(size)]
    before, after = assigned(old), assigned(old + [(name, "", "a") for name in names])
    changed = [("test" in (x[0], y[0])) and x[0] != y[0] for x, y in zip(before, after, strict=False)]
    assert sum(changed) <= len(names)
    assert not any(move for move, row in zip(changed, old, strict=True) if row[2] == "b")


@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=20))
def test_rows_are_in_one_set_if_a_chain_of_ties_leads_from_one_to_the_other(ties: list[tuple[int, int]]) -> None:
    near = np.eye(15, dtype=np.int64)
    near[tuple(np.array(ties, dtype=np.int64).reshape(-1, 2).T)] = 1
    reached = np.linalg.matrix_power(near | near.T, 15) > 0
    expected = [np.flatnonzero(row).tolist() for number, row in enumerate(reached) if row.argmax() == number]
    assert connected(15, ties) == expected
