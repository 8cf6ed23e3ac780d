"""The folder of features: what the stage writes view by view is what the head reads."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from thaw.activations.prefix import Prefix, Views
from thaw.data.packed import PackedImages
from thaw.errors import ArtifactError
from thaw.head import extract, features
from thaw.head.extract import Development
from thaw.pipeline import artifacts

pytestmark = pytest.mark.usefixtures("scratch")

IMAGES, FLIPS = tiny.packed(40), tiny.augment(flip="horizontal", tta=True)


def written(folder: Path, images: PackedImages = IMAGES) -> None:
    """Write features of two views of the images that are trained on, and of those that are validated on."""
    network = tiny.backbone()
    prefix = Prefix(views_of(images), network.split(0)[0], identity="whole", compute=tiny.TORCH)
    known = Development.of(images)
    with artifacts.new_folder(folder) as partial:
        path = features.file_of(partial, "plain", 0)
        plain = extract.compute(prefix, known.rows, 0, label="plain", path=path)
        extract.compute_mirrored(prefix, FLIPS, known.validated, partial)
        extract.add_views(partial, prefix, FLIPS, known, 2)
        labelled = extract.examples(images, known.rows, plain)
        features.write(partial, labelled, known.rows, known.fold, tiny.features_facts(images.classes))


def views_of(images: PackedImages) -> Views:
    return Views(images, tiny.backbone().spec, 0, FLIPS)


def test_views_come_back_one_after_another_with_their_labels_and_nothing_else_is_left(tmp_path: Path) -> None:
    written(tmp_path / "features")
    names = sorted(path.name for path in (tmp_path / "features").iterdir())
    views = ["plain-00.npy", "train-01.npy", "val-01.npy"]
    assert names == sorted([*views, "features.json", "labels.safetensors", "manifest.json"])
    data, network = features.read(tmp_path / "features"), tiny.backbone()
    seen = views_of(IMAGES)
    for part, found, split in ((data.train, data.train_rows, "train"), (data.val, data.val_rows, "val")):
        rows = IMAGES.rows(split)
        assert found.tolist() == rows.tolist()
        with torch.inference_mode():
            own = [network(seen(rows, np.full(len(rows), view))).numpy() for view in (0, 1)]
        np.testing.assert_allclose(part.features, np.concatenate(own), atol=1e-5)
        assert not np.allclose(own[0], own[1]), "the second view is the mirror image"
        assert part.labels.tolist() == 2 * IMAGES.labels(rows).tolist()
        assert part.units is not None
        assert len(part.confidence) == len(part.units) == 2 * len(rows)
        assert part.units[: len(rows)].tolist() == part.units[len(rows) :].tolist(), "views of an image are one unit"
    assert data.num_folds == 1
    assert data.of_fold(0) is data


def test_with_folds_every_image_is_trained_and_validated_on_and_computed_once(tmp_path: Path) -> None:
    images = tiny.in_folds(tiny.packed(30), 3)
    written(tmp_path / "features", images)
    stored = {path.name: path.read_bytes() for path in (tmp_path / "features").glob("*.npy")}
    assert stored.keys() == {"plain-00.npy", "train-01.npy", "val-01.npy"}
    assert stored["train-01.npy"] == stored["val-01.npy"]
    data = features.read(tmp_path / "features")
    assert data.num_folds == 3
    np.testing.assert_array_equal(data.train.features, data.val.features)
    for number in range(3):
        fold = data.of_fold(number)
        out = images.samples["fold"].to_numpy() == number
        assert fold.val_rows.tolist() == np.flatnonzero(out).tolist()
        assert fold.train_rows.tolist() == np.flatnonzero(~out).tolist()
        assert fold.num_folds == 1
        for part, rows in ((fold.train, fold.train_rows), (fold.val, fold.val_rows)):
            plain, mirrored = np.split(part.features, 2)
            np.testing.assert_array_equal(plain, data.train.features[rows])
            np.testing.assert_array_equal(mirrored, data.train.features[30 + rows])
            assert part.labels.tolist() == 2 * images.labels(rows).tolist()


def test_a_view_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "features")
    path = features.file_of(tmp_path / "features", "train", 1)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ArtifactError, match=r"train-01\.npy is not what its manifest says"):
        features.read(tmp_path / "features")
