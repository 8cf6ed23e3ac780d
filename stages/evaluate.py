"""Test the winner, once. Run by `dvc repro`, or `python -m stages.evaluate`."""

from pathlib import Path

from thaw.activations.engine import use_threads
from thaw.data.packed import PackedImages
from thaw.evaluation import test_answers, test_set
from thaw.evaluation.plots import write_plots
from thaw.evaluation.worst_images import write_worst
from thaw.pipeline import artifacts, facts, guard, tables
from thaw.training import model

SECTIONS = ("seed", "evaluate")
INPUTS = ("data/prepared", "models/backbone", "models/phases", "models/final", "reports/selection.json")
OUTS = ("reports/metrics.json", "reports/classes.json", "reports/predictions.csv", "reports/plots")


def main() -> None:
    """Write metrics.json, classes.json, predictions.csv and plots of reports/."""
    with guard.stage("evaluate", sections=SECTIONS, inputs=INPUTS, outs=OUTS) as params:
        use_threads(params.compute)
        images = PackedImages.open(Path(INPUTS[0]))
        rows, phases = images.rows("test"), Path(INPUTS[2])
        labels, samples = images.labels(rows), images.samples.iloc[rows]
        final = model.load(INPUTS[3])
        chosen, names = final.facts.phase, final.candidates
        models, same = test_answers.load_distinct(final, phases, Path(INPUTS[1]))
        distinct = test_answers.answer(models, images, rows, compute=params.compute, label="evaluate")
        answers = {name: distinct[same[name]] for name in names}
        metrics, classes = test_set.test_metrics(
            labels,
            answers,
            chosen,
            classes=images.classes,
            temperature=final.temperature,
            groups=samples["group"].to_numpy(),
            draws=params.evaluate.draws,
            seed=params.seed,
        )
        with artifacts.new_folder(Path(OUTS[3])) as folder:
            write_worst(folder / "worst.svg", images, rows, labels, answers[chosen])
            curves, tests = test_set.read_curves(phases, names), test_set.read_range_tests(phases, names)
            write_plots(folder, labels, answers[chosen], images.classes, curves, tests)
        tables.write(Path(OUTS[2]), test_set.predictions(samples, labels, answers[chosen], images.classes))
        facts.write(Path(OUTS[1]), classes)
        validation = test_set.validation_metrics(Path(INPUTS[4]))
        facts.write(Path(OUTS[0]), metrics.model_copy(update={"validation": validation}))


if __name__ == "__main__":
    guard.main(main)
