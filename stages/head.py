"""Fit the new output layers on the frozen network. Run by `dvc repro`, or `python -m stages.head`."""

from pathlib import Path
from typing import Any

from torch import nn

from thaw import files, run
from thaw.training import artifact, features
from thaw.training.grow import grow
from thaw.training.head import fit_hidden
from thaw.training.linear import fit_linear, linear_module

SECTIONS = ("seed", "head")
INPUTS = ("data/features",)
OUTS = ("models/phases/head",)


def main() -> None:
    """Write models/phases/head: the head's tensors, model.json and its answers on validation."""
    with run.stage("head", sections=SECTIONS, inputs=INPUTS, outs=OUTS) as params:
        data = features.read(Path("data/features"))
        num_classes = len(data.facts["classes"])
        head: nn.Module
        fitted: dict[str, Any]
        curves: list[dict[str, float]] = []
        if params.head.grow_from:
            head, grown = grow(params.head.grow_from, data)
            fitted = {"hidden": [], "dropout": 0.0, "grown_from": grown}
        elif params.head.hidden:
            head, curves = fit_hidden(data.train, data.val, num_classes, params.head, seed=params.seed)
            fitted = {"hidden": params.head.hidden, "dropout": params.head.dropout}
        else:
            fit = fit_linear(data.train, data.val, num_classes)
            head = linear_module(fit)
            fitted = {"hidden": [], "dropout": 0.0, "strength": fit.strength, "largest_weight": fit.largest_weight}
            print(f"head: regularisation C {fit.strength}, largest weight {fit.largest_weight:.3g}")
        model = {
            **data.facts,
            "phase": "head",
            "start": None,
            "depth_blocks": 0,
            "cut": len(data.facts["blocks"]),
            "head": fitted,
        }
        with files.new_folder(Path(OUTS[0])) as folder:
            artifact.write(
                folder,
                tensors={f"head.{name}": value for name, value in head.state_dict().items()},
                model=model,
                logits=data.val_answers(head),
                labels=data.val_labels(),
                rows=data.val_rows,
                curves=curves,
            )


if __name__ == "__main__":
    run.main(main)
