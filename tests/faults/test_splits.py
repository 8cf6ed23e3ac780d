"""Rows 13 to 15 of the fault list, through the real stage: small classes, folds, copies, names and given splits."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.faults.preparing import audit, change, prepare, rejected, samples, save
from thaw.pipeline import artifacts


def test_a_class_of_one_image_is_trained_on_and_named(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(pets / "raw" / "bird" / "0.png", 900)
    assert prepare(pets)[0] == 0
    said = capsys.readouterr().out
    assert "prepare: class 'bird' has 1 independent image or group: it is trained on and never tested" in said
    report = audit(pets)
    assert [(gap.label, gap.split) for gap in report.missing.first] == [("bird", "val"), ("bird", "test")]
    assert [one.labels for one in report.never_validated.first] == [["bird"]]
    assert report.classes["bird"].folds == [0] * 5


def test_folds_are_said_counted_and_refused_where_there_are_too_many(
    pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(pets, "select", folds=3)
    assert prepare(pets)[0] == 0
    table, report = samples(pets), audit(pets)
    development = table[table["split"] != "test"]
    assert f"prepare: 3 folds of {len(development)} development images (select.folds)\n" in capsys.readouterr().out
    assert report.folds == 3
    for label, counts in report.classes.items():
        own = development["fold"][development["label"] == label].tolist()
        assert counts.folds == [own.count(fold) for fold in range(3)]
        assert (counts.train, counts.val) == (len(own), 0)
    for path in (pets / "raw").rglob("*.png"):
        if int(path.stem) > 4:
            path.unlink()
    change(pets, "select", folds=9)
    code, line = prepare(pets)
    assert (code, line.partition(" are independent")[0]) == (
        1, "params.yaml: select.folds is 9, but of 8 development images only 8",
    )  # fmt: skip


def test_copies_share_a_split_and_contradicted_images_are_rejected_if_asked_for(pets: Path) -> None:
    raw = pets / "raw"
    change(pets, "data", conflicts="drop")
    for index in range(3):
        (raw / "cat" / f"copy{index}.png").write_bytes((raw / "cat" / "00.png").read_bytes())
    (raw / "dog" / "contradiction.png").write_bytes((raw / "cat" / "01.png").read_bytes())
    Image.open(raw / "dog" / "05.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(raw / "dog" / "mirrored.png")
    assert prepare(pets)[0] == 0
    table = samples(pets)
    copies = table[table["sha256"].duplicated(keep=False)]
    assert len(copies) == 4
    assert copies["split"].nunique() == 1
    assert copies["id"].str[16:].tolist() == ["", "-1", "-2", "-3"]
    assert sorted(rejected(pets)) == ["cat/01.png", "dog/contradiction.png"]
    report = audit(pets)
    assert report.exact_duplicates.count == 1
    assert report.label_conflicts.first[0].labels == ["cat", "dog"]
    assert report.near_duplicates.first[0].paths == ["dog/05.png", "dog/mirrored.png"]


def test_near_copies_share_a_split_and_their_contradictory_labels_are_counted(pets: Path) -> None:
    change(pets, "prepare", size_px=64)
    turn, raw = Image.Transpose.ROTATE_90, pets / "raw"
    for index in range(10):
        scene = np.random.default_rng(1000 + index).integers(0, 256, (20, 24), dtype=np.uint8)
        large = Image.fromarray(scene).resize((120, 100), Image.Resampling.BICUBIC)
        large.save(raw / "cat" / f"large{index}.png")
        large.transpose(turn).save(raw / "dog" / f"copy{index}.jpg", quality=60)
    assert prepare(pets) == (0, "")
    table = samples(pets).set_index("path")
    for index in range(10):
        pair = table.loc[[f"cat/large{index}.png", f"dog/copy{index}.jpg"]]
        assert pair["split"].nunique() == pair["fold"].nunique() == pair["look"].nunique() == 1
    near = audit(pets).near_duplicates
    assert (near.count, near.contradictory, near.groups_across_splits) == (10, 10, 0)
    change(pets, "prepare", near_copies="fail")
    code, line = prepare(pets)
    assert (code, line.count("\n")) == (1, 0)
    assert line.startswith("10 pairs of images look the same (cat/large0.png and dog/copy0.jpg first; ")
    assert len(pd.read_csv(pets / ".thaw" / "near_copies.csv")) == 10


def test_strange_names_make_the_round_trip_in_any_locale(pets: Path) -> None:
    names = [
        "a b.png",
        "-rf.png",
        "\"quoted'.png",
        "emoji 🙂.png",
        "é.png",
        "e\u0301.png",
        "x" * 251 + ".png",
        "a,b\n.png",
    ]
    for seed, name in enumerate(names):
        save(pets / "raw" / "cat" / name, 500 + seed)
    assert prepare(pets, LC_ALL="C", LANG="C")[0] == 0
    assert {f"cat/{name}" for name in names} <= set(samples(pets)["path"])


def test_workers_listing_order_and_hash_seed_change_no_byte(pets: Path) -> None:
    prints = []
    for workers, hash_seed in ((0, "1"), (2, "2"), (3, "3")):
        change(pets, "compute", workers=workers)
        assert prepare(pets, PYTHONHASHSEED=hash_seed)[0] == 0
        prints.append(artifacts.verify(pets / "data" / "prepared"))
        for path in sorted((pets / "raw" / "cat").iterdir(), reverse=True):  # new directory entries, in another order
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)
    assert len(set(prints)) == 1


def test_added_and_renamed_images_leave_the_test_images_as_they_were(pets: Path) -> None:
    assert prepare(pets)[0] == 0
    before = samples(pets).set_index("sha256")["split"] == "test"
    for index in range(10):
        save(pets / "raw" / "dog" / f"added{index}.png", 700 + index)
    (pets / "raw" / "cat" / "00.png").rename(pets / "raw" / "cat" / "zz.png")
    assert prepare(pets)[0] == 0
    after = samples(pets).set_index("sha256")["split"] == "test"
    assert (after[before.index] == before).mean() > 0.94  # a small class may have to balance itself
    assert len(after) == len(before) + 10


def test_a_folder_with_splits_keeps_them(pets: Path) -> None:
    raw = pets / "raw"
    for label in ("cat", "dog"):
        for split, first, last in (("train", 0, 12), ("validation", 12, 16), ("test", 16, 20)):
            for index in range(first, last):
                (raw / split / label).mkdir(parents=True, exist_ok=True)
                (raw / label / f"{index:02d}.png").rename(raw / split / label / f"{index:02d}.png")
        (raw / label).rmdir()
    assert prepare(pets)[0] == 0
    table = samples(pets)
    assert table["split"].tolist() == [
        {"validation": "val"}.get(top, top) for top in table["path"].str.split("/").str[0]
    ]
    assert table["label"].tolist() == table["path"].str.split("/").str[1].tolist()
