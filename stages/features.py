"""Pooled features of every image from the frozen backbone. Run by `dvc repro`, or `python -m stages.features`."""

from pathlib import Path

import numpy as np

from thaw import files, run
from thaw.images.pack import PackedImages
from thaw.network.backbone import load_backbone
from thaw.network.engine import use_threads
from thaw.training import features
from thaw.training.boundary import Prefix, Views
from thaw.training.symmetry import FlipChoice, choose_flip

SECTIONS = ("seed", "augment", "features")
INPUTS = ("data/prepared", "models/backbone")
OUTS = ("data/features",)


def main() -> None:
    """Write data/features: features.safetensors and features.json."""
    with run.stage("features", sections=SECTIONS, inputs=INPUTS, outs=OUTS) as params:
        use_threads(params.compute)
        images = PackedImages.open(Path("data/prepared"))
        backbone = load_backbone(Path("models/backbone"), in_channels=images.channels)
        lineage = {"data": images.fingerprint, "backbone": files.verify(Path("models/backbone"))}
        whole, _ = backbone.split(0)
        augment, choice = params.augment, FlipChoice(params.augment.flip)
        views = Views(images, backbone.spec, params.seed, augment.model_copy(update={"flip": "none"}))
        prefix = Prefix(views, whole, identity=files.digest([lineage["backbone"], "whole"]), compute=params.compute)
        train_rows, val_rows = images.rows("train"), images.rows("val")
        plain = [features.compute(prefix, rows, 0, label="plain") for rows in (train_rows, val_rows)]
        train, val = (features.examples(images, *part) for part in zip((train_rows, val_rows), plain, strict=True))
        if augment.flip == "auto":
            choice = choose_flip(train, val, *features.compute_mirrored(prefix, val_rows), len(images.classes))
            print(choice)
        prefix = prefix.seen_as(augment.model_copy(update={"flip": choice.flip}))
        others = [features.compute(prefix, train_rows, view, label=f"view {view}") for view in range(1, params.features.views)]
        train = features.examples(images, train_rows, np.concatenate([plain[0], *others]))
        facts = {
            "classes": images.classes,
            "backbone": backbone.spec.model_dump(mode="json"),
            "blocks": backbone.blocks,
            "preprocessing": files.read_json(Path("data/prepared/settings.json")),
            "augment": choice.describe(),
            "lineage": lineage,
        }
        with files.new_folder(Path(OUTS[0])) as folder:
            features.write(folder, train, val, val_rows, facts)


if __name__ == "__main__":
    run.main(main)
