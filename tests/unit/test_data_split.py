"""Splits that the user gives, classes that are too small, and images that must stay together."""

import time
from collections import Counter
from typing import Literal

import pandas as pd
import pytest

from thaw.data.split import SplitNotes, assign
from thaw.data.units import connected, place_of
from thaw.errors import DataError
from thaw.pipeline.data_facts import GivenSplitChanged, MissingClass, Move

Row = tuple[str, str, str, str]
GIVEN = [(f"x{i}", "", "ab"[i % 2], ["train", "val", "test"][i % 3]) for i in range(60)]


def table(rows: list[Row]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["sha256", "group", "label", "split"], dtype=object)
    return frame.assign(path=[f"{row}.png" for row in range(len(rows))])


def plain(num_images: int, label: str) -> list[Row]:
    return [(f"{label}{index}", "", label, "") for index in range(num_images)]


def assigned(
    rows: list[Row], seed: int = 0, folds: int | Literal["auto"] = 1
) -> tuple[list[str], list[int], SplitNotes]:
    return assign(table(rows), seed=seed, val_fraction=0.1, test_fraction=0.25, folds=folds)


def split(rows: list[Row], seed: int = 0) -> list[str]:
    return assigned(rows, seed)[0]


def test_in_large_classes_the_split_is_the_documented_function_of_hash_and_seed_alone() -> None:
    found, _, notes = assigned(plain(1000, "a") + plain(1000, "b"), seed=7)
    for name, where in zip([f"a{i}" for i in range(1000)], found[:1000], strict=True):
        place = place_of(name, 7)
        assert where == ("test" if place < 0.25 else "val" if place < 0.35 else "train")
    assert notes.moved_by_repair == []


def test_the_place_of_a_key_never_changes() -> None:
    assert place_of("a", 0) == 0x9DF3C5FAB8EF8FE7 / 2**64  # printf 0:a | sha256sum
    assert place_of("a", 0) != place_of("a", 1)


def test_two_classes_of_45_images_are_balanced_whatever_the_seed() -> None:
    # By place alone, validation got 1 and 9 images of them, where 4.5 are expected.
    for seed in range(100):
        found = split(plain(45, "a") + plain(45, "b"), seed)
        for half in (found[:45], found[45:]):
            assert 4 <= half.count("val") <= 6
            assert 9 <= half.count("test") <= 14


@pytest.mark.parametrize("number", [2, 3, 5])
def test_however_large_the_test_split_two_units_of_a_class_of_three_are_left_to_divide_once_more(number: int) -> None:
    for seed in range(20):
        rows = table(plain(number, "rare") + plain(60, "common"))
        found, _, _ = assign(rows, seed=seed, val_fraction=0.05, test_fraction=0.9, folds=1)
        assert len(found[:number]) - found[:number].count("test") == min(2, number - 1), found[:number]


def test_units_move_that_are_nearest_to_the_border_and_each_move_is_noted() -> None:
    rows = plain(45, "a") + plain(45, "b")
    by_place = sorted((place_of(row[0], 3), row[0]) for row in rows[:45])
    found, _, notes = assigned(rows, seed=3)
    number = found[:45].count("test")
    assert {row[0] for row, where in zip(rows[:45], found, strict=False) if where == "test"} == {
        name for _, name in by_place[:number]
    }
    before = ["test" if p < 0.25 else "val" if p < 0.35 else "train" for p in (place_of(row[0], 3) for row in rows)]
    assert {move.unit: (move.source, move.target) for move in notes.moved_by_repair} == {
        row[0]: (old, new) for row, old, new in zip(rows, before, found, strict=True) if old != new
    }


@pytest.mark.parametrize("seed", range(20))
def test_three_images_of_a_class_go_to_the_three_splits(seed: int) -> None:
    assert sorted(split(plain(3, "rare") + plain(40, "common"), seed)[:3]) == ["test", "train", "val"]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("num_images", "num_tested"), [(1, [0]), (2, [1]), (3, [1]), (5, [1]), (6, [1, 2])])
def test_classes_of_a_few_images_are_divided_by_rule(seed: int, num_images: int, num_tested: list[int]) -> None:
    found = split(plain(num_images, "rare") + plain(40, "common"), seed)[:num_images]
    assert found.count("test") in num_tested
    assert found.count("train") >= 1
    assert ("val" in found) == (num_images > 2)


def test_a_class_of_one_or_two_images_is_noted_and_said() -> None:
    found, _, notes = assigned(plain(1, "one") + plain(2, "two") + plain(40, "common"))
    assert found[0] == "train"
    assert sorted(found[1:3]) == ["test", "train"]
    assert notes.missing == [
        MissingClass(label="one", split="val"),
        MissingClass(label="one", split="test"),
        MissingClass(label="two", split="val"),
    ]
    assert notes.lines[1:] == [
        "class 'one' has 1 independent image or group: it is trained on and never tested; nothing can be said about it",
        "class 'two' has 2 independent images or groups: it is trained on and never validated on",
    ]


def test_a_class_in_one_group_is_trained_on_only() -> None:
    found, _, notes = assigned([(f"r{i}", "patient", "rare", "") for i in range(9)] + plain(40, "common"))
    assert set(found[:9]) == {"train"}
    assert notes.missing == [MissingClass(label="rare", split=split) for split in ("val", "test")]


def test_of_many_small_classes_the_first_are_said_and_the_others_counted() -> None:
    rows = [row for number in range(30) for row in plain(1, f"c{number:02}")] + plain(40, "common")
    lines = assigned(rows)[2].lines[1:]
    assert lines[4].startswith("class 'c04' has 1 ")
    assert lines[5:] == ["25 more such classes are in audit.json, under missing"]


@pytest.mark.parametrize(("num_images", "lost"), [(1, "test"), (2, "val")])
def test_sets_without_a_class_to_test_or_validate_on_are_refused(num_images: int, lost: str) -> None:
    settings: list[int | Literal["auto"]] = [1, 5, "auto"]
    for folds in settings:
        with pytest.raises(DataError, match=f"no image is left for {lost}: .*bring at least 5 of each class"):
            assigned(plain(num_images, "a") + plain(num_images, "b"), folds=folds)


def test_a_set_in_one_group_is_refused() -> None:
    with pytest.raises(DataError, match="no image is left for test"):
        assigned([(f"{label}{i}", "all", label, "") for i in range(20) for label in "ab"], folds="auto")


def test_a_group_that_is_more_than_test_may_hold_of_a_class_is_trained_on() -> None:
    # Seven images of each of two classes: of 19 in all, test has about five.
    rows: list[Row] = [(f"g{i}", "large", "ab"[i % 2], "") for i in range(14)]
    for seed in range(30):
        found = split(rows + plain(12, "a") + plain(12, "b"), seed)
        assert set(found[:14]) == {"train"}
        for label in (found[14:26], found[26:]):
            assert 4 <= label.count("test") <= 5


def test_a_group_moves_only_where_that_brings_balance_closer() -> None:
    # Pairs of one image of each class, which a move of one unit takes from both: 10 of 40 are tested, give or take 2.5.
    rows: list[Row] = [(f"{i}{label}", f"pair{i}", label, "") for i in range(40) for label in "ab"]
    for seed in range(30):
        found, _, notes = assigned(rows, seed)
        assert 8 <= found.count("test") / 2 <= 12
        away = sum(place_of(f"pair{i}", seed) < 0.25 for i in range(40)) - found.count("test") / 2
        assert sum("test" in (move.source, move.target) for move in notes.moved_by_repair) == abs(away)


def test_a_given_split_is_kept() -> None:
    for found, fold, _ in (assigned(GIVEN, folds=1), assigned(GIVEN, folds="auto")):
        assert found == [row[3] for row in GIVEN]
        assert fold == [0 if row[3] == "val" else -1 for row in GIVEN]


def test_a_given_val_joins_the_development_images_where_folds_are_asked_for() -> None:
    found, fold, notes = assigned(GIVEN, folds=4)
    assert found == ["test" if row[3] == "test" else "train" for row in GIVEN]
    assert [number < 0 for number in fold] == [row[3] == "test" for row in GIVEN]
    assert set(fold) == {-1, 0, 1, 2, 3}
    assert "the given val is divided among the folds, too, since select.folds asks for folds" in notes.lines


@pytest.mark.parametrize("folds", [1, 5, "auto"])
def test_a_given_test_is_kept_where_val_is_not_given(folds: int | Literal["auto"]) -> None:
    rows = [(f"x{i}", "", "ab"[i % 2], "test" if i < 250 else "train") for i in range(1000)]
    found, fold, _ = assigned(rows, folds=folds)
    assert found[:250] == ["test"] * 250
    if folds == 1:
        assert 80 <= found.count("val") <= 120  # a tenth of all comes off train
    else:
        assert set(found[250:]) == {"train"}
        assert all(120 <= count <= 180 for count in Counter(fold[250:]).values())


def test_test_comes_off_train_where_only_train_and_val_are_given() -> None:
    rows = [(f"x{i}", "", "ab"[i % 2], "val" if i < 100 else "train") for i in range(1000)]
    found, fold, _ = assigned(rows)
    assert found[:100] == ["val"] * 100
    assert set(found[100:]) == {"train", "test"}
    assert 200 <= found.count("test") <= 300  # a quarter of all
    assert Counter(fold) == {0: 100, -1: 900}
    assert [where == "test" for where in assigned(rows, folds=3)[0]] == [where == "test" for where in found]


@pytest.mark.parametrize(
    ("given", "asked", "end"),
    [("val", "test", 0.25 / 0.9), ("test", "val", 0.1 / 0.75), ("train", "test", 0.25), ("train", "val", 0.35)],
)
def test_what_is_missing_comes_off_train_in_the_proportion_that_was_asked_for(
    given: str, asked: str, end: float
) -> None:
    # What is given holds its own share of all images already, so the rest is divided by what is left.
    rows = [(f"{label}{i}", "", label, "train") for label in "ab" for i in range(2000)]
    held = [(f"given-{label}{i}", "", label, given) for label in "ab" for i in range(200)]
    found, _, notes = assigned(rows + held)
    assert notes.moved_by_repair == []
    below = {row[0] for row in rows if place_of(row[0], 0) < end}
    if given == "train" and asked == "val":
        below -= {row[0] for row in rows if place_of(row[0], 0) < 0.25}
    assert {row[0] for row, where in zip(rows, found, strict=False) if where == asked} == below


def test_copies_in_two_given_splits_all_go_to_test_and_are_recorded() -> None:
    found, _, notes = assigned([*GIVEN, ("copy", "", "a", "train"), ("copy", "", "a", "test")])
    assert found[-2:] == ["test", "test"]
    assert notes.given_split_changed == [GivenSplitChanged(path="60.png", given="train", now="test")]


def test_a_group_in_two_given_splits_is_an_error() -> None:
    with pytest.raises(DataError, match="group 'p1' is given to test and train"):
        split([("a", "p1", "a", "train"), ("b", "p1", "a", "test"), *plain(0, "a")])


def test_a_class_that_the_given_train_split_lacks_is_an_error() -> None:
    for folds in (1, 4):
        with pytest.raises(DataError, match="class 'new' is not in the given train split"):
            assigned([*GIVEN, ("n", "", "new", "test")], folds=folds)


def test_groups_that_share_a_copy_become_one() -> None:
    for seed in range(10):
        rows = [("same", "p1", "a", ""), ("same", "p2", "a", ""), ("one", "p1", "a", ""), ("two", "p2", "a", "")]
        found, fold, notes = assigned(rows + plain(40, "a") + plain(40, "b"), seed, folds=5)
        assert len(set(zip(found[:4], fold[:4], strict=True))) == 1
        assert notes.units_of_tied_groups == 1


def test_a_split_of_many_small_classes_takes_no_time() -> None:
    rows = [row for label in range(500) for row in plain(3, f"c{label}-")]
    started = time.process_time()
    found = split(rows)
    assert time.process_time() - started < 5  # 0.3 s
    assert Counter(found) == {"train": 500, "val": 500, "test": 500}


def test_a_move_between_folds_is_read_back_as_written() -> None:
    move = Move(unit="a", images=2, source="fold 0", target="fold 12")
    assert Move.model_validate_json(move.model_dump_json(by_alias=True)) == move


def test_rows_are_connected_through_others() -> None:
    assert connected(6, [(4, 1), (1, 3), (5, 3)]) == [[0], [1, 3, 4, 5], [2]]
    assert connected(0, []) == []
