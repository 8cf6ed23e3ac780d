"""What changed between two data sets, on hand-made tables of a few images."""

from dataclasses import replace

import pytest

from thaw.data.difference import Count, Difference, Pair, compare, place
from thaw.data.snapshots import Image, Snapshot


def image(path: str, label: str = "ok", split: str = "train", sha256: str | None = None, fold: int = -1) -> Image:
    """An image whose bytes are named after its file, unless they are told."""
    return Image(path, label, split, fold, sha256 or path.rpartition("/")[2], 0)


def snapshot(
    *images: Image,
    rejected: dict[str, str] | None = None,
    accepted: tuple[tuple[str, str], ...] = (),
    alike: tuple[list[str], ...] = (),
) -> Snapshot:
    return Snapshot("some", list(images), rejected or {}, frozenset(accepted), list(alike), len(alike))


A, B, C = image("a"), image("b", split="test"), image("c", "crack", "val")
LISTS = (
    "added", "removed", "replaced", "relabelled", "renamed", "moved", "moved_folds", "rejected", "readmitted", "alike",
)  # fmt: skip


def found(difference: Difference) -> dict[str, list[str]]:
    """The paths in each list that is not empty."""
    paths = {}
    for name in LISTS:
        if items := getattr(difference, name):
            paths[name] = [item.after.path if isinstance(item, Pair) else item.path for item in items]
    return paths


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param([A, B], [A, B], {}, id="nothing"),
        pytest.param([A, B], [B, A], {}, id="another order"),
        pytest.param([], [], {}, id="no image at all"),
        pytest.param([], [A, B], {"added": ["a", "b"]}, id="added"),
        pytest.param([A, B], [B], {"removed": ["a"]}, id="removed"),
        pytest.param([A], [replace(A, sha256="other")], {"replaced": ["a"]}, id="other bytes at the path"),
        pytest.param([A], [replace(A, label="crack")], {"relabelled": ["a"]}, id="another label in a manifest"),
        pytest.param(
            [image("ok/a")], [image("crack/a", "crack")], {"relabelled": ["crack/a"]}, id="another class folder"
        ),
        pytest.param(
            [A],
            [replace(A, label="crack", sha256="other")],
            {"replaced": ["a"], "relabelled": ["a"]},
            id="other bytes and another label",
        ),
        pytest.param([A], [replace(A, path="z")], {"renamed": ["z"]}, id="another name"),
        pytest.param([A], [replace(A, split="test")], {"moved": ["a"]}, id="another split"),
        pytest.param(
            [image("1", sha256="x"), image("2", sha256="y")],
            [image("1", sha256="y"), image("2", sha256="x")],
            {"renamed": ["1", "2"]},
            id="two files swapped",
        ),
        pytest.param(
            [image("1", sha256="x"), image("2", sha256="x")],
            [image("1", sha256="x")],
            {"removed": ["2"]},
            id="one copy less",
        ),
        pytest.param(
            [image("a/1", sha256="x"), image("a/2", sha256="x")],
            [image("b/1", sha256="x"), image("b/2", sha256="x"), image("b/3", sha256="x")],
            {"renamed": ["b/1", "b/2"], "added": ["b/3"]},
            id="copies go by their file names",
        ),
        pytest.param(
            [image("a", sha256="x")],
            [image("a", sha256="new"), image("b", sha256="x")],
            {"renamed": ["b"], "added": ["a"]},
            id="a file that makes room for another",
        ),
    ],
)
def test_each_change_is_in_its_list_and_in_no_other(
    before: list[Image], after: list[Image], expected: dict[str, list[str]]
) -> None:
    difference = compare(snapshot(*before), snapshot(*after))
    assert found(difference) == expected
    assert difference.is_empty == (not expected)
    assert difference.images == Count(len(before), len(after))


def test_what_was_there_before_plus_the_changes_is_what_is_there_now() -> None:
    before = snapshot(A, B, C, rejected={"r": "broken"})
    after = snapshot(B, replace(C, path="d"), image("r"), image("new"), rejected={"a": "cut short", "x": "no image"})
    got = compare(before, after)
    assert found(got) == {
        "added": ["new"], "renamed": ["d"], "rejected": ["a", "x"], "readmitted": ["r"],
    }  # fmt: skip
    lost = len(got.removed) + len(got.spoilt)
    assert got.images.before - lost + len(got.added) + len(got.readmitted) == got.images.after


def test_a_file_that_was_good_and_is_rejected_is_told_from_a_new_one_that_is_rejected() -> None:
    got = compare(snapshot(A), snapshot(rejected={"a": "cut short", "new": "no image"}))
    assert [(one.path, one.reason, one.before) for one in got.rejected] == [
        ("a", "cut short", A),
        ("new", "no image", None),
    ]
    assert [one.path for one in got.spoilt] == ["a"]
    assert got.removed == []


def test_an_accepted_rejection_is_one_of_the_same_file_for_the_same_reason() -> None:
    after = snapshot(rejected={"a": "cut short", "b": "empty"}, accepted=(("a", "cut short"), ("b", "cut short")))
    got = compare(snapshot(A, B), after)
    assert [(one.path, one.accepted) for one in got.rejected] == [("a", True), ("b", False)]


def test_what_was_rejected_before_is_not_newly_rejected() -> None:
    before, after = snapshot(A, rejected={"r": "broken"}), snapshot(A, rejected={"r": "broken"})
    assert compare(before, after).rejected == []


def test_folds_are_compared_where_both_have_as_many() -> None:
    before = [image("a", fold=0), image("b", fold=1), image("c", split="test")]
    after = [image("a", fold=1), image("b", fold=1), image("c", fold=0)]
    got = compare(snapshot(*before), snapshot(*after))
    assert (found(got), got.folds) == ({"moved": ["c"], "moved_folds": ["a"]}, Count(2, 2))
    assert [place(pair.after, got.folds.after) for pair in got.moved_folds] == ["fold 1"]


def test_a_change_from_one_split_to_folds_moves_only_what_goes_in_or_out_of_test() -> None:
    before = [image("a"), image("b", split="val", fold=0), image("c", split="test"), image("d", split="test")]
    after = [image("a", fold=0), image("b", fold=1), image("c", split="test"), image("d", fold=1)]
    got = compare(snapshot(*before), snapshot(*after))
    assert (found(got), got.folds) == ({"moved": ["d"]}, Count(1, 2))
    assert got.counts == {"ok": {"development": Count(2, 3), "test": Count(2, 1)}}
    assert not got.is_empty


def test_counts_are_by_class_and_split_and_name_a_class_that_only_one_side_has() -> None:
    got = compare(snapshot(A, B), snapshot(A, B, C))
    assert got.counts == {
        "crack": {"train": Count(0, 0), "val": Count(0, 1), "test": Count(0, 0)},
        "ok": {"train": Count(1, 1), "val": Count(0, 0), "test": Count(1, 1)},
    }


def test_a_group_that_looks_alike_is_new_unless_its_images_were_together_before() -> None:
    renamed = replace(A, path="z")
    before, after = snapshot(A, B, C, alike=(["a", "b"],)), snapshot(renamed, B, C, alike=(["b", "z"], ["b", "c"]))
    got = compare(before, after)
    assert [[one.path for one in group] for group in got.alike] == [["b", "c"]]
    assert got.num_alike == Count(1, 2)
