"""Measure in short trials how deep unfreezing pays. Run by `dvc repro`, or `python -m stages.advise`."""

from pathlib import Path

from thaw.activations.engine import use_threads
from thaw.advice.advise import Setting, advise, without_trials
from thaw.advice.ground import ground_of
from thaw.data.packed import PackedImages
from thaw.head import features
from thaw.networks.backbone import load_backbone
from thaw.pipeline import artifacts, facts, guard
from thaw.training import phase_folder

SECTIONS = ("seed", "augment", "advise", "unfreeze.defaults")
INPUTS = ("data/prepared", "models/backbone", "data/features", "models/phases/head")
OUTS = ("models/advice",)


def main() -> None:
    """Write models/advice/advice.json: the regime, the steps, and the evidence for them."""
    with guard.stage("advise", sections=SECTIONS, inputs=INPUTS, outs=OUTS) as params:
        use_threads(params.compute)
        _, head = phase_folder.read(Path(INPUTS[3]))
        if params.advise.images:
            images = PackedImages.open(Path(INPUTS[0]))
            setting = Setting(
                network=lambda: load_backbone(Path(INPUTS[1]), in_channels=images.channels),
                augment=params.augment.model_copy(update={"flip": head.augment.flip}),
                defaults=params.unfreeze.defaults,
                seed=params.seed,
                compute=params.compute,
            )
            data = features.read(Path(INPUTS[2]))
            ground = ground_of(images, data, head, most=params.advise.images, seed=params.seed)
            advice = advise(ground, head, setting)
        else:
            advice = without_trials("not_asked", head)
        with artifacts.new_folder(Path(OUTS[0])) as folder:
            facts.write(folder / "advice.json", advice)
        print(f"advise: {advice.sentence}")


if __name__ == "__main__":
    guard.main(main)
