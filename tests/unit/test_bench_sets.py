"""The image sets of the benches: the same bytes each time, class folders of images, and groups where they are due."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from bench import _sets
from thaw.data import listing
from thaw.errors import DataError

NUM_IMAGES = 24

WRITERS: dict[str, tuple[Callable[[Path], None], int, int, int]] = {
    "digits": (_sets.write_digits, 10, 1797, 8),
    "textures": (partial(_sets.write_textures, num_images=NUM_IMAGES), 8, NUM_IMAGES, _sets.SIZE_PX),
    "typefaces": (partial(_sets.write_typefaces, num_images=NUM_IMAGES), 10, NUM_IMAGES, _sets.SIZE_PX),
}


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.png")
    }


@pytest.mark.parametrize("name", WRITERS)
def test_a_set_is_class_folders_of_images_and_the_same_bytes_each_time(name: str, tmp_path: Path) -> None:
    writer, num_classes, num_images, size_px = WRITERS[name]
    writer(tmp_path / "first")
    writer(tmp_path / "second")
    found = contents(tmp_path / "first")
    assert found == contents(tmp_path / "second")
    assert len(set(found.values())) == num_images  # no picture is another's copy
    listed = listing.read(tmp_path / "first")
    assert set(listed.table["path"]) == set(found)
    assert len(listed.classes) == num_classes
    for path in found:
        with Image.open(tmp_path / "first" / path) as image:
            assert image.size == (size_px, size_px)
            image.load()


def test_digits_keep_their_class_and_their_grey_levels(tmp_path: Path) -> None:
    _sets.write("digits", tmp_path / "digits")
    digits = load_digits()
    for number in (0, 1, 1796):
        path = tmp_path / "digits" / str(digits.target[number]) / f"{number:04d}.png"
        np.testing.assert_allclose(np.asarray(Image.open(path)), digits.images[number] * 255 / 16, atol=0.5)


def test_only_a_known_set_is_written_and_only_to_a_new_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image set 'digit'; choose one of digits, textures"):
        _sets.write("digit", tmp_path / "digit")
    with pytest.raises(DataError, match="exists; remove it"):
        _sets.write("digits", tmp_path)
    assert not list(tmp_path.iterdir())


def test_as_many_emoji_of_each_category_are_chosen_and_none_that_a_vendor_lacks() -> None:
    drawn = {f"has_img_{vendor}": True for vendor in ("apple", "facebook", "google", "twitter")}
    listed = [
        {"unified": f"{category}-{number}", "category": category} | drawn
        for category in ("Food & Drink", "Objects", "Flags")
        for number in range(100)
    ]
    listed[0] = listed[0] | {"has_img_twitter": False}
    chosen = _sets._chosen_emoji(listed)
    assert sorted(chosen.values()) == ["food"] * 85 + ["objects"] * 85
    assert all(code.startswith(("Food", "Objects")) for code in chosen)
    assert "Food & Drink-0" not in chosen
    assert _sets._chosen_emoji(listed[::-1]) == chosen


@pytest.mark.parametrize(
    ("code", "changes", "kept"),
    [
        ("1F3C3", {}, True),
        ("1F3C3-200D-2642-FE0F", {}, False),
        ("1F469-200D-1F680", {}, False),
        ("1F9D1-200D-1F680", {}, True),
        ("1F3C3-1F3FB", {"skintone": 1}, False),
        ("1F1EA-1F1EC", {"group": "flags"}, False),
    ],
)
def test_a_drawing_is_no_variant_of_another(code: str, changes: dict[str, object], kept: bool) -> None:
    assert _sets._is_drawing({"hexcode": code, "group": "people-body", "skintone": ""} | changes) is kept
