"""One phase of progressive unfreezing. Run by `dvc repro`, or `python -m stages.unfreeze PHASE`."""

import sys
from pathlib import Path

from thaw.config.reader import load_params
from thaw.data.packed import PackedImages
from thaw.errors import ParamsError
from thaw.networks import model_files
from thaw.networks.backbone import load_backbone
from thaw.pipeline import artifacts, guard, tracking
from thaw.training import advised, phase_folder
from thaw.training.parts import Start
from thaw.training.phase import run_phase

SECTIONS = ("seed", "augment", "unfreeze.defaults", "unfreeze.phases.${key}")
INPUTS = ("data/prepared", "models/backbone", "models/advice", "models/phases/${item.start}")
OUTS = ("models/phases/${key}",)


def main() -> None:
    """Write models/phases/PHASE: what it trained, in each fold too, model.json, curves.csv and answers."""
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    phases = load_params().unfreeze.phases
    if name not in phases:
        raise ParamsError(f"{name!r} is no phase of params.yaml; name one of {', '.join(phases)}")
    before, out = f"models/phases/{phases[name].start}", f"models/phases/{name}"
    sections, inputs = (*SECTIONS[:3], f"unfreeze.phases.{name}"), (*INPUTS[:3], before)
    with guard.stage(f"unfreeze@{name}", sections=sections, inputs=inputs, outs=(out,)) as params:
        images = PackedImages.open(Path(INPUTS[0]))
        start = Start(*phase_folder.read(Path(before)), model_files.load_folds(Path(before)))
        phase = advised.settled(params.unfreeze.phases[name], start.model)
        if isinstance(phase, str):
            print(f"{name}: not trained, since {phase}")
            with artifacts.new_folder(Path(out)) as folder:
                phase_folder.carry_over(folder, Path(before), start.model, name=name, reason=phase)
            return
        with tracking.run(params.compute.track, f"unfreeze@{name}") as log, artifacts.new_folder(Path(out)) as folder:
            trained = run_phase(
                name,
                phase,
                images=images,
                backbone=load_backbone(Path(INPUTS[1]), in_channels=images.channels),
                start=start,
                augment=params.augment,
                seed=params.seed,
                compute=params.compute,
                on_epoch=lambda seen: log(tracking.losses(seen.row, seen.part.label), int(seen.row["epoch"])),
            )
            trained.write(folder)
        guard.forget_once_recorded(trained.checkpoint)


if __name__ == "__main__":
    guard.main(main)
