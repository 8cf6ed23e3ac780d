"""Features of the development images from the frozen backbone. Run by `dvc repro`, or `python -m stages.features`."""

from pathlib import Path

import numpy as np

from thaw.activations.engine import computed_on, use_threads
from thaw.activations.prefix import Prefix, Views
from thaw.data.packed import PackedImages
from thaw.head import earlier_layers, extract, features
from thaw.head.flips import FlipChoice, asked_of, choose_flip
from thaw.networks.backbone import load_backbone
from thaw.pipeline import artifacts, facts, guard
from thaw.pipeline.data_facts import Preprocessing
from thaw.pipeline.model_facts import FeaturesFacts, Lineage

SECTIONS = ("seed", "augment", "features")
INPUTS = ("data/prepared", "models/backbone")
OUTS = ("data/features",)


def main() -> None:
    """Write data/features: a file for each view, labels.safetensors and features.json."""
    with guard.stage("features", sections=SECTIONS, inputs=INPUTS, outs=OUTS) as params:
        use_threads(params.compute)
        images = PackedImages.open(Path("data/prepared"))
        backbone = load_backbone(Path("models/backbone"), in_channels=images.channels)
        whole = earlier_layers.tapped(backbone)
        augment = params.augment
        views = Views(images, backbone.spec, params.seed, augment.model_copy(update={"flip": "none"}))
        identity = artifacts.digest([backbone.fingerprint, "whole", *whole.blocks])
        prefix = Prefix(views, whole.module, identity=identity, compute=params.compute)
        known = extract.Development.of(images)
        with artifacts.new_folder(Path(OUTS[0])) as folder:
            plain, layers = whole.plain(prefix, images, known, params.seed, folder)
            if augment.flip == "auto":
                train = plain[np.isin(known.rows, known.trained)]
                asked = asked_of(train.labels, params.seed)
                mirrored = extract.compute_mirrored(prefix, augment, known.trained[asked], folder)
                choice = choose_flip(train, asked, *mirrored, num_classes=len(images.classes))
                print(choice)
            else:
                choice = FlipChoice(augment.flip)
            extract.add_views(folder, prefix, choice.put_into(augment), known, params.features.views)
            by = {"computed_on": computed_on(params.compute), "engine": prefix.engine.name}
            lineage = Lineage(data=images.fingerprint, backbone=backbone.fingerprint, **by)
            stored = FeaturesFacts(
                classes=images.classes,
                backbone=backbone.spec,
                blocks=backbone.blocks,
                preprocessing=facts.read(Path("data/prepared/settings.json"), Preprocessing),
                lineage=lineage,
                earlier_layers=layers,
                augment=choice.facts(tta=augment.tta),
            )
            features.write(folder, plain, known.rows, known.fold, stored)


if __name__ == "__main__":
    guard.main(main)
