"""One phase of progressive unfreezing. Run by `dvc repro`, or `python -m stages.unfreeze PHASE`."""

import sys
from pathlib import Path

from dvclive import Live

from thaw import files, run
from thaw.errors import ParamsError
from thaw.images.pack import PackedImages
from thaw.network.backbone import load_backbone
from thaw.params import load_params
from thaw.training import artifact
from thaw.training.phase import Start, run_phase

SECTIONS = ("seed", "augment", "unfreeze.phases.${key}")
INPUTS = ("data/prepared", "models/backbone", "models/phases/${item.start}")
OUTS = ("models/phases/${key}",)


def main() -> None:
    """Write models/phases/PHASE: what the phase trained, model.json, curves.csv and its answers on validation."""
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    phases = load_params().unfreeze.phases
    if name not in phases:
        raise ParamsError(f"{name!r} is no phase of params.yaml; name one of {', '.join(phases)}")
    out, before = f"models/phases/{name}", Path(f"models/phases/{phases[name].start}")
    inputs = (*INPUTS[:2], str(before))
    with run.stage(f"unfreeze@{name}", sections=(*SECTIONS[:2], f"unfreeze.phases.{name}"), inputs=inputs, outs=(out,)) as params:
        images = PackedImages.open(Path("data/prepared"))
        backbone = load_backbone(Path("models/backbone"), in_channels=images.channels)
        start = Start(*artifact.read(before))
        augment = params.augment.model_copy(update={"flip": start.model["augment"]["flip"]})
        with files.new_folder(Path(out)) as folder, Live(str(run.scratch() / "live" / name), dvcyaml=None, save_dvc_exp=False, monitor_system=False) as live:

            def on_epoch(row: dict[str, float]) -> None:
                for key, value in row.items():
                    if key != "epoch":
                        live.log_metric(key.replace(":", "/"), value)
                live.next_step()
                print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in row.items() if not key.startswith("lr:")), flush=True)

            result, val, model = run_phase(
                name, params.unfreeze.phases[name], images=images, backbone=backbone, start=start,
                augment=augment, seed=params.seed, compute=params.compute, on_epoch=on_epoch,
            )  # fmt: skip
            artifact.write(folder, tensors=result.tensors, model=model, logits=result.val_logits, labels=val.labels, rows=val.rows, curves=result.curves)
        if result.best_epoch == 0:
            print(f"{name}: no epoch was better on validation than the start; its weights are those of {params.unfreeze.phases[name].start}")


if __name__ == "__main__":
    run.main(main)
