"""Near duplicates: what counts as the same image."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from thaw.data.audit import appearance, near_duplicates


def scene(seed: int, side: int = 64) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("side", [16, 64, 75])
def test_mirror_images_look_the_same(side: int) -> None:
    for seed in range(20):
        image = scene(seed, side)
        mirrored = (image[::-1], image[:, ::-1], image[::-1, ::-1])
        assert {appearance(other) for other in mirrored} == {appearance(image)}


def compressed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return np.asarray(Image.open(buffer))


def resized(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    small = Image.fromarray(image).resize((45, 45), Image.Resampling.LANCZOS)
    return np.asarray(small.resize((64, 64), Image.Resampling.LANCZOS))


def mirrored(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image[:, ::-1]


@pytest.mark.parametrize("change", [compressed, resized, mirrored])
def test_copies_are_found_and_strangers_are_not(change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> None:
    scenes = [scene(seed) for seed in range(100)]
    images = scenes + [change(image) for image in scenes[:40]]
    table = pd.DataFrame({"perceptual_hash": [appearance(image) for image in images], "label": "a", "split": "train"})
    found = near_duplicates(table.assign(fold=-1, path=[str(row % 100) for row in range(140)]))
    assert all(len(set(group.paths)) == 1 for group in found)
    assert len(found) >= 34


def test_images_that_look_alike_are_said_to_lie_in_several_folds_or_splits() -> None:
    looks = [appearance(scene(seed)) for seed in (0, 0, 0, 1, 1, 2, 2)]
    table = pd.DataFrame({"perceptual_hash": looks, "label": "a", "path": list("abcdefg")})
    table["split"] = ["train", "train", "test", "train", "train", "train", "train"]
    table["fold"] = [0, 2, -1, 1, 1, -1, 4]
    places = [group.splits for group in near_duplicates(table)]
    assert places == [["fold 0", "fold 2", "test"], ["fold 1"], ["fold 4", "train"]]


def test_appearance_ignores_the_number_of_channels() -> None:
    grey = scene(0)[:, :, :1]
    assert appearance(grey) == appearance(np.repeat(grey, 3, axis=2))
    assert appearance(np.full((16, 16, 1), 7, np.uint8)) == "0" * 32 + "07" * 256
