"""Check every image, reject what is broken, split, and pack. Run by `dvc repro`, or `python -m stages.prepare`."""

from pathlib import Path

from thaw.config.reader import load_params
from thaw.data import listing, preparing
from thaw.pipeline import guard

SECTIONS = ("seed", "data", "prepare", "select.folds")
INPUTS = ("${data.raw}", "${data.labels}")  # known only once params.yaml is read; often the same path
OUTS = ("data/prepared",)


def main() -> None:
    """Write data/prepared: packed images, samples.csv, classes.json, rejected.csv and audit.json."""
    inputs = listing.inputs(load_params().data)
    with guard.stage("prepare", sections=SECTIONS, inputs=inputs, outs=OUTS) as params:
        task = preparing.Task(
            params.data, params.prepare, params.seed, params.select.folds, workers=params.compute.workers
        )
        report = preparing.prepare(Path(OUTS[0]), task, stage="prepare")
        for line in report.lines:
            print(f"prepare: {line}")


if __name__ == "__main__":
    guard.main(main)
