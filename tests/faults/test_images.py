"""Rows 1, 9 to 15 and 23 of the fault list, through the real stage: one clear line and no output, or a right result."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from PIL import Image

from stages import prepare as stage
from tests import cut
from thaw.config.reader import read_tree
from thaw.data import decoding
from thaw.data.packed import PackedImages
from thaw.errors import ThawError
from thaw.pipeline import artifacts, code, facts
from thaw.pipeline.data_facts import Audit, Preprocessing

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with params.yaml and raw/: two classes of 20 noise images each."""
    params = read_tree(ROOT / "params.yaml")
    params["data"] = {"raw": "raw", "labels": "raw"}
    params["prepare"] |= {"size_px": 16, "max_rejected": 0.2}
    params["compute"] = {"workers": 0}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    for number, label in enumerate(("cat", "dog")):
        for index in range(20):
            save(tmp_path / "raw" / label / f"{index:02d}.png", seed=100 * number + index)
    code.write(tmp_path / code.FOLDER, code.running(), only=["prepare"])
    return tmp_path


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def prepare(workspace: Path, **environment: str) -> tuple[int, str]:
    """Run the real stage and return its exit code and the last line of stderr; in this process where that is enough."""
    if not environment:
        with contextlib.chdir(workspace):
            try:
                stage.main()
            except ThawError as error:
                return 1, str(error)
        return 0, ""
    done = subprocess.run(
        [sys.executable, "-m", "stages.prepare"],
        cwd=workspace,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr.strip().rpartition("\n")[2]


def change(workspace: Path, section: str, **values: object) -> None:
    params = read_tree(workspace / "params.yaml")
    params[section] |= values
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))


def samples(workspace: Path) -> pd.DataFrame:
    return PackedImages.open(workspace / "data" / "prepared").samples


def audit(workspace: Path) -> Audit:
    return facts.read(workspace / "data" / "prepared" / "audit.json", Audit)


def rejected(workspace: Path) -> dict[str, str]:
    table = pd.read_csv(workspace / "data" / "prepared" / "rejected.csv")
    return dict(zip(table["path"], table["reason"], strict=True))


def refused(workspace: Path) -> str:
    """Return the one line of a run that must fail and leave nothing behind."""
    code, line = prepare(workspace)
    assert code == 1, line
    assert [path.name for path in (workspace / "data").iterdir()] == ["code"]
    return line


def test_broken_files_are_listed_and_counted_aloud_and_the_rest_is_used(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = workspace / "raw" / "cat"
    whole = (raw / "00.png").read_bytes()
    (raw / "cut.png").write_bytes(whole[: len(whole) // 2])
    (raw / "empty.jpg").write_bytes(b"")
    (raw / "page.png").write_text("<html></html>")
    (raw / "outside.png").symlink_to("/etc/hostname")
    (raw / "loop.png").symlink_to("loop.png")
    (raw / "nothing.png").symlink_to("nowhere.png")
    (raw / "folder").symlink_to("/etc")
    os.mkfifo(raw / "pipe.png")
    assert prepare(workspace)[0] == 0
    assert "prepare: 8 of 48 files rejected (cat/cut.png: damaged or cut short" in (said := capsys.readouterr().out)
    assert ", and 7 more); rejected.csv lists them, and `thaw data diff` tells those that were good before\n" in said
    assert len(samples(workspace)) == 40
    reasons = rejected(workspace)
    assert {Path(path).name: reason.split(";")[0].split(":")[0] for path, reason in reasons.items()} == {
        "cut.png": "damaged or cut short",
        "empty.jpg": "empty file",
        "page.png": "not an image of a format that is read (JPEG, PNG, BMP, TIFF, WebP, GIF, PNM, JPEG 2000, "
        "AVIF, HEIC, DICOM)",
        "outside.png": "symbolic link to outside of the data folder",
        "loop.png": "symbolic link that leads to itself",
        "nothing.png": "symbolic link to nothing",
        "folder": "symbolic link to a folder",
        "pipe.png": "not a regular file (a folder, pipe, socket or device)",
    }


def test_a_file_that_kills_its_decoder_or_takes_too_much_is_rejected_and_the_stage_goes_on(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = {f"dog/{name}.png": save_deadly(workspace / "raw" / "dog" / f"{name}.png") for name in ("bomb", "crash")}
    real = decoding.decode

    def decode(data: bytes, **settings: Any) -> decoding.Picture:
        if data == deadly["dog/bomb.png"]:
            np.ones(2**30, np.uint8)  # as a decoder might that a header deceived
        if data == deadly["dog/crash.png"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(data, **settings)

    monkeypatch.setattr(decoding, "decode", decode)
    change(workspace, "compute", workers=2)
    change(workspace, "prepare", max_megapixels=1.0)
    assert prepare(workspace)[0] == 0
    assert len(samples(workspace)) == 40
    assert rejected(workspace) == {
        "dog/bomb.png": "does not fit into memory",
        "dog/crash.png": "the process that read it was killed, most likely for want of memory",
    }


def save_deadly(path: Path) -> bytes:
    save(path, seed=1000 + len(path.name))
    return path.read_bytes()


def test_files_that_end_early_are_rejected_whatever_marker_follows(workspace: Path) -> None:
    files = {
        "half.jpg": cut.jpeg(0.5),
        "progressive.jpg": cut.jpeg(0.5, progressive=True),
        "tenth.png": cut.png(cut.HEIGHT // 10),
        "half.gif": cut.gif(cut.WIDTH * cut.HEIGHT // 2),
        "half.tif": cut.tiff(0.5, "raw"),
    }
    for name, data in files.items():
        (workspace / "raw" / "cat" / name).write_bytes(data)
    assert prepare(workspace)[0] == 0
    reasons = rejected(workspace)
    assert sorted(reasons) == sorted(f"cat/{name}" for name in files)
    assert all(reason.startswith("damaged or cut short: ") for reason in reasons.values())


def save_bands(path: Path, bands: int, dtype: str = "uint16") -> None:
    pixels = np.random.default_rng(len(path.name)).integers(0, 200, (20, 24, bands)).astype(dtype)
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig", metadata=None)


def test_images_of_other_channels_than_most_are_rejected_with_the_reason(workspace: Path) -> None:
    save_bands(workspace / "raw" / "cat" / "four.tif", 4)
    save_bands(workspace / "raw" / "dog" / "two.tif", 2, "uint8")
    assert prepare(workspace)[0] == 0
    assert rejected(workspace) == {
        "cat/four.tif": "it has 4 channels, most images have one channel or three; they do not mix",
        "dog/two.tif": "it has 2 channels, most images have one channel or three; they do not mix",
    }
    images = PackedImages.open(workspace / "data" / "prepared")
    assert (images.channels, images.dtype.name) == (1, "uint8")
    assert "dtype" not in artifacts.read_json(workspace / "data" / "prepared" / "settings.json")


def test_data_that_use_a_small_part_of_16_bits_are_told_the_range_to_set(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, path in enumerate(sorted((workspace / "raw").rglob("*.png"))):
        pixels = np.random.default_rng(seed).integers(0, 4000, (20, 24)).astype(np.uint16)
        Image.fromarray(pixels).save(path)
    assert prepare(workspace)[0] == 0
    found = audit(workspace)
    assert found.dtype == "uint16"
    assert found.value_range is not None
    warning = str(found.value_range.warning)
    assert warning.endswith("set prepare.value_range: [0, 4095]")
    assert warning in capsys.readouterr().out
    prepared = workspace / "data" / "prepared"
    assert facts.read(prepared / "settings.json", Preprocessing).dtype == "uint16"
    before = PackedImages.open(workspace / "data" / "prepared").read(np.array([0]))
    change(workspace, "prepare", value_range=[0, 4095])
    assert prepare(workspace)[0] == 0
    after = PackedImages.open(workspace / "data" / "prepared").read(np.array([0]))
    found = audit(workspace)
    assert found.value_range is not None
    assert found.value_range.warning is None
    np.testing.assert_allclose(after, np.minimum(before * (65535 / 4095), 65535), atol=20)


def test_under_one_value_range_8_and_16_bits_do_not_mix_but_without_one_they_do(workspace: Path) -> None:
    pixels = np.full((20, 24), 65535, np.uint16)
    pixels[0, 0] = 0
    Image.fromarray(pixels).save(workspace / "raw" / "cat" / "deep.png")
    assert prepare(workspace)[0] == 0
    images = PackedImages.open(workspace / "data" / "prepared")
    assert images.dtype == np.uint16
    assert images.read(np.arange(41)).max() == 65535
    change(workspace, "prepare", value_range=[0, 255])
    assert prepare(workspace)[0] == 0
    assert rejected(workspace) == {
        "cat/deep.png": "it has one channel or three of 16 bits, most images have one channel or three of 8 bits; "
        "they do not mix"
    }


def test_the_exit_code_is_1_and_the_error_one_line(workspace: Path) -> None:
    artifacts.remove(workspace / "raw" / "dog")
    code, line = prepare(workspace, LANG="C")
    assert (code, line) == (1, "raw has one class only (cat); a classifier needs at least two")


def test_too_many_broken_files_stop_the_stage_and_a_rerun_recovers(workspace: Path) -> None:
    for index in range(15):
        (workspace / "raw" / "cat" / f"bad{index}.png").write_bytes(b"")
    line = refused(workspace)
    assert line.startswith("15 of 55 files cannot be used, more than prepare.max_rejected (0.2) allows: cat/bad0.png: ")
    for path in (workspace / "raw" / "cat").glob("bad*"):
        path.unlink()
    assert prepare(workspace)[0] == 0


def test_hidden_files_and_folders_are_no_samples_and_no_classes(workspace: Path) -> None:
    for name in (
        ".hidden/x.png",
        "__MACOSX/._x.png",
        ".ipynb_checkpoints/x.png",
        "cat/.x.png",
        "cat/Thumbs.db",
        "README",
    ):
        save(workspace / "raw" / "seed.png", 0)
        (workspace / "raw" / name).parent.mkdir(exist_ok=True)
        (workspace / "raw" / "seed.png").rename(workspace / "raw" / name)
    assert prepare(workspace)[0] == 0
    assert len(samples(workspace)) == 40
    assert rejected(workspace) == {}


def no_class(raw: Path) -> None:
    for path in raw.rglob("*.png"):
        path.unlink()
    (raw / "cat").rmdir()
    (raw / "dog").rmdir()


def one_class(raw: Path) -> None:
    (raw / "dog").rename(raw.parent / "elsewhere")


def empty_class(raw: Path) -> None:
    (raw / "bird").mkdir()


def only_broken(raw: Path) -> None:
    for path in raw.rglob("*.png"):
        path.write_bytes(b"broken")


def one_image_each(raw: Path) -> None:
    for path in raw.rglob("*.png"):
        if path.stem != "00":
            path.unlink()


def case_only(raw: Path) -> None:
    save(raw / "Cat" / "0.png", 900)


def not_utf8(raw: Path) -> None:
    Path(os.fsdecode(os.fsencode(raw / "cat") + b"/\xff\xfe.png")).write_bytes(b"")


def missing(raw: Path) -> None:
    raw.rename(raw.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (no_class, "raw holds no class folders with files in them"),
        (one_class, "raw has one class only (cat); a classifier needs at least two"),
        (empty_class, "raw/bird holds no files; add images of this class or remove the folder"),
        (only_broken, "none of the 40 files in raw can be used (cat/00.png: not an image"),
        (one_image_each, "no image is left for test: the classes have too few independent images"),
        (case_only, "raw: the classes 'Cat' and 'cat' differ in case"),
        (not_utf8, r"raw: the name cat/\xff\xfe.png is not valid UTF-8; rename it"),
        (missing, "params.yaml: data.raw is raw, which does not exist"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_no_data_set_is_refused_in_one_line(workspace: Path, damage: Callable[[Path], None], line: str) -> None:
    damage(workspace / "raw")
    assert refused(workspace).startswith(line)


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


def test_a_manifest_gives_groups_and_confidence(workspace: Path) -> None:
    rows = [
        f"{label}/{i:02d}.png,{label},g{label}{i // 4},{0.5 + i / 40}" for label in ("cat", "dog") for i in range(20)
    ]
    (workspace / "raw" / "list.csv").write_text("\n".join(["path,label,group,confidence", *reversed(rows)]))
    change(workspace, "data", raw="raw/list.csv", labels="raw/list.csv")
    assert prepare(workspace)[0] == 0
    table = samples(workspace)
    assert table["path"].is_monotonic_increasing
    assert table.groupby("group")["split"].nunique().max() == 1
    assert table["confidence"].tolist()[:2] == [0.5, 0.525]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("path,lable\na.png,cat\n", "raw/list.csv has no column label; say which it is: data.columns: {label: lable}"),
        ("path\na.png\n", "raw/list.csv has no column label"),
        ("path,label\n", "raw/list.csv lists no images"),
        ("path,label\n../params.yaml,cat\n", "raw/list.csv: path '../params.yaml' leads out of raw"),
        ("path,label\n/etc/hostname,cat\n", "raw/list.csv: path '/etc/hostname' leads out of raw"),
        ("path,label\na.png,cat\n./a.png,dog\n", "raw/list.csv lists 'a.png' twice or more"),
        ("path,label\na.png,\n", "raw/list.csv: label is empty in 1 rows; fill it in, or remove these rows"),
        ("path,label,split\na.png,cat,trian\n", "raw/list.csv: split is 'trian'; it must be one of train"),
        ("path,label,confidence\na.png,cat,0\n", "raw/list.csv: confidence is '0'; it must be a number above 0"),
        ('path,label\n"a.png,cat\n', "raw/list.csv is no CSV that can be read (Error tokenizing data"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused_in_one_line(workspace: Path, text: str, line: str) -> None:
    (workspace / "raw" / "list.csv").write_text(text)
    change(workspace, "data", raw="raw/list.csv", labels="raw/list.csv")
    assert refused(workspace).startswith(line)


def contradict(workspace: Path) -> None:
    """Put two cats among the dogs, one of them twice, and a second copy of it among the cats."""
    raw = workspace / "raw"
    for name, label in (("01", "dog"), ("02", "dog"), ("01", "cat")):
        (raw / label / f"copy{name}.png").write_bytes((raw / "cat" / f"{name}.png").read_bytes())


def test_images_under_two_labels_are_all_named_at_once(workspace: Path) -> None:
    contradict(workspace)
    assert refused(workspace) == (
        "2 images are listed under several labels: cat/01.png (cat) and cat/copy01.png (cat) and dog/copy01.png (dog); "
        "cat/02.png (cat) and dog/copy02.png (dog); correct the labels, or set data.conflicts to drop (use no copy) or "
        "first (use the first by its path)"
    )


@pytest.mark.parametrize(
    ("policy", "gone", "said"),
    [
        ("drop", {"cat/01.png", "cat/copy01.png", "dog/copy01.png", "cat/02.png", "dog/copy02.png"}, "none of their"),
        (
            "first",
            {"dog/copy01.png", "dog/copy02.png"},
            "the first by its path is kept (data.conflicts: first)",
        ),
    ],
)
def test_images_under_two_labels_go_as_asked_whatever_max_rejected_says(
    workspace: Path, policy: str, gone: set[str], said: str
) -> None:
    contradict(workspace)
    change(workspace, "data", conflicts=policy)
    change(workspace, "prepare", max_rejected=0.0)
    assert prepare(workspace)[0] == 0
    assert set(rejected(workspace)) == gone
    assert len(samples(workspace)) == 43 - len(gone)
    assert audit(workspace).label_conflicts.count == 2
    assert any(said in line for line in audit(workspace).decisions)


def grow_a_tail(workspace: Path) -> None:
    """Add fifteen classes of one or two images."""
    for number in range(15):
        (workspace / "raw" / f"tail{number:02d}").mkdir()
        for index in range(1 + number % 2):
            save(workspace / "raw" / f"tail{number:02d}" / f"{index}.png", 1000 + 10 * number + index)


@pytest.mark.parametrize(
    ("policy", "classes", "images"),
    [("train-only", 17, 62), ("drop", 2, 40), ("merge:rare", 3, 62), ("merge:dog", 2, 62)],
)
def test_rare_classes_go_as_asked(workspace: Path, policy: str, classes: int, images: int) -> None:
    grow_a_tail(workspace)
    change(workspace, "data", rare=policy)
    assert prepare(workspace)[0] == 0
    table, said = samples(workspace), audit(workspace).decisions
    assert (table["label"].nunique(), len(table)) == (classes, images)
    if policy == "train-only":
        alone = table[table["label"].map(table["label"].value_counts()) == 1]
        assert set(alone["split"]) == {"train"}
        assert any("trained on and never tested" in line for line in said)
    else:
        assert any(line.startswith("15 classes have fewer than 3 independent images: tail00 (1), ta") for line in said)


def test_rare_classes_are_all_named_at_once(workspace: Path) -> None:
    grow_a_tail(workspace)
    change(workspace, "data", rare="error")
    line = refused(workspace)
    assert all(f"tail{number:02d} ({1 + number % 2})" in line for number in range(15))
    assert "set data.rare to train-only" in line


def test_what_stands_beside_the_images_is_counted_apart_and_said(workspace: Path) -> None:
    raw = workspace / "raw"
    for path in [*raw.glob("*/*.png")]:
        path.with_suffix(".xml").write_text("<annotation/>")
    (raw / "cat" / "labels.csv").write_text("Filename;Width\n")
    (raw / "loose.png").write_bytes((raw / "cat" / "00.png").read_bytes())
    change(workspace, "prepare", max_rejected=0.0)
    assert prepare(workspace)[0] == 0
    assert rejected(workspace) == {}
    assert audit(workspace).decisions[:2] == [
        "raw: 1 files in no class folder are not used (loose.png)",
        "raw: 41 files beside the images are not used (40 .xml, 1 .csv; cat/00.xml)",
    ]


def test_what_cropping_cuts_off_is_said(workspace: Path) -> None:
    Image.new("RGB", (160, 20), "red").save(workspace / "raw" / "cat" / "panorama.png")
    assert prepare(workspace)[0] == 0
    said = (
        "it cuts off the ends of images, 17% in the middle, 88% at most (cat/panorama.png), more than half of 1 images"
    )
    assert f"prepare.fit is crop: {said}; pad keeps them" in audit(workspace).decisions
    change(workspace, "prepare", fit="pad")
    assert prepare(workspace)[0] == 0
    assert not any("prepare.fit" in line for line in audit(workspace).decisions)


def film(workspace: Path, name: str, videos: int = 6, frames: int = 8) -> None:
    """Replace the images by videos, of which nothing but the video tells the class: each is a picture that drifts.

    `name` says where a frame lies, by class, video and frame.
    """
    for path in (workspace / "raw").rglob("*.png"):
        path.unlink()
    random = np.random.default_rng(0)
    for video in range(2 * videos):
        base = np.kron(random.integers(0, 256, (6, 6)), np.ones((8, 8)))
        for frame in range(frames):
            pixels = np.roll(base, frame, axis=1) + random.integers(-9, 10, base.shape)
            path = workspace / "raw" / name.format(label=("cat", "dog")[video % 2], video=video, frame=frame)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


IN_FOLDERS, BY_NAME = "{label}/video{video:02d}/{frame}.png", "{label}/v{video:02d}_{frame}.png"


def test_frames_in_sub_folders_stop_until_it_is_said_what_they_are(workspace: Path) -> None:
    film(workspace, IN_FOLDERS)
    line = refused(workspace)
    assert re.match(
        r"(9\d|100)% of 96 images look most like another one of their own sub-folder, where 15% would", line
    )
    assert line.endswith("set data.group: folder; if each stands for itself, data.group: none")
    with Image.open(workspace / ".thaw" / "neighbours.png") as sheet:
        assert sheet.size[1] == 256
    change(workspace, "data", group="none")
    assert prepare(workspace)[0] == 0
    assert set(samples(workspace)["group"].fillna("")) == {""}


@pytest.mark.parametrize(
    ("name", "group"), [(IN_FOLDERS, "folder"), (BY_NAME, r"filename:(v\d+)_"), (BY_NAME, r"filename:v\d+")]
)
def test_frames_stay_together_as_asked(workspace: Path, name: str, group: str) -> None:
    film(workspace, name)
    change(workspace, "data", group=group)
    assert prepare(workspace)[0] == 0
    table = samples(workspace)
    assert table["group"].nunique() == 12
    assert table.groupby("group")["split"].nunique().max() == 1
    assert table.groupby("group")["fold"].nunique().max() == 1
    assert f"12 groups of images that stay together (data.group: {group})" in audit(workspace).decisions


def test_frames_that_only_their_names_show_are_pointed_out(workspace: Path) -> None:
    film(workspace, BY_NAME)
    assert prepare(workspace)[0] == 0
    assert any("look most like the one before or after them by name" in line for line in audit(workspace).decisions)


def test_sub_folders_of_images_that_are_not_alike_need_no_word(workspace: Path) -> None:
    for path in sorted((workspace / "raw").rglob("*.png")):
        target = path.parent / f"part{int(path.stem) % 4}" / path.name
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    assert prepare(workspace)[0] == 0
    assert not any("look most like" in line for line in audit(workspace).decisions)


@pytest.mark.parametrize(
    ("group", "line"),
    [
        ("filename:x(", "data.group is filename:x(, which is no pattern: missing ), unterminated subpattern"),
        (r"filename:^cat/0", r"data.group is filename:^cat/0, which cat/10.png and 29 more does not fit; widen the"),
    ],
)
def test_a_pattern_that_does_not_serve_is_refused(workspace: Path, group: str, line: str) -> None:
    change(workspace, "data", group=group)
    assert refused(workspace).startswith(line)


def test_groups_that_are_said_twice_are_refused(workspace: Path) -> None:
    rows = [f"{label}/{i:02d}.png,{label},g{label}{i // 4}" for label in ("cat", "dog") for i in range(20)]
    (workspace / "raw" / "list.csv").write_text("\n".join(["path,label,group", *rows]))
    change(workspace, "data", raw="raw/list.csv", labels="raw/list.csv", group="folder")
    assert refused(workspace) == (
        "data.group is folder, and the table of images has groups as well; leave one of them out"
    )


def test_sub_folders_are_groups_within_given_splits_too(workspace: Path) -> None:
    film(workspace, "train/" + IN_FOLDERS)
    for label in ("cat", "dog"):
        artifacts.remove(workspace / "raw" / label)
    change(workspace, "data", group="folder")
    assert prepare(workspace)[0] == 0
    assert samples(workspace).groupby("group")["split"].nunique().tolist() == [1] * 12
