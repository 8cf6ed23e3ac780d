"""Stacks and values without a range, through the real stage: the right plane, or what to set, for all files at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.faults.preparing import audit, change, prepare, refused, rejected, samples
from thaw.data import square
from thaw.data.packed import PackedImages
from thaw.pipeline import facts
from thaw.pipeline.data_facts import Preprocessing


def write(pets: Path, planes: Any) -> None:
    """Put a TIFF in the place of each image; `planes` makes them of its grey values [height, width]."""
    for path in sorted((pets / "raw").rglob("*.png")):
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L"))
        tifffile.imwrite(path.with_suffix(".tif"), planes(grey), photometric="minisblack")
        path.unlink()


def dark_then_bright(grey: Any) -> Any:
    noise = np.random.default_rng(int(grey[0, 0])).integers(0, 3, (2, *grey.shape))
    return np.stack([*noise, grey]).astype(np.uint8)


def settings(pets: Path) -> Preprocessing:
    return facts.read(pets / "data" / "prepared" / "settings.json", Preprocessing)


def test_a_dark_first_plane_is_named_with_what_to_set(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(pets, dark_then_bright)
    assert prepare(pets)[0] == 0
    said = capsys.readouterr().out
    assert (
        "prepare: 40 files hold 3 planes (pages, frames) (cat/00.tif); prepare.plane is first: the first of each is "
        "used\n" in said
    )
    assert (
        "prepare: 40 files (cat/00.tif): plane 0 of 3, which is used, is almost of one value, and plane 2 is not; set "
        "prepare.plane to 2, max or mean\n" in said
    )
    assert audit(pets).first_frame_only.count == 40
    assert settings(pets).plane is None


@pytest.mark.parametrize("plane", ["max", 2])
def test_the_plane_that_is_asked_for_is_packed_and_what_a_model_is_told_of(pets: Path, plane: str | int) -> None:
    write(pets, dark_then_bright)
    change(pets, "prepare", plane=plane)
    assert prepare(pets)[0] == 0
    assert audit(pets).first_frame_only.count == 0
    assert not any("almost of one value" in line for line in audit(pets).decisions)
    assert settings(pets).plane == plane
    images = PackedImages.open(pets / "data" / "prepared")
    assert images.read(np.arange(40)).mean() > 100
    first = pets / "raw" / str(images.samples["path"][0])
    asked = square.read_square(first, settings(pets), channels=images.channels)
    assert np.array_equal(asked, images.read(np.array([0]))[0])


def test_a_plane_that_some_files_lack_is_a_reason_of_each(pets: Path) -> None:
    stack = np.random.default_rng(7).integers(0, 256, (3, 20, 24)).astype(np.uint8)
    tifffile.imwrite(pets / "raw" / "cat" / "deep.tif", stack, photometric="minisblack")
    change(pets, "prepare", plane=1, max_rejected=1.0)
    line = refused(pets)
    assert line.startswith(
        "class 'dog' has no image that can be used (cat/00.png: it has 1 plane, and prepare.plane is 1"
    )


COUNTS: dict[str, tuple[Any, str]] = {
    "float32": (lambda grey: grey.astype(np.float32) * 16, "[0, 4095]"),
    "uint32": (lambda grey: grey.astype(np.uint32) * 257, "[0, 65535]"),
    "int16": (lambda grey: grey.astype(np.int16) * 16 - 1024, "[-1024, 3056]"),
    "float64": (lambda grey: grey / 127.5 - 1, "[-1, 1]"),
}


@pytest.mark.parametrize("kind", COUNTS)
def test_values_without_a_range_are_told_once_with_the_range_to_set(pets: Path, kind: str) -> None:
    make, proposed = COUNTS[kind]
    extremes = np.zeros((20, 24), np.uint8)
    extremes[0] = 255
    Image.fromarray(extremes).save(pets / "raw" / "cat" / "extremes.png")
    write(pets, make)
    line = refused(pets)
    assert line.startswith("41 of 41 files have pixels whose range is not known, from ")
    assert f"set prepare.value_range: {proposed}, or what the device can give" in line
    change(pets, "prepare", value_range=[float(end) for end in proposed.strip("[]").split(",")])
    assert prepare(pets)[0] == 0
    assert rejected(pets) == {}
    assert audit(pets).dtype == "uint16"
    pixels = PackedImages.open(pets / "data" / "prepared").read(np.arange(41))
    assert (pixels.min(), pixels.max() > 60000) == (0, True)


def test_few_files_without_a_range_are_rejected_with_their_values(pets: Path) -> None:
    values = np.linspace(-5, 900, 480, dtype=np.float32).reshape(20, 24)
    tifffile.imwrite(pets / "raw" / "cat" / "odd.tif", values)
    assert prepare(pets)[0] == 0
    assert rejected(pets) == {
        "cat/odd.tif": "pixel values are not all between 0 and 1; they go from -5 to 900: set prepare.value_range, such"
        " as [-5, 900], or convert the images to 8 or 16 bits"
    }
    assert len(samples(pets)) == 40
