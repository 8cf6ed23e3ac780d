"""Fit the new output layers on the frozen network. Run by `dvc repro`, or `python -m stages.head`."""

from pathlib import Path

import torch

from thaw.evaluation.learning_curve import learning_curve
from thaw.head import features
from thaw.head.fit import fit_head
from thaw.pipeline import artifacts, guard, tables
from thaw.pipeline.machine import usable_cores
from thaw.pipeline.model_facts import ModelFacts
from thaw.training import phase_folder

SECTIONS = ("seed", "head")
INPUTS = ("data/features",)
OUTS = ("models/phases/head",)


def main() -> None:
    """Write models/phases/head: the head's tensors, those of each fold, model.json and the answers on validation."""
    with guard.stage("head", sections=SECTIONS, inputs=INPUTS, outs=OUTS) as params:
        torch.set_num_threads(params.compute.threads or usable_cores())
        data = features.read(Path("data/features"))
        fitted = fit_head(params.head, data, seed=params.seed)
        learned = learning_curve(data, fitted.answering) if fitted.answering else None
        model = ModelFacts(
            **dict(data.facts), phase="head", start=None, depth_blocks=0, cut=len(data.facts.blocks), head=fitted.facts
        )
        with artifacts.new_folder(Path(OUTS[0])) as folder:
            phase_folder.write(
                folder,
                tensors=phase_folder.head_tensors(fitted.head),
                folds=[phase_folder.head_tensors(head) for head in fitted.folds],
                model=model,
                answers=phase_folder.Answers(fitted.val_logits, data.val_labels(), data.val_rows, data.val_folds),
                curves=fitted.curves,
            )
            if learned is not None and not learned.empty:
                tables.write(folder / "learning_curve.csv", learned)


if __name__ == "__main__":
    guard.main(main)
