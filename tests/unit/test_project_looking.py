"""What is seen of the images before a project is laid out."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.photos import write_photos
from thaw.data import listing
from thaw.project import looking
from thaw.project.looking import Seen, look


def _tiffs(folder: Path, make: Any) -> Path:
    random = np.random.default_rng(0)
    for index in range(6):
        path = folder / ("a" if index % 2 else "b") / f"{index}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        values: NDArray[Any] = make(random)
        tifffile.imwrite(path, values, photometric="minisblack")
    return folder


def _seen(folder: Path) -> Seen:
    return look(listing.read(folder))


def test_classes_numbers_sizes_and_channels_are_seen(tmp_path: Path) -> None:
    seen = _seen(write_photos(tmp_path / "photos", images_a_class=4))
    assert seen.classes == {"bright": 4, "dark": 4}
    assert seen.num_images == len(seen.sizes) == 8
    assert all(70 <= side < 120 for size in seen.sizes for side in size)
    assert dict(seen.channels) == {3: 8}
    assert seen.value_range is None
    first, second = looking.in_words(seen, "photos")[:2]
    assert first == "photos: 8 images in 2 classes (bright 4, dark 4)"
    assert second.endswith("px high, colour")


def test_the_sizes_are_those_that_prepare_finds(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos")
    listed = listing.read(folder)
    expected = []
    for path in listed.table["path"]:
        with Image.open(folder / path) as image:
            expected.append(image.size)
    assert look(listed).sizes == expected


def test_tiffs_of_16_bits_that_use_12_need_a_value_range(tmp_path: Path) -> None:
    seen = _seen(_tiffs(tmp_path, lambda random: random.integers(0, 4000, (40, 50)).astype(np.uint16)))
    assert seen.value_range == ((0.0, 4095.0),)
    assert looking.shown(seen.value_range) == [0, 4095]
    assert "prepare.value_range is set to [0, 4095]" in "\n".join(looking.in_words(seen, "x"))
    assert dict(seen.channels) == {1: 6}
    assert set(seen.sizes) == {(50, 40)}


def test_tiffs_that_use_their_16_bits_need_none(tmp_path: Path) -> None:
    seen = _seen(_tiffs(tmp_path, lambda random: random.integers(0, 65536, (40, 50)).astype(np.uint16)))
    assert seen.value_range is None
    assert seen.notes == []


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("float32", -20.0, 300.0), ("int16", -1000.0, 3000.0), ("uint32", 0.0, 100_000.0)]
)
def test_values_without_a_range_of_their_own_need_the_one_they_use(
    tmp_path: Path, kind: str, low: float, high: float
) -> None:
    def make(random: np.random.Generator) -> NDArray[Any]:
        values = random.uniform(low, high, (40, 50))
        values[0, :2] = low, high
        return values.astype(kind)

    assert _seen(_tiffs(tmp_path, make)).value_range == ((low, high),)


def test_bands_without_a_range_of_their_own_get_one_each(tmp_path: Path) -> None:
    def make(random: np.random.Generator) -> NDArray[Any]:
        values = np.stack([random.uniform(0, 10 ** (band + 1), (40, 50)) for band in range(5)], axis=2)
        values[0, 0] = 0
        values[0, 1] = [10, 100, 1000, 10000, 100000]
        return np.asarray(values, dtype=np.float32)

    for index in range(4):
        path = tmp_path / ("a" if index % 2 else "b") / f"{index}.tif"
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, make(np.random.default_rng(index)), photometric="minisblack", planarconfig="contig")
    seen = _seen(tmp_path)
    assert dict(seen.channels) == {5: 4}
    assert seen.value_range is not None
    assert looking.shown(seen.value_range) == [[0, 10], [0, 100], [0, 1000], [0, 10000], [0, 100000]]


def test_images_of_8_and_16_bits_together_get_no_range_and_a_note(tmp_path: Path) -> None:
    write_photos(tmp_path, images_a_class=2, classes=("a", "b"))
    _tiffs(tmp_path, lambda random: random.integers(0, 4000, (40, 50)).astype(np.uint16))
    seen = _seen(tmp_path)
    assert seen.value_range is None
    assert any(note.startswith("6 of 10 decoded images have more than 8 bits") for note in seen.notes)


def test_files_that_are_no_images_are_counted_with_their_reasons(tmp_path: Path) -> None:
    write_photos(tmp_path)
    (tmp_path / "dark" / "notes.jpg").write_text("not pixels")
    (tmp_path / "dark" / "cut.tif").write_bytes(b"II*\0")
    os.mkfifo(tmp_path / "dark" / "pipe.png")
    (tmp_path / "dark" / "gone.png").symlink_to("nowhere.png")
    seen = _seen(tmp_path)
    reasons = dict(line.split(": ", 1) for line in seen.unusable)
    assert sorted(reasons) == ["dark/cut.tif", "dark/gone.png", "dark/notes.jpg", "dark/pipe.png"]
    assert (reasons["dark/pipe.png"], reasons["dark/gone.png"]) == ("not a regular file", "No such file or directory")
    assert any("4 files are no images that can be read" in line for line in looking.in_words(seen, "x"))


def test_oblong_images_are_pointed_out(tmp_path: Path) -> None:
    for index in range(4):
        path = tmp_path / ("a" if index % 2 else "b") / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (200, 100)).save(path)
    assert "4 of 4 images are more than 1.5 times as long as wide" in _seen(tmp_path).notes[0]


@pytest.mark.parametrize(
    ("shorter", "input_px", "expected"), [(1000, 224, 256), (240, 224, 240), (60, 224, 224), (500, 160, 184)]
)
def test_squares_are_a_little_larger_than_the_networks_input_where_the_images_are(
    shorter: int, input_px: int, expected: int
) -> None:
    seen = Seen(classes={}, sizes=[(shorter, shorter + 30)] * 3, channels=Counter())
    assert seen.size_px(input_px) == expected


def test_an_image_that_claims_more_pixels_than_prepare_takes_raises_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7500)  # most photos have more, none twice as many
    assert len(_seen(tmp_path).sizes) == 6
