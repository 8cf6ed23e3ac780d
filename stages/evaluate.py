"""Test the winner, once. Run by `dvc repro`, or `python -m stages.evaluate`."""

from pathlib import Path

from thaw import candidates, files, model, run
from thaw.averages import folder_of
from thaw.evidence import testset
from thaw.evidence.plots import write_plots
from thaw.evidence.sheet import write_worst
from thaw.images.pack import PackedImages, write_table
from thaw.network.engine import use_threads

SECTIONS = ("seed", "evaluate")
INPUTS = ("data/prepared", "models/backbone", "models/phases", "models/final", "reports/selection.json")
OUTS = ("reports/metrics.json", "reports/classes.json", "reports/predictions.csv", "reports/plots")


def main() -> None:
    """Write metrics.json, classes.json, predictions.csv and plots of reports/."""
    with run.stage("evaluate", sections=SECTIONS, inputs=INPUTS, outs=OUTS) as params:
        use_threads(params.compute)
        images = PackedImages.open(Path(INPUTS[0]))
        rows, phases = images.rows("test"), Path(INPUTS[2])
        labels, samples = images.labels(rows), images.samples.iloc[rows]
        final = model.load(INPUTS[3])
        chosen, names = final.facts["phase"], final.facts["selected_from"]
        models: dict[str, model.Model] = {}
        same: dict[str, str] = {}
        for name in names:  # each after the one that it starts from
            folder = folder_of(phases, name)
            files.verify(folder)
            facts = files.read_json(folder / "model.json")
            if facts.get("best_epoch") == 0:  # it gained nothing, so it is what it started from
                same[name] = same[facts["start"]]
                continue
            models[name] = final if name == chosen else model.load_phase(folder, Path(INPUTS[1]))
            same[name] = name
        distinct = candidates.answer(models, images, rows, compute=params.compute, label="evaluate")
        answers = {name: distinct[same[name]] for name in names}
        metrics, classes = testset.test_metrics(
            labels,
            answers,
            chosen,
            classes=images.classes,
            temperature=final.facts["temperature"],
            groups=samples["group"].to_numpy(),
            draws=params.evaluate.draws,
            seed=params.seed,
        )
        with files.new_folder(Path(OUTS[3])) as folder:
            write_worst(folder / "worst.svg", images, rows, labels, answers[chosen])
            curves, tests = testset.read_curves(phases, names), testset.read_range_tests(phases, names)
            write_plots(folder, labels, answers[chosen], images.classes, curves, tests)
        write_table(Path(OUTS[2]), testset.predictions(samples, labels, answers[chosen], images.classes))
        files.write_json(Path(OUTS[1]), classes)
        files.write_json(Path(OUTS[0]), {"validation": testset.validation_metrics(Path(INPUTS[4])), **metrics})


if __name__ == "__main__":
    run.main(main)
