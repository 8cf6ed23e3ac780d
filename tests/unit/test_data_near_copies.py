"""Near copies: what counts as the same image, what it is tied to, and when the stage stops."""

from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from bench.near_copies import KINDS, summary
from thaw.data import candidates, near_copies
from thaw.data.audit import near_duplicates
from thaw.data.candidates import Pairs, reduced
from thaw.data.looks import SIDE_PX, Looks, look
from thaw.data.near_copies import Copies, check, listed, tie
from thaw.data.pair_memo import PairMemo
from thaw.data.split import assign
from thaw.data.units import unit_numbers
from thaw.errors import DataError

Pixels = NDArray[np.uint8]


def scene(seed: int, cells: int = 24, side: int = 128) -> Pixels:
    coarse = np.random.default_rng(seed).integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def cell(seed: int) -> Pixels:
    """A grey picture of which every other one has nearly all: bars and an edge; its own are faint spots and noise."""
    draws = np.random.default_rng(seed)
    grey = np.full((128, 128), 150.0)
    grey[[20, 21, 63, 64, 106, 107]] = 60
    grey[:, [0, 1, 126, 127]] = 90
    spots = Image.fromarray(draws.normal(0, 4, (20, 20)).astype(np.float32))
    grey += np.asarray(spots.resize((128, 128), Image.Resampling.BICUBIC)) + draws.normal(0, 2, grey.shape)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def changed(image: Pixels, kind: str) -> Pixels:
    """A planted copy, decoded as a square without a frame of its own."""
    copy = Image.open(BytesIO(KINDS[kind](Image.fromarray(image)))).convert("RGB")
    side = min(copy.size)
    left, top = (copy.width - side) // 2, (copy.height - side) // 2
    return np.asarray(copy.crop((left, top, left + side, top + side)))


def looks(images: list[Pixels]) -> Looks:
    return np.stack([look(image) for image in images])


def found(shown: Looks, order: NDArray[np.int64] | None = None) -> Copies:
    order = np.arange(len(shown)) if order is None else order
    return near_copies.find(reduced(shown, 16), order, lambda rows: shown[rows])


def test_of_every_kind_a_copy_is_found_among_strangers_and_no_stranger_is_taken_for_one() -> None:
    images = [scene(seed) for seed in range(60)]
    copies = [changed(images[number], kind) for number, kind in enumerate(KINDS)]
    pairs = found(looks(images + copies)).rows
    assert all(other == one + 60 for one, other in pairs)
    missing = [kind for number, kind in enumerate(KINDS) if (number, number + 60) not in pairs]
    assert len(missing) <= 1, missing


def test_among_pictures_that_are_all_alike_only_copies_are_found() -> None:
    images = [cell(seed) for seed in range(80)]
    kinds = ["turned 90", "mirrored", "10 % brighter", "cropped by 2 %", "JPEG 60", "half the size", "noise"]
    copies = [changed(images[number], kind) for number, kind in enumerate(kinds)]
    pairs = found(looks(images + copies)).rows
    assert pairs == [(number, number + 80) for number in range(len(kinds))]


def test_the_order_of_the_images_does_not_matter() -> None:
    images = [scene(seed) for seed in range(30)]
    shown = looks([*images, changed(images[3], "JPEG 30"), changed(images[8], "turned 3 degrees")])
    mixed = np.random.default_rng(5).permutation(len(shown))
    pairs = {frozenset(mixed[list(pair)].tolist()) for pair in found(shown[mixed], np.argsort(mixed)).rows}
    assert pairs == {frozenset(pair) for pair in found(shown).rows} == {frozenset((3, 30)), frozenset((8, 31))}


@pytest.mark.parametrize("num_images", [1, 2, 3])
def test_few_images_and_images_without_any_detail_are_no_copies(num_images: int) -> None:
    flat = np.full((num_images, SIDE_PX, SIDE_PX), 7, np.uint8)
    assert found(flat).rows == []


def test_two_images_can_be_copies_without_others_to_compare_with() -> None:
    assert found(looks([scene(0), changed(scene(0), "turned 270")])).rows == [(0, 1)]
    assert found(looks([scene(0), scene(1)])).rows == []


def test_a_border_is_no_part_of_a_look_and_a_white_ground_is() -> None:
    image = scene(0)
    framed = np.pad(image, ((9, 9), (20, 20), (0, 0)), constant_values=255)
    middle = framed[:, (framed.shape[1] - 146) // 2 :][:, :146]
    assert np.abs(look(middle).astype(int) - look(image)).mean() < 8
    thing = np.full((128, 128, 1), 255, np.uint8)
    thing[40:90, 50:80] = 0
    assert np.array_equal(look(thing), thing[:, :, 0])


def test_a_look_ignores_the_number_of_channels_and_the_range_of_16_bits() -> None:
    grey = scene(0)[:, :, :1]
    assert np.array_equal(look(grey), look(np.repeat(grey, 3, axis=2)))
    dim = grey.astype(np.uint16) * 3 + 500
    assert np.corrcoef(look(dim).ravel(), look(grey).ravel())[0, 1] > 0.999


def table(splits: str = "", labels: str = "", groups: str = "", num_images: int = 6) -> pd.DataFrame:
    """Images a, b, c ...; a letter of `splits` gives one: t(rain), v(al), e (test), - for none."""
    given = [{"t": "train", "v": "val", "e": "test", "-": ""}[letter] for letter in splits or "-" * num_images]
    names = [chr(ord("a") + row) for row in range(num_images)]
    return pd.DataFrame(
        {
            "path": [f"{name}.png" for name in names],
            "sha256": names,
            "label": list(labels or "x" * num_images),
            "group": [letter.strip("-") for letter in groups or "-" * num_images],
            "split": given,
        }
    )


def copies(*pairs: tuple[int, int]) -> Copies:
    return Copies(np.array(pairs, np.int64).reshape(-1, 2), np.linspace(0.1, 0.9, len(pairs)).astype(np.float32))


def test_copies_and_copies_of_copies_have_one_look() -> None:
    assert tie(table(), copies((0, 3), (3, 5)), "group")["look"].tolist() == ["a", "", "", "a", "", "a"]
    assert set(tie(table(), copies((0, 3)), "warn")["look"]) == {""}
    assert set(tie(table(), copies(), "fail")["look"]) == {""}


def test_what_is_given_to_two_splits_is_not_tied_and_what_is_not_given_follows_the_nearest() -> None:
    assert set(tie(table("te----"), copies((0, 1)), "group")["look"]) == {""}
    assert tie(table("te----"), copies((0, 2), (1, 2)), "group")["look"].tolist() == ["a", "", "a", "", "", ""]
    # b is in the group of c, which is given to test
    assert set(tie(table("t-e---", groups="-gg---"), copies((0, 1)), "group")["look"]) == {""}


@pytest.mark.parametrize("folds", [1, 5])
def test_copies_share_split_fold_and_unit_whatever_the_seed(folds: int) -> None:
    images = pd.concat([table(labels="xyxyxy").assign(sha256=[f"{n}{i}" for i in range(6)]) for n in range(20)])
    images = images.reset_index(drop=True)
    pairs = copies(*((row, row + 60) for row in range(30)))
    tied = tie(images, pairs, "group")
    for seed in range(5):
        splits, places, _ = assign(tied, seed=seed, val_fraction=0.1, test_fraction=0.25, folds=folds)
        assert splits[:30] == splits[60:90]
        assert places[:30] == places[60:90]
    units = unit_numbers(tied)
    assert units[:30].tolist() == units[60:90].tolist()
    assert len(set(units.tolist())) == 90


def test_an_old_image_with_a_given_split_keeps_its_side_and_a_later_copy_follows() -> None:
    for split in ("train", "val", "test"):
        rows = [(f"{n}", "tve"[n % 3], "xy"[n % 2]) for n in range(30)]
        images = pd.concat([table(side, label, num_images=1).assign(sha256=name) for name, side, label in rows])
        later = table("-", "x", num_images=1).assign(sha256="0-later")
        old = images["split"].tolist().index(split)
        tied = tie(pd.concat([images, later], ignore_index=True), copies((old, 30)), "group")
        assert assign(tied, seed=0, val_fraction=0.1, test_fraction=0.25, folds=1)[0][30] == split


def test_the_policy_fail_stops_with_the_first_pair_and_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THAW_SCRATCH", str(tmp_path))
    with pytest.raises(DataError, match=r"^2 pairs of images look the same \(a.png and d.png first; .*near_copies.csv"):
        tie(table(), copies((0, 3), (1, 2)), "fail")
    assert pd.read_csv(tmp_path / near_copies.FILE)["other"].tolist() == ["d.png", "c.png"]


def checked(policy: Literal["group", "warn"], *, max_leaks: float, pairs: Copies, labels: str = "xxxxxx") -> list[str]:
    samples = table("tttvee", labels)
    return check(samples.assign(fold=[-1, -1, -1, 0, -1, -1]), pairs, policy=policy, max_leaks=max_leaks)


def test_leaks_that_remain_are_told_and_stop_the_stage_above_a_fraction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THAW_SCRATCH", str(tmp_path))
    pairs = copies((0, 4))
    with pytest.raises(
        DataError, match=r"1 of 3 held-out images .*a.png \(train\) and e.png \(test\).* \(0.3\) allows"
    ):
        checked("group", max_leaks=0.3, pairs=pairs)
    for policy in ("group", "warn"):
        lines = checked(policy, max_leaks=0.0 if policy == "warn" else 0.34, pairs=pairs)
        assert lines[0] == "1 group of images that look the same; near_copies.csv lists their pairs (1)"
        assert lines[1].startswith("1 of 3 held-out images have a near copy on another side")
    assert checked("group", max_leaks=0, pairs=copies((0, 1), (4, 5)))[1:] == []
    assert checked("group", max_leaks=0, pairs=copies()) == []


def test_contradictory_labels_are_counted_and_come_first() -> None:
    pairs = copies((0, 1), (2, 4))
    lines = checked("group", max_leaks=1, pairs=pairs, labels="xxxxyx")
    assert "2 groups of images that look the same, 1 with more than one label" in lines[0]
    audited = near_duplicates(table("tttvee", "xxxxyx").assign(fold=[-1, -1, -1, 0, -1, -1]), pairs.rows)
    assert (audited.count, audited.contradictory, audited.groups_across_splits) == (2, 1, 1)
    assert [group.labels for group in audited.first] == [["x", "y"], ["x", "x"]]
    assert [group.splits for group in audited.first] == [["test", "train"], ["train"]]
    assert listed(table("tttvee", "xxxxyx").assign(fold=-1), pairs)["other_label"].tolist() == ["x", "y"]


def test_the_bench_counts_copies_false_pairs_and_what_is_on_both_sides() -> None:
    images = table("tttvee").assign(source=[0, 1, 2, 0, 1, 2], kind=["", "", "", "grey", "grey", "logo"], fold=-1)
    facts = summary(images, [(0, 3), (1, 2)])
    assert (facts["found_percent"], facts["false_pairs"], facts["false_alarms_percent"]) == (33.3, 1, 33.33)
    assert (facts["found_left_on_both_sides"], facts["missed_left_on_both_sides"]) == (1, 2)
    assert facts["below_all"] == {"grey": 50.0, "logo": 0.0}


@pytest.mark.parametrize("most", [1000, 1])
def test_copies_are_among_the_candidates_whether_all_images_are_compared_or_those_of_cells_near_by(most: int) -> None:
    images = [scene(seed) for seed in range(300)]
    kinds = ["turned 90", "mirrored", "10 % brighter", "cropped by 2 %", "half the size"] * 8
    shown = looks(images + [changed(images[number], kind) for number, kind in enumerate(kinds)])
    pairs = candidates.find(reduced(shown, 16), np.arange(len(shown)), lambda rows: shown[rows], most=most)
    ends = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert len({frozenset(pair) for pair in ends}) == len(ends)
    assert ends == sorted(ends, key=sorted)
    assert all(one != other for one, other in ends)
    found = {frozenset(pair) for pair in ends}
    assert sum({number, 300 + number} in found for number in range(len(kinds))) >= len(kinds) - 1


def test_an_image_more_leaves_most_candidates_as_they_were() -> None:
    shown = looks([scene(seed) for seed in range(201)])
    before, after = (
        candidates.find(reduced(shown[:number], 16), np.arange(number), lambda rows: shown[rows])
        for number in (200, 201)
    )
    known = set(zip(before.first.tolist(), before.second.tolist(), before.orientation.tolist(), strict=True))
    now = set(zip(after.first.tolist(), after.second.tolist(), after.orientation.tolist(), strict=True))
    assert len({pair for pair in now - known if 200 not in pair[:2]}) < 0.05 * len(now)


def memo_of(folder: Path, names: list[str], pairs: Pairs) -> tuple[list[int], NDArray[np.float32]]:
    """What was asked for anew, and what came back: of each pair the sum of what its images are called."""
    asked: list[int] = []

    def compute(chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        asked.extend(chosen.tolist())
        called = [int(name[::-1], 16) for name in names]
        of = [called[one] + called[other] for one, other in zip(pairs.first, pairs.second, strict=True)]
        return np.repeat(np.array(of, np.float32)[chosen][:, None], 2, axis=1)

    return asked, PairMemo(folder, names).values("half", pairs, 2, compute)


def pairs_of(*ends: tuple[int, int, int]) -> Pairs:
    return Pairs(*np.array(ends, np.int64).reshape(-1, 3).T)


def test_what_is_known_of_a_pair_is_not_computed_again_wherever_its_images_are_listed(tmp_path: Path) -> None:
    names = [f"{number:064x}"[::-1] for number in (1, 2, 3)]
    asked, first = memo_of(tmp_path, names, pairs_of((0, 1, 0), (1, 2, 5)))
    assert asked == [0, 1]
    asked, again = memo_of(tmp_path, names[::-1], pairs_of((2, 1, 0), (2, 1, 1), (1, 0, 5)))
    assert asked == [1]  # turned otherwise
    assert again[[0, 2]].tolist() == first.tolist()
    asked, _ = memo_of(tmp_path, names, pairs_of((0, 1, 0)))
    assert asked == []
    asked, _ = memo_of(tmp_path, names, pairs_of((1, 2, 5)))
    assert asked == [0]  # only what the last run needed is kept


@pytest.mark.parametrize("place", [10, 200, -5])
def test_a_damaged_memory_of_pairs_is_made_anew(tmp_path: Path, place: int) -> None:
    names = [f"{number:064x}"[::-1] for number in range(40)]
    pairs = pairs_of(*((one, one + 1, 0) for one in range(39)))
    _, first = memo_of(tmp_path, names, pairs)
    data = bytearray((tmp_path / "half.npz").read_bytes())
    data[place] ^= 255
    (tmp_path / "half.npz").write_bytes(data)
    _, again = memo_of(tmp_path, names, pairs)
    np.testing.assert_array_equal(again, first)
