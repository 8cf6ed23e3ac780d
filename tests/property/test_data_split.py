"""The split is a partition, stable under order and growth, closed under groups and copies, repaired by fewest moves."""

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from thaw.data.split import SPLITS, Unit, assign, connected, place_of, repair
from thaw.errors import DataError
from thaw.pipeline.facts import Split

BASE = [(f"{label}{index}", "", label) for label in "ab" for index in range(60)]

# Contents and groups from small sets, so that copies and groups of several images are common.
image = st.tuples(
    st.integers(0, 30).map("h{}".format), st.sampled_from(["", "", "g1", "g2", "g3"]), st.sampled_from("ab")
)


def split(rows: list[tuple[str, str, str]], seed: int = 0) -> list[str]:
    table = pd.DataFrame(rows, columns=["sha256", "group", "label"], dtype=object)
    table = table.assign(split="", path=[str(row) for row in range(len(rows))])
    return assign(table, seed=seed, val_fraction=0.1, test_fraction=0.25)[0]


@given(st.lists(image, max_size=30), st.integers(0, 5))
def test_every_image_is_in_one_split_and_what_belongs_together_stays_together(
    rows: list[tuple[str, str, str]], seed: int
) -> None:
    found = split(BASE + rows, seed)
    assert len(found) == len(BASE) + len(rows)
    assert set(found) == set(SPLITS)
    for column in (0, 1):
        seen: dict[str, str] = {}
        for row, where in zip(BASE + rows, found, strict=True):
            if row[column]:
                assert seen.setdefault(row[column], where) == where


@given(st.lists(image, max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_the_listing_does_not_matter(rows: list[tuple[str, str, str]], random: Random) -> None:
    every = list(enumerate(BASE + rows))
    found = split([row for _, row in every])
    random.shuffle(every)
    shuffled = dict(zip([number for number, _ in every], split([row for _, row in every]), strict=True))
    assert [shuffled[number] for number in range(len(found))] == found


@given(st.lists(st.integers(0, 10_000).map("new{}".format), unique=True, max_size=40))
def test_new_images_move_no_old_one(names: list[str]) -> None:
    assert split(BASE + [(name, "", "a") for name in names])[: len(BASE)] == split(BASE)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(SPLITS)), min_size=1, max_size=25))
def test_repair_fills_every_gap_with_one_move_each(cells: list[tuple[str, Split]]) -> None:
    cells = cells + [(label, "train") for label, _ in cells for _ in range(3)]
    units = [
        Unit(str(i), place_of(str(i), 0), frozenset(SPLITS), frozenset(label), [i], where)
        for i, (label, where) in enumerate(cells)
    ]
    gaps = {(label, where) for label, _ in cells for where in SPLITS} - set(cells)
    assert len(repair(units)) == len(gaps)
    assert {(next(iter(unit.labels)), unit.split) for unit in units} == set(cells) | gaps


@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=20))
def test_rows_are_in_one_set_if_a_chain_of_ties_leads_from_one_to_the_other(ties: list[tuple[int, int]]) -> None:
    near = np.eye(15, dtype=np.int64)
    near[tuple(np.array(ties, dtype=np.int64).reshape(-1, 2).T)] = 1
    reached = np.linalg.matrix_power(near | near.T, 15) > 0
    expected = [np.flatnonzero(row).tolist() for number, row in enumerate(reached) if row.argmax() == number]
    assert connected(15, ties) == expected


unit = st.builds(
    lambda place, allowed, labels, images: Unit("", place, allowed, labels, list(range(images)), min(allowed)),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([frozenset(SPLITS), frozenset({"train", "val"}), *(frozenset({split}) for split in SPLITS)]),
    st.frozensets(st.sampled_from("abc"), min_size=1),
    st.integers(1, 2),
)


@given(st.lists(unit, max_size=15))
def test_repair_takes_the_best_of_all_moves_at_every_step(units: list[Unit]) -> None:
    units = [replace(unit, key=str(number)) for number, unit in enumerate(units)]
    tried = [replace(unit) for unit in units]
    expected = list(best_moves(tried))
    try:
        found = [(move.unit, move.target) for move in repair(units)]
    except DataError:
        assert gaps_of(tried)
        return
    assert found == expected
    assert not gaps_of(tried)


def gaps_of(units: list[Unit]) -> set[tuple[str, Split]]:
    movable = [unit for unit in units if len(unit.allowed) > 1]
    targets = {split for unit in movable for split in unit.allowed}
    wanted = {(label, split) for unit in movable for label in unit.labels for split in targets}
    return wanted - {(label, unit.split) for unit in units for label in unit.labels}


def best_moves(units: list[Unit]) -> Iterator[tuple[str, Split]]:
    """Make the moves by looking at all of them each time, and yield each; stop where none fills a gap."""
    while gaps := gaps_of(units):
        held = [(label, unit.split) for unit in units for label in unit.labels]
        moves = [
            (-sum((label, split) in gaps for label in unit.labels), len(unit.members), unit.place, split, number)
            for number, unit in enumerate(units)
            for split in unit.allowed
            if all(held.count((label, unit.split)) > 1 for label in unit.labels)
        ]
        if not moves or min(moves)[0] == 0:
            return
        *_, split, number = min(moves)
        units[number].split = split
        yield units[number].key, split
