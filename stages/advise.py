"""Measure in short trials how deep unfreezing pays. Run by `dvc repro`, or `python -m stages.advise`."""

from pathlib import Path

from thaw.activations.engine import use_threads
from thaw.advice.advise import Setting, advise
from thaw.advice.ground import ground_of
from thaw.data.packed import PackedImages
from thaw.head import features
from thaw.networks.backbone import load_backbone
from thaw.pipeline import artifacts, facts, guard
from thaw.training import phase_folder

SECTIONS = ("seed", "augment", "unfreeze.defaults", "select")
INPUTS = ("data/prepared", "models/backbone", "data/features", "models/phases/head")
OUTS = ("models/advice",)


def main() -> None:
    """Write models/advice/advice.json: the regime, the steps, and the evidence for them."""
    with guard.stage("advise", sections=SECTIONS, inputs=INPUTS, outs=OUTS) as params:
        use_threads(params.compute)
        images = PackedImages.open(Path(INPUTS[0]))
        _, head = phase_folder.read(Path(INPUTS[3]))
        setting = Setting(
            network=lambda: load_backbone(Path(INPUTS[1]), in_channels=images.channels),
            augment=params.augment.model_copy(update={"flip": head.augment.flip}),
            defaults=params.unfreeze.defaults,
            metric=params.select.metric,
            seed=params.seed,
            compute=params.compute,
        )
        ground = ground_of(images, features.read(Path(INPUTS[2])), head, params.seed)
        advice = advise(ground, head, setting)
        with artifacts.new_folder(Path(OUTS[0])) as folder:
            facts.write(folder / "advice.json", advice)
        print(f"advise: {advice.sentence}")


if __name__ == "__main__":
    guard.main(main)
