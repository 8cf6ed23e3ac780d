"""A stage that stands for the pipeline where trials are tested: it answers, the better the nearer the rate is to 1e-3.

    python answering.py

Copied into a small repository. Labels and noise are the same in every trial, as images are. It waits for
`unfreeze.phases.top.epochs` seconds after two of three folds.
"""

import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from thaw.config.reader import load_params
from thaw.errors import TrainingError
from thaw.evaluation import selection
from thaw.evaluation.comparison import choose
from thaw.pipeline import artifacts, facts, guard, trial
from thaw.pipeline.model_facts import ModelFacts

NUM_FOLDS = 3


def main() -> None:
    """Write models/phases/head, models/phases/top and reports/selection.json."""
    params, samples = load_params(), pd.read_csv("data/prepared/samples.csv", keep_default_na=False)
    if params.unfreeze.phases["top"].weight_decay == 0.5:
        raise TrainingError("top: the loss is nan")
    rows, noise = samples["row"].to_numpy(), np.random.default_rng(0).normal(size=(len(samples), 2))
    labels, folds = rows % 2, rows % NUM_FOLDS
    near = 2 - abs(math.log10(float(params.unfreeze.phases["top"].lr)) + 3)
    root, model = Path("models/phases"), facts.read(Path("model.json"), ModelFacts)
    for name, strength in (("head", 0.5), ("top", near)):
        logits = (noise + strength * np.eye(2)[labels]).astype(np.float32)
        with artifacts.new_folder(root / name) as folder:
            save_file(
                {"logits": logits, "labels": labels, "rows": rows, "folds": folds}, folder / "validation.safetensors"
            )
            own = {"phase": name, "start": None if name == "head" else "head"}
            facts.write(folder / "model.json", model.model_copy(update=own))
        for fold in range(NUM_FOLDS) if name == "top" else ():
            here = folds == fold
            trial.tell(name, fold, logits=logits[here], labels=labels[here], images=samples[here])
            time.sleep(params.unfreeze.phases["top"].epochs if fold == 1 else 0)
    phases = selection.read_phases(root, {"top": "head"})
    every = [phase.candidate for phase in phases]
    results = choose(every, labels, min_win_rate=0.5, draws=100, seed=0, folds=folds)
    facts.write(Path("reports/selection.json"), selection.selection_report(phases, results, params.select))


if __name__ == "__main__":
    guard.main(main)
