"""Rows 1, 9 to 12 and 23 of the fault list, through the real stage: one clear line and no output, or a right result."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests import cut
from tests.faults.preparing import audit, change, prepare, refused, rejected, samples, save
from thaw.data import decoding
from thaw.data.packed import PackedImages
from thaw.pipeline import artifacts, facts
from thaw.pipeline.data_facts import Preprocessing


def test_broken_files_are_listed_and_counted_aloud_and_the_rest_is_used(
    pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = pets / "raw" / "cat"
    whole = (raw / "00.png").read_bytes()
    (raw / "cut.png").write_bytes(whole[: len(whole) // 2])
    (raw / "empty.jpg").write_bytes(b"")
    (raw / "page.png").write_text("<html></html>")
    (raw / "outside.png").symlink_to("/etc/hostname")
    (raw / "loop.png").symlink_to("loop.png")
    (raw / "nothing.png").symlink_to("nowhere.png")
    (raw / "folder").symlink_to("/etc")
    os.mkfifo(raw / "pipe.png")
    assert prepare(pets)[0] == 0
    assert "prepare: 8 of 48 files rejected (cat/cut.png: damaged or cut short" in (said := capsys.readouterr().out)
    assert ", and 7 more); rejected.csv lists them, and `thaw data diff` tells those that were good before\n" in said
    assert len(samples(pets)) == 40
    reasons = rejected(pets)
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
    pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = {f"dog/{name}.png": save_deadly(pets / "raw" / "dog" / f"{name}.png") for name in ("bomb", "crash")}
    real = decoding.decode

    def decode(data: bytes, **settings: Any) -> decoding.Picture:
        if data == deadly["dog/bomb.png"]:
            np.ones(2**30, np.uint8)  # as a decoder might that a header deceived
        if data == deadly["dog/crash.png"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(data, **settings)

    monkeypatch.setattr(decoding, "decode", decode)
    change(pets, "compute", workers=2)
    change(pets, "prepare", max_megapixels=1.0)
    assert prepare(pets)[0] == 0
    assert len(samples(pets)) == 40
    assert rejected(pets) == {
        "dog/bomb.png": "does not fit into memory",
        "dog/crash.png": "the process that read it was killed, most likely for want of memory",
    }


def save_deadly(path: Path) -> bytes:
    save(path, seed=1000 + len(path.name))
    return path.read_bytes()


def test_files_that_end_early_are_rejected_whatever_marker_follows(pets: Path) -> None:
    files = {
        "half.jpg": cut.jpeg(0.5),
        "progressive.jpg": cut.jpeg(0.5, progressive=True),
        "tenth.png": cut.png(cut.HEIGHT // 10),
        "half.gif": cut.gif(cut.WIDTH * cut.HEIGHT // 2),
        "half.tif": cut.tiff(0.5, "raw"),
    }
    for name, data in files.items():
        (pets / "raw" / "cat" / name).write_bytes(data)
    assert prepare(pets)[0] == 0
    reasons = rejected(pets)
    assert sorted(reasons) == sorted(f"cat/{name}" for name in files)
    assert all(reason.startswith("damaged or cut short: ") for reason in reasons.values())


def save_bands(path: Path, bands: int, dtype: str = "uint16") -> None:
    pixels = np.random.default_rng(len(path.name)).integers(0, 200, (20, 24, bands)).astype(dtype)
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig", metadata=None)


def test_images_of_other_channels_than_most_are_rejected_with_the_reason(pets: Path) -> None:
    save_bands(pets / "raw" / "cat" / "four.tif", 4)
    save_bands(pets / "raw" / "dog" / "two.tif", 2, "uint8")
    assert prepare(pets)[0] == 0
    assert rejected(pets) == {
        "cat/four.tif": "it has 4 channels, most images have one channel or three; they do not mix",
        "dog/two.tif": "it has 2 channels, most images have one channel or three; they do not mix",
    }
    images = PackedImages.open(pets / "data" / "prepared")
    assert (images.channels, images.dtype.name) == (1, "uint8")
    assert "dtype" not in artifacts.read_json(pets / "data" / "prepared" / "settings.json")


def test_data_that_use_a_small_part_of_16_bits_are_told_the_range_to_set(
    pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, path in enumerate(sorted((pets / "raw").rglob("*.png"))):
        pixels = np.random.default_rng(seed).integers(0, 4000, (20, 24)).astype(np.uint16)
        Image.fromarray(pixels).save(path)
    assert prepare(pets)[0] == 0
    found = audit(pets)
    assert found.dtype == "uint16"
    assert found.value_range is not None
    warning = str(found.value_range.warning)
    assert warning.endswith("set prepare.value_range: [0, 4095]")
    assert warning in capsys.readouterr().out
    prepared = pets / "data" / "prepared"
    assert facts.read(prepared / "settings.json", Preprocessing).dtype == "uint16"
    before = PackedImages.open(pets / "data" / "prepared").read(np.array([0]))
    change(pets, "prepare", value_range=[0, 4095])
    assert prepare(pets)[0] == 0
    after = PackedImages.open(pets / "data" / "prepared").read(np.array([0]))
    found = audit(pets)
    assert found.value_range is not None
    assert found.value_range.warning is None
    np.testing.assert_allclose(after, np.minimum(before * (65535 / 4095), 65535), atol=20)


def test_under_one_value_range_8_and_16_bits_do_not_mix_but_without_one_they_do(pets: Path) -> None:
    pixels = np.full((20, 24), 65535, np.uint16)
    pixels[0, 0] = 0
    Image.fromarray(pixels).save(pets / "raw" / "cat" / "deep.png")
    assert prepare(pets)[0] == 0
    images = PackedImages.open(pets / "data" / "prepared")
    assert images.dtype == np.uint16
    assert images.read(np.arange(41)).max() == 65535
    change(pets, "prepare", value_range=[0, 255])
    assert prepare(pets)[0] == 0
    assert rejected(pets) == {
        "cat/deep.png": "it has one channel or three of 16 bits, most images have one channel or three of 8 bits; "
        "they do not mix"
    }


def test_the_exit_code_is_1_and_the_error_one_line(pets: Path) -> None:
    artifacts.remove(pets / "raw" / "dog")
    code, line = prepare(pets, LANG="C")
    assert (code, line) == (1, "raw has one class only (cat); a classifier needs at least two")


def test_too_many_broken_files_stop_the_stage_and_a_rerun_recovers(pets: Path) -> None:
    for index in range(15):
        (pets / "raw" / "cat" / f"bad{index}.png").write_bytes(b"")
    line = refused(pets)
    assert line.startswith("15 of 55 files cannot be used, more than prepare.max_rejected (0.2) allows: cat/bad0.png: ")
    for path in (pets / "raw" / "cat").glob("bad*"):
        path.unlink()
    assert prepare(pets)[0] == 0


def test_hidden_files_and_folders_are_no_samples_and_no_classes(pets: Path) -> None:
    for name in (
        ".hidden/x.png",
        "__MACOSX/._x.png",
        ".ipynb_checkpoints/x.png",
        "cat/.x.png",
        "cat/Thumbs.db",
        "README",
    ):
        save(pets / "raw" / "seed.png", 0)
        (pets / "raw" / name).parent.mkdir(exist_ok=True)
        (pets / "raw" / "seed.png").rename(pets / "raw" / name)
    assert prepare(pets)[0] == 0
    assert len(samples(pets)) == 40
    assert rejected(pets) == {}


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
def test_what_is_no_data_set_is_refused_in_one_line(pets: Path, damage: Callable[[Path], None], line: str) -> None:
    damage(pets / "raw")
    assert refused(pets).startswith(line)
