"""Write the page that shows the evidence. Run by `dvc repro`, or `python -m stages.report`."""

from pathlib import Path

from thaw.activations.engine import use_threads
from thaw.pipeline import artifacts, guard
from thaw.report import page, sources
from thaw.training import model

# All of params.yaml but `compute`: the page shows it. It costs nothing, since any change there reruns a stage
# before this one.
SECTIONS = (
    "seed", "data", "prepare", "backbone", "augment", "features", "head", "unfreeze", "select", "evaluate",
)  # fmt: skip
INPUTS = (
    "data/prepared",
    "models/final",
    "models/phases",
    "models/advice",
    "reports/metrics.json",
    "reports/classes.json",
    "reports/predictions.csv",
    "reports/plots",
    "reports/selection.json",
    "reports/training",
)
OUTS = ("reports/index.html",)


def main() -> None:
    """Write reports/index.html."""
    with guard.stage("report", sections=SECTIONS, inputs=INPUTS, outs=OUTS) as params:
        use_threads(params.compute)
        found = sources.read(Path(INPUTS[0]), Path(INPUTS[1]), Path(INPUTS[2]), Path("reports"))
        sections = (
            params.data, params.prepare, params.backbone, params.augment, params.features, params.head,
            params.unfreeze, params.select, params.evaluate,
        )  # fmt: skip
        settings = {"seed": params.seed} | {
            name: section.model_dump(mode="json") for name, section in zip(SECTIONS[1:], sections, strict=True)
        }
        data = params.data
        text = page.render(found, model.load(INPUTS[1]), raw=data.raw, licence=data.license, settings=settings)
        artifacts.write_text(Path(OUTS[0]), text)
        print(f"{OUTS[0]} ({len(text.encode()) / 2**20:.1f} MB): open it in a browser")


if __name__ == "__main__":
    guard.main(main)
