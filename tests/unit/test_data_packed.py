"""Packed images: what goes in comes out, and nothing altered is read."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from tests import tiny
from thaw.config.schema import PrepareParams
from thaw.data import packed
from thaw.data.looks import SIDE_PX
from thaw.data.spool import Spool
from thaw.errors import ArtifactError
from thaw.pipeline import artifacts


def write_packed(
    folder: Path,
    images: list[NDArray[np.uint8]],
    keep: list[int],
    shard_bytes: int = 2**30,
    *,
    ids: Sequence[int] | None = None,
    before: Sequence[Sequence[str]] = (),
) -> packed.PackedImages:
    size = len(keep)
    samples = pd.DataFrame(
        {
            "id": [f"{number:016x}" for number in (range(size) if ids is None else ids)],
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
        spool = Spool(file, images[0].shape[0])
        for image in images:
            spool.append(image)
        packed.write(partial, samples, spool, keep, before=before, shard_bytes=shard_bytes)
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


def test_the_index_of_a_label_is_its_place_among_the_classes_whatever_the_order_of_the_rows() -> None:
    images = tiny.packed(9, label=["striped", "bright", "dark"] * 3)
    assert images.labels(np.arange(9)).tolist() == [2, 0, 1] * 3
    assert images.labels(np.array([4, 2, 0])).tolist() == [0, 1, 2]
    assert replace(images, classes=["striped", "dark", "bright"]).labels(np.array([0, 1, 2])).tolist() == [0, 2, 1]


def test_rows_come_with_their_labels_and_confidence_by_split_by_fold_and_all_but_test() -> None:
    confidence = np.arange(1, 10) / 10
    images = tiny.packed(9, split=["test"] * 2 + ["train"] * 5 + ["val"] * 2, confidence=confidence)
    given = [packed.labelled(images, "val"), packed.development_of(images), packed.labelled_rows(images, np.array([5]))]
    (only,) = packed.folds_of(images)
    parts = [*given, only.train, only.val]
    rows: list[list[int]] = [[7, 8], [2, 3, 4, 5, 6, 7, 8], [5], [2, 3, 4, 5, 6], [7, 8]]
    for part, expected in zip(parts, rows, strict=True):
        assert part.rows.tolist() == expected
        assert part.labels.tolist() == [row % 3 for row in expected]
        assert part.confidence.tolist() == confidence[expected].tolist()
    folds = packed.folds_of(tiny.in_folds(images, 2, np.array([-1, -1, 0, 1, -1, 1, 0, 0, 1])))
    assert [fold.val.rows.tolist() for fold in folds] == [[2, 6, 7], [3, 5, 8]]
    assert [fold.train.rows.tolist() for fold in folds] == [[3, 4, 5, 8], [2, 4, 6, 7]]


def test_the_settings_that_are_kept_are_those_that_change_pixels() -> None:
    settings = PrepareParams()
    for dtype, kept in (("uint8", None), ("uint16", "uint16")):
        found = packed.preprocessing(settings, dtype)
        assert found.dtype == kept
        assert found.pixel_type == dtype
        assert (found.size_px, found.fit, found.background) == (settings.size_px, settings.fit, settings.background)


def test_a_spool_gives_numbers_in_turn_and_finds_the_looks_among_images_of_any_kind() -> None:
    random = np.random.default_rng(0)
    looks = random.integers(0, 256, (3, SIDE_PX, SIDE_PX), dtype=np.uint8)
    with TemporaryFile() as file:
        spool = Spool(file, 8)
        assert spool.append(noise(1, 3)[0], looks[0]) == 0
        assert spool.append(random.integers(0, 2**16, (8, 8, 1), dtype=np.uint16), looks[1]) == 1
        assert spool.append(noise(1, 1)[0], looks[2]) == 2
        np.testing.assert_array_equal(spool.looks(np.array([2, 0, 1])), looks[[2, 0, 1]])
        np.testing.assert_array_equal(spool.read(2, 1, np.dtype(np.uint8)), noise(1, 1)[0])
        assert [spool.dtype([]), spool.dtype([0, 2]), spool.dtype([0, 1])] == [np.uint8, np.uint8, np.uint16]
        assert [spool.num_channels([]), spool.num_channels([1, 2]), spool.num_channels([0, 1])] == [1, 1, 3]


def test_a_table_of_other_images_than_there_are_is_refused(tmp_path: Path) -> None:
    images = tiny.packed(6)
    with pytest.raises(ArtifactError, match=r"samples\.csv has 5 rows for 6 images"):
        tiny.prepared(tmp_path / "p", replace(images, samples=images.samples[:5]))
