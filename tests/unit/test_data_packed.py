"""Packed images: what goes in comes out, and nothing altered is read."""

from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from thaw.data import packed
from thaw.errors import ArtifactError
from thaw.pipeline import artifacts


def write_packed(
    folder: Path, images: list[NDArray[np.uint8]], keep: list[int], shard_bytes: int = 2**30
) -> packed.PackedImages:
    size = len(keep)
    samples = pd.DataFrame(
        {
            "id": [f"{row:016x}" for row in range(size)],
            "path": [f"NA/{row}.png" for row in range(size)],
            "label": ["007", "NA"] * (size // 2) + ["007"] * (size % 2),
            "split": ["train", "val", "test", "train"][:size] + ["train"] * max(0, size - 4),
            "group": "",
            "sha256": "00",
            "width": 9,
            "height": 9,
            "row": range(size),
            "confidence": 1 / 3,
            "fold": -1,
            "look": "",
        }
    )
    with artifacts.new_folder(folder) as partial, TemporaryFile() as file:
        spool = packed.Spool(file, images[0].shape[0])
        for image in images:
            spool.append(image)
        packed.write(partial, samples, spool, keep, shard_bytes=shard_bytes)
    return packed.PackedImages.open(folder)


def noise(num_images: int, channels: int) -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(0).integers(0, 256, (num_images, 8, 8, channels), dtype=np.uint8))


@pytest.mark.parametrize("shard_bytes", [1, 64 * 3, 2**30])
def test_rows_come_back_in_the_order_asked_for_whatever_the_shards(tmp_path: Path, shard_bytes: int) -> None:
    images = noise(7, 1)
    data = write_packed(tmp_path / "p", images, [0, 2, 3, 4, 6], shard_bytes)
    kept = np.stack([images[number] for number in [0, 2, 3, 4, 6]])
    assert (data.channels, data.size_px, len(data)) == (1, 8, 5)
    assert np.array_equal(data.read(np.array([4, 0, 0, 3])), kept[[4, 0, 0, 3]])
    assert data.read(np.array([], dtype=np.int64)).shape == (0, 8, 8, 1)


def test_one_colour_image_makes_all_of_them_colour(tmp_path: Path) -> None:
    images = [*noise(2, 1), *noise(1, 3)]
    data = write_packed(tmp_path / "p", images, [0, 1, 2])
    assert data.channels == 3
    assert np.array_equal(data.read(np.array([1]))[0], np.repeat(images[1], 3, axis=2))
    assert np.array_equal(data.read(np.array([2]))[0], images[2])


def test_a_colour_image_that_is_not_kept_changes_nothing(tmp_path: Path) -> None:
    assert write_packed(tmp_path / "p", [*noise(2, 1), *noise(1, 3)], [0, 1]).channels == 1


def test_labels_splits_and_confidence_survive(tmp_path: Path) -> None:
    data = write_packed(tmp_path / "p", noise(4, 1), [0, 1, 2, 3])
    assert data.rows("train").tolist() == [0, 3]
    assert data.labels(np.array([0, 1])).tolist() == [0, 1]
    assert data.samples["group"].tolist() == [""] * 4
    assert data.samples["confidence"].tolist() == [1 / 3] * 4
    assert data.fingerprint == artifacts.sha256_of(tmp_path / "p" / artifacts.MANIFEST)


@pytest.mark.parametrize("rows", [[-1], [4], [0, 9]])
def test_a_row_that_does_not_exist_is_an_error(tmp_path: Path, rows: list[int]) -> None:
    with pytest.raises(IndexError):
        write_packed(tmp_path / "p", noise(4, 1), [0, 1, 2, 3]).read(np.array(rows))


def test_an_altered_shard_is_refused(tmp_path: Path) -> None:
    write_packed(tmp_path / "p", noise(4, 1), [0, 1, 2, 3])
    shard = tmp_path / "p" / "images-00000.npy"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"images-00000\.npy is not what its manifest says"):
        packed.PackedImages.open(tmp_path / "p")


def test_the_classes_are_listed_as_readable_json(tmp_path: Path) -> None:
    write_packed(tmp_path / "p", noise(4, 1), [0, 1, 2, 3])
    assert (tmp_path / "p" / "classes.json").read_bytes() == b'{\n  "classes": [\n    "007",\n    "NA"\n  ]\n}\n'
