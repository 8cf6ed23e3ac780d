"""Write the winner as ONNX, with a model card. Run by `dvc repro`, or `python -m stages.export`."""

from pathlib import Path

from thaw.activations.engine import use_threads
from thaw.data.packed import PackedImages
from thaw.errors import DataError
from thaw.export import card, files, parity
from thaw.export.graph import ExportableClassifier
from thaw.pipeline import artifacts, guard, timings
from thaw.training import model

SECTIONS = ("data", "export")
INPUTS = (
    "data/prepared", "models/final", "reports/metrics.json", "reports/classes.json", "reports/selection.json",
    "reports/predictions.csv",
)  # fmt: skip
OUTS = ("models/export",)


def main() -> None:
    """Write models/export: model.onnx, model.json, README.md and maybe model.pt2, which answer as the model does."""
    with guard.stage("export", sections=SECTIONS, inputs=INPUTS, outs=OUTS) as params:
        use_threads(params.compute)
        prepared, final = Path(INPUTS[0]), model.load(INPUTS[1])
        images = PackedImages.open(prepared)
        if images.classes != final.classes:
            raise DataError(
                f"{prepared} has the classes {images.classes}, {INPUTS[1]} {final.classes}; run `dvc repro`"
            )
        whole = ExportableClassifier(
            final.members,
            cut=final.facts.cut,
            size_px=images.size_px,
            symmetries=final.symmetries,
            temperature=final.temperature,
            dtype=images.dtype.name,
        )
        license_ = card.license_of(params.data.raw, params.data.license)
        stored = files.describe(
            final.facts, final.backbone.spec, whole, fingerprint=final.fingerprint, license_=license_
        )
        evidence = card.Evidence.read(params.data.raw, prepared, Path("reports"))
        squares = images.read(parity.spread(images.rows("test")))
        with artifacts.new_folder(Path(OUTS[0])) as folder:
            files.write(folder, whole, stored, torch_program=params.export.torch)
            with timings.part("answer"):
                expected = final.probabilities(squares)
            difference = parity.check(folder, squares, expected)
            artifacts.write_text(folder / "README.md", card.render(stored, evidence))
        print(f"export: probabilities of {len(squares)} test images within {difference:.1e} of the torch model")


if __name__ == "__main__":
    guard.main(main)
