"""Fit the new output layers on the frozen network. Run by `dvc repro`, or `python -m stages.head`."""

from pathlib import Path

from thaw.head import features
from thaw.head.fit import fit_head
from thaw.pipeline import artifacts, guard
from thaw.pipeline.facts import ModelFacts
from thaw.training import phase_folder

SECTIONS = ("seed", "head")
INPUTS = ("data/features",)
OUTS = ("models/phases/head",)


def main() -> None:
    """Write models/phases/head: the head's tensors, model.json and its answers on validation."""
    with guard.stage("head", sections=SECTIONS, inputs=INPUTS, outs=OUTS) as params:
        data = features.read(Path("data/features"))
        fitted = fit_head(params.head, data, seed=params.seed)
        model = ModelFacts(
            **dict(data.facts), phase="head", start=None, depth_blocks=0, cut=len(data.facts.blocks), head=fitted.facts
        )
        with artifacts.new_folder(Path(OUTS[0])) as folder:
            phase_folder.write(
                folder,
                tensors={f"head.{name}": value for name, value in fitted.head.state_dict().items()},
                model=model,
                logits=data.val_answers(fitted.head),
                labels=data.val_labels(),
                rows=data.val_rows,
                curves=fitted.curves,
            )


if __name__ == "__main__":
    guard.main(main)
