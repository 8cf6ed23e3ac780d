"""The folder of features: what the stage writes view by view is what the head reads."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from thaw.activations.prefix import Prefix, Views
from thaw.errors import ArtifactError
from thaw.head import extract, features
from thaw.pipeline import artifacts

pytestmark = pytest.mark.usefixtures("scratch")

IMAGES, FLIPS = tiny.packed(40), tiny.augment(flip="horizontal")


def written(folder: Path) -> None:
    """Write features of two views of the training images and two of validation."""
    network = tiny.backbone()
    prefix = Prefix(Views(IMAGES, network.spec, 0, FLIPS), network.split(0)[0], identity="whole", compute=tiny.TORCH)
    rows = {split: IMAGES.rows(split) for split in ("train", "val")}
    with artifacts.new_folder(folder) as partial:
        plain = {
            split: extract.examples(
                IMAGES,
                own,
                extract.compute(prefix, own, 0, label=split, path=features.file_of(partial, split, 0)),
            )
            for split, own in rows.items()
        }
        extract.compute_mirrored(prefix, FLIPS, rows["val"], partial)
        for split, own in rows.items():
            extract.add_views(partial, split, prefix, own, 2)
        features.write(partial, plain["train"], plain["val"], rows["val"], tiny.features_facts(IMAGES.classes))


def test_views_come_back_one_after_another_with_their_labels_and_nothing_else_is_left(tmp_path: Path) -> None:
    written(tmp_path / "features")
    names = sorted(path.name for path in (tmp_path / "features").iterdir())
    views = [f"{split}-{view:02d}.npy" for split in ("train", "val") for view in (0, 1)]
    assert names == sorted([*views, "features.json", "labels.safetensors", "manifest.json"])
    data, network = features.read(tmp_path / "features"), tiny.backbone()
    seen = Views(IMAGES, network.spec, 0, FLIPS)
    for part, rows in ((data.train, IMAGES.rows("train")), (data.val, IMAGES.rows("val"))):
        with torch.inference_mode():
            own = [network(seen(rows, np.full(len(rows), view))).numpy() for view in (0, 1)]
        np.testing.assert_allclose(part.features, np.concatenate(own), atol=1e-5)
        assert not np.allclose(own[0], own[1]), "the second view is the mirror image"
        assert part.labels.tolist() == 2 * IMAGES.labels(rows).tolist()
        assert len(part.confidence) == 2 * len(rows)
    assert data.val_rows.tolist() == IMAGES.rows("val").tolist()


def test_a_view_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "features")
    path = features.file_of(tmp_path / "features", "train", 1)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ArtifactError, match=r"train-01\.npy is not what its manifest says"):
        features.read(tmp_path / "features")
