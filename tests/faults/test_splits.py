"""Rows 13 to 15 of the fault list, through the real stage: small classes, folds, copies, names and given splits."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.faults.preparing import audit, change, prepare, rejected, samples, save
from thaw.pipeline import artifacts


def test_a_class_of_one_image_is_trained_on_and_named(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(workspace / "raw" / "bird" / "0.png", 900)
    assert prepare(workspace)[0] == 0
    said = capsys.readouterr().out
    assert "prepare: class 'bird' has 1 independent image or group: it is trained on and never tested" in said
    report = audit(workspace)
    assert [(gap.label, gap.split) for gap in report.missing.first] == [("bird", "val"), ("bird", "test")]
    assert [one.labels for one in report.never_validated.first] == [["bird"]]
    assert report.classes["bird"].folds == [0] * 5


def test_folds_are_said_counted_and_refused_where_there_are_too_many(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(workspace, "select", folds=3)
    assert prepare(workspace)[0] == 0
    table, report = samples(workspace), audit(workspace)
    development = table[table["split"] != "test"]
    assert f"prepare: 3 folds of {len(development)} development images (select.folds)\n" in capsys.readouterr().out
    assert report.folds == 3
    for label, counts in report.classes.items():
        own = development["fold"][development["label"] == label].tolist()
        assert counts.folds == [own.count(fold) for fold in range(3)]
        assert (counts.train, counts.val) == (len(own), 0)
    for path in (workspace / "raw").rglob("*.png"):
        if int(path.stem) > 4:
            path.unlink()
    change(workspace, "select", folds=9)
    code, line = prepare(workspace)
    assert (code, line.partition(" are independent")[0]) == (
        1, "params.yaml: select.folds is 9, but of 8 development images only 8",
    )  # fmt: skip


def test_copies_share_a_split_and_contradicted_images_are_rejected_if_asked_for(workspace: Path) -> None:
    raw = workspace / "raw"
    change(workspace, "data", conflicts="drop")
    for index in range(3):
        (raw / "cat" / f"copy{index}.png").write_bytes((raw / "cat" / "00.png").read_bytes())
    (raw / "dog" / "contradiction.png").write_bytes((raw / "cat" / "01.png").read_bytes())
    Image.open(raw / "dog" / "05.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(raw / "dog" / "mirrored.png")
    assert prepare(workspace)[0] == 0
    table = samples(workspace)
    copies = table[table["sha256"].duplicated(keep=False)]
    assert len(copies) == 4
    assert copies["split"].nunique() == 1
    assert copies["id"].str[16:].tolist() == ["", "-1", "-2", "-3"]
    assert sorted(rejected(workspace)) == ["cat/01.png", "dog/contradiction.png"]
    report = audit(workspace)
    assert report.exact_duplicates.count == 1
    assert report.label_conflicts.first[0].labels == ["cat", "dog"]
    assert report.near_duplicates.first[0].paths == ["dog/05.png", "dog/mirrored.png"]


def test_near_copies_share_a_split_and_their_contradictory_labels_are_counted(workspace: Path) -> None:
    change(workspace, "prepare", size_px=64)
    turn, raw = Image.Transpose.ROTATE_90, workspace / "raw"
    for index in range(10):
        scene = np.random.default_rng(1000 + index).integers(0, 256, (20, 24), dtype=np.uint8)
        large = Image.fromarray(scene).resize((120, 100), Image.Resampling.BICUBIC)
        large.save(raw / "cat" / f"large{index}.png")
        large.transpose(turn).save(raw / "dog" / f"copy{index}.jpg", quality=60)
    assert prepare(workspace) == (0, "")
    table = samples(workspace).set_index("path")
    for index in range(10):
        pair = table.loc[[f"cat/large{index}.png", f"dog/copy{index}.jpg"]]
        assert pair["split"].nunique() == pair["fold"].nunique() == pair["look"].nunique() == 1
    near = audit(workspace).near_duplicates
    assert (near.count, near.contradictory, near.groups_across_splits) == (10, 10, 0)
    change(workspace, "prepare", near_copies="fail")
    code, line = prepare(workspace)
    assert (code, line.count("\n")) == (1, 0)
    assert line.startswith("10 pairs of images look the same (cat/large0.png and dog/copy0.jpg first; ")
    assert len(pd.read_csv(workspace / ".thaw" / "near_copies.csv")) == 10


def test_strange_names_make_the_round_trip_in_any_locale(workspace: Path) -> None:
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
        save(workspace / "raw" / "cat" / name, 500 + seed)
    assert prepare(workspace, LC_ALL="C", LANG="C")[0] == 0
    assert {f"cat/{name}" for name in names} <= set(samples(workspace)["path"])


def test_workers_listing_order_and_hash_seed_change_no_byte(workspace: Path) -> None:
    prints = []
    for workers, hash_seed in ((0, "1"), (2, "2"), (3, "3")):
        change(workspace, "compute", workers=workers)
        assert prepare(workspace, PYTHONHASHSEED=hash_seed)[0] == 0
        prints.append(artifacts.verify(workspace / "data" / "prepared"))
        for path in sorted(
            (workspace / "raw" / "cat").iterdir(), reverse=True
        ):  # new directory entries, in another order
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)
    assert len(set(prints)) == 1


def test_added_and_renamed_images_leave_the_test_images_as_they_were(workspace: Path) -> None:
    assert prepare(workspace)[0] == 0
    before = samples(workspace).set_index("sha256")["split"] == "test"
    for index in range(10):
        save(workspace / "raw" / "dog" / f"added{index}.png", 700 + index)
    (workspace / "raw" / "cat" / "00.png").rename(workspace / "raw" / "cat" / "zz.png")
    assert prepare(workspace)[0] == 0
    after = samples(workspace).set_index("sha256")["split"] == "test"
    assert (after[before.index] == before).mean() > 0.94  # a small class may have to balance itself
    assert len(after) == len(before) + 10


def test_a_folder_with_splits_keeps_them(workspace: Path) -> None:
    raw = workspace / "raw"
    for label in ("cat", "dog"):
        for split, first, last in (("train", 0, 12), ("validation", 12, 16), ("test", 16, 20)):
            for index in range(first, last):
                (raw / split / label).mkdir(parents=True, exist_ok=True)
                (raw / label / f"{index:02d}.png").rename(raw / split / label / f"{index:02d}.png")
        (raw / label).rmdir()
    assert prepare(workspace)[0] == 0
    table = samples(workspace)
    assert table["split"].tolist() == [
        {"validation": "val"}.get(top, top) for top in table["path"].str.split("/").str[0]
    ]
    assert table["label"].tolist() == table["path"].str.split("/").str[1].tolist()
