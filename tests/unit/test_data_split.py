"""Splits that the user gives, classes that are too small, and images that must stay together."""

import time

import pandas as pd
import pytest

from thaw.data.split import SPLITS, Unit, assign, connected, place_of, repair
from thaw.errors import DataError
from thaw.pipeline.facts import GivenSplitChanged


def table(rows: list[tuple[str, str, str, str]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["sha256", "group", "label", "split"], dtype=object)
    return frame.assign(path=[f"{row}.png" for row in range(len(rows))])


def plain(num_images: int, label: str) -> list[tuple[str, str, str, str]]:
    return [(f"{label}{index}", "", label, "") for index in range(num_images)]


def split(rows: list[tuple[str, str, str, str]], seed: int = 0) -> list[str]:
    return assign(table(rows), seed=seed, val_fraction=0.1, test_fraction=0.25)[0]


def test_the_split_is_the_documented_function_of_hash_and_seed() -> None:
    for name, found in zip(
        [f"a{i}" for i in range(300)], split(plain(300, "a") + plain(300, "b"), seed=7)[:300], strict=True
    ):
        place = place_of(name, 7)
        assert found == ("test" if place < 0.25 else "val" if place < 0.35 else "train")


def test_the_place_of_a_key_never_changes() -> None:
    assert place_of("a", 0) == 0x9DF3C5FAB8EF8FE7 / 2**64  # printf 0:a | sha256sum
    assert place_of("a", 0) != place_of("a", 1)


@pytest.mark.parametrize("seed", range(20))
def test_three_images_of_a_class_go_to_the_three_splits(seed: int) -> None:
    assert sorted(split(plain(3, "rare") + plain(40, "common"), seed)[:3]) == ["test", "train", "val"]


@pytest.mark.parametrize("num_images", [1, 2])
def test_a_class_of_one_or_two_images_is_named(num_images: int) -> None:
    with pytest.raises(DataError, match="class 'rare' cannot be in train, val and test"):
        split(plain(num_images, "rare") + plain(40, "common"))


def test_a_class_in_one_group_is_named() -> None:
    with pytest.raises(DataError, match=r"class 'rare'.* has 1 independent image or group"):
        split([(f"r{i}", "patient", "rare", "") for i in range(9)] + plain(40, "common"))


def test_repair_moves_no_more_than_it_must_and_records_it() -> None:
    rows = plain(3, "rare") + plain(400, "common")
    for seed in range(20):
        before = ["test" if p < 0.25 else "val" if p < 0.35 else "train" for p in (place_of(r[0], seed) for r in rows)]
        after, notes = assign(table(rows), seed=seed, val_fraction=0.1, test_fraction=0.25)
        gaps = 3 - len(set(before[:3]))
        assert len(notes.moved_by_repair) == gaps
        assert sum(old != new for old, new in zip(before, after, strict=True)) == gaps


def test_a_given_split_is_kept() -> None:
    rows = [(f"x{i}", "", "ab"[i % 2], ["train", "val", "test"][i % 3]) for i in range(60)]
    assert split(rows) == [row[3] for row in rows]


def test_val_comes_off_train_where_only_train_and_test_are_given() -> None:
    rows = [(f"x{i}", "", "ab"[i % 2], "test" if i < 250 else "train") for i in range(1000)]
    found = split(rows)
    assert found[:250] == ["test"] * 250
    assert set(found[250:]) == {"train", "val"}
    assert 60 < found.count("val") < 140  # a tenth of all


def test_copies_in_two_given_splits_all_go_to_test_and_are_recorded() -> None:
    rows = [(f"x{i}", "", "ab"[i % 2], ["train", "val", "test"][i % 3]) for i in range(60)]
    found, notes = assign(
        table([*rows, ("copy", "", "a", "train"), ("copy", "", "a", "test")]),
        seed=0,
        val_fraction=0.1,
        test_fraction=0.25,
    )
    assert found[-2:] == ["test", "test"]
    assert notes.given_split_changed == [GivenSplitChanged(path="60.png", given="train", now="test")]


def test_a_group_in_two_given_splits_is_an_error() -> None:
    with pytest.raises(DataError, match="group 'p1' is given to test and train"):
        split([("a", "p1", "a", "train"), ("b", "p1", "a", "test"), *plain(0, "a")])


def test_a_class_that_the_given_train_split_lacks_is_an_error() -> None:
    rows = [(f"x{i}", "", "ab"[i % 2], ["train", "val", "test"][i % 3]) for i in range(60)]
    with pytest.raises(DataError, match="class 'new' is not in the given train split"):
        split([*rows, ("n", "", "new", "test")])


def test_groups_that_share_a_copy_become_one() -> None:
    for seed in range(10):
        rows = [("same", "p1", "a", ""), ("same", "p2", "a", ""), ("one", "p1", "a", ""), ("two", "p2", "a", "")]
        found, notes = assign(
            table(rows + plain(40, "a") + plain(40, "b")), seed=seed, val_fraction=0.1, test_fraction=0.25
        )
        assert len(set(found[:4])) == 1
        assert notes.units_of_tied_groups == 1


def test_the_time_of_a_repair_grows_with_the_number_of_small_classes_and_not_with_its_square() -> None:
    names = [(str(label), f"{label}-{index}") for label in range(500) for index in range(3)]
    units = [
        Unit(name, place_of(name, 0), frozenset(SPLITS), frozenset({label}), [row], "train")
        for row, (label, name) in enumerate(names)
    ]
    started = time.process_time()
    assert len(repair(units)) == 1000
    assert time.process_time() - started < 2  # 0.02 s; looking at every unit for every move took 17 s


def test_rows_are_connected_through_others() -> None:
    assert connected(6, [(4, 1), (1, 3), (5, 3)]) == [[0], [1, 3, 4, 5], [2]]
    assert connected(0, []) == []
