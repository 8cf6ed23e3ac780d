"""How many folds there are, and who is in which."""

from collections import Counter
from typing import Literal

import pandas as pd
import pytest

from tests.unit.test_data_split import Row, assigned, plain, table
from thaw.data.folds import places
from thaw.data.split import assign
from thaw.errors import DataError

TWO = plain(45, "a") + plain(45, "b")


def group(num_images: int, name: str = "g") -> list[Row]:
    """The images of one group, of two classes in turn."""
    return [(f"{name}{i}", name, "ab"[i % 2], "") for i in range(num_images)]


@pytest.mark.parametrize("seed", range(30))
def test_each_development_image_is_once_validation_and_the_folds_are_balanced(seed: int) -> None:
    found, fold, notes = assigned(TWO, seed, folds="auto")
    assert notes.num_folds == 5
    assert set(found) == {"train", "test"}
    assert [number < 0 for number in fold] == [where == "test" for where in found]
    for own in (slice(45), slice(45, 90)):
        counts = Counter(fold[own])
        even = sum(counts[number] for number in range(5)) / 5
        assert all(abs(counts[number] - even) <= max(1, 0.25 * even) for number in range(5))


def test_auto_takes_five_folds_up_to_a_thousand_development_images() -> None:
    assert assigned(TWO, folds="auto")[2].lines[0].endswith(" development images (select.folds: auto)")
    small, large = (assigned(plain(number, "a") + plain(number, "b"), folds="auto")[2] for number in (640, 700))
    assert small.num_folds == 5
    assert large.num_folds == 1
    assert large.lines[0].endswith("development images, since folds are for up to 1,000 (select.folds: auto)")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("num_images", [1, 2, 3, 5, 7])
def test_classes_of_fewer_images_than_folds_are_in_every_training_part(seed: int, num_images: int) -> None:
    found, fold, notes = assigned(plain(num_images, "rare") + TWO, seed, folds=5)
    rare = [number for number, where in zip(fold[:num_images], found, strict=False) if where == "train"]
    if num_images < 3:
        assert rare == [-1]
        assert [gap.split for gap in notes.missing] == (["val", "test"] if num_images == 1 else ["val"])
        assert [one.labels for one in notes.never_validated] == [["rare"]]
    else:
        assert len(set(rare)) == min(len(rare), 5)
        assert min(rare) >= 0
        assert notes.never_validated == []


@pytest.mark.parametrize("seed", range(20))
def test_five_images_a_class_are_enough(seed: int) -> None:
    found, fold, _ = assigned(plain(5, "a") + plain(5, "b"), seed, folds="auto")
    assert Counter(found[:5]) == Counter(found[5:]) == {"test": 1, "train": 4}
    assert set(fold) == {-1, 0, 1, 2, 3, 4}
    assert max(Counter(fold[:5]).values()) == 1


def test_folds_have_their_own_hash_and_depend_on_no_fraction() -> None:
    rows = table(plain(300, "a") + plain(300, "b"))
    one, other = (assign(rows, seed=0, val_fraction=val, test_fraction=0.25, folds=5)[1] for val in (0.1, 0.6))
    assert one == other


def test_copies_and_groups_share_a_fold() -> None:
    rows = TWO + group(6, "g") + group(4, "h") + [("a0", "", "a", ""), ("b7", "", "b", "")]
    for seed in range(20):
        found, fold, _ = assigned(rows, seed, folds=5)
        where = list(zip(found, fold, strict=True))
        assert len(set(where[90:96])) == len(set(where[96:100])) == 1
        assert where[100] == where[0]
        assert where[101] == where[45 + 7]


@pytest.mark.parametrize("folds", [3, "auto"])
def test_a_group_that_leaves_too_little_to_train_on(folds: int | Literal["auto"]) -> None:
    rows = plain(10, "a") + plain(10, "b") + group(60)
    if folds == "auto":
        notes = assigned(rows, folds=folds)[2]
        assert notes.num_folds == 1
        assert "since 60 of them belong together" in notes.lines[0]
    else:
        with pytest.raises(DataError, match=r"60 of .* belong together \(unit 'g'\).*set select.folds: 1"):
            assigned(rows, folds=folds)


def test_a_group_that_holds_half_of_the_development_images_is_named() -> None:
    found, fold, notes = assigned(plain(20, "a") + plain(20, "b") + group(30), folds=5)
    development = [number for number, where in zip(fold, found, strict=True) if where == "train"]
    counts = Counter(development)
    assert counts.pop(fold[-1]) == 30  # the others keep away from its fold
    assert max(counts.values()) - min(counts.values()) <= 4
    assert any("30 of " in line and "unit 'g'" in line for line in notes.lines)


def test_more_folds_than_independent_images_are_refused() -> None:
    with pytest.raises(DataError, match=r"select.folds is 20, but of 8 .* only 8 are independent.*set it to 8 or less"):
        assigned(plain(5, "a") + plain(5, "b"), folds=20)
    assert set(assigned(plain(5, "a") + plain(5, "b"), folds=8)[1]) == {-1, 0, 1, 2, 3, 4, 5, 6, 7}


def test_a_class_that_is_not_in_every_fold_is_named_with_what_to_set() -> None:
    _, fold, notes = assigned(plain(40, "a") + plain(6, "b"), folds=10)
    of_b = {number for number in fold[40:] if number >= 0}
    line, alone = notes.lines[1:]
    assert line.startswith("class 'b' is not in each of the 10 folds: 5 independent images or groups of it are ")
    assert line.endswith("Every training part has it; for it to be in every fold, set select.folds to 5")
    assert alone == f"{10 - len(of_b)} of 10 folds validate on one class only"
    assert len(assigned(plain(40, "a") + plain(40, "b"), folds=5)[2].lines) == 1


def test_a_class_in_one_group_is_trained_on_in_every_fold_and_counts_for_none() -> None:
    found, fold, notes = assigned(plain(40, "a") + [(name, "g", "b", "") for name, *_ in plain(60, "b")], folds=5)
    assert {(found[row], fold[row]) for row in range(40, 100)} == {("train", -1)}
    assert notes.num_folds == 5
    assert not any("belong together" in line for line in notes.lines)


def test_too_few_images_for_folds_are_split_by_auto() -> None:
    found, _, notes = assigned(plain(3, "a") + plain(3, "b"), folds="auto")
    assert sorted(found) == ["test", "test", "train", "train", "val", "val"]
    assert "only 4 of them are independent" in notes.lines[0]


def test_images_that_are_added_to_large_classes_change_no_old_split_or_fold() -> None:
    rows = plain(1000, "a") + plain(1000, "b")
    more = [(f"new{i}", "", "ab"[i % 2], "") for i in range(100)]
    for seed in range(5):
        for folds in (1, 5):
            before, after = assigned(rows, seed, folds), assigned(rows + more, seed, folds)
            assert after[0][:2000] == before[0]
            assert after[1][:2000] == before[1]


def test_a_place_is_a_split_or_a_fold_of_train() -> None:
    samples = pd.DataFrame(
        {"split": ["train", "train", "val", "test", "train"], "fold": [-1, 0, 0, -1, 3]}, index=[4, 3, 2, 1, 0]
    )
    assert places(samples) == ["train", "fold 0", "val", "test", "fold 3"]
