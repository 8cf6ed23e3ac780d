"""Test the winner, once. Run by `dvc repro`, or `python -m stages.evaluate`."""

from pathlib import Path

from thaw.activations.engine import use_threads
from thaw.data.packed import PackedImages
from thaw.evaluation import test_answers, test_set
from thaw.evaluation.plots import write_test_plots
from thaw.evaluation.worst_images import write_worst
from thaw.pipeline import artifacts, facts, guard, tables
from thaw.pipeline.report_facts import Selection
from thaw.training import model

SECTIONS = ("seed", "evaluate")
INPUTS = ("data/prepared", "models/backbone", "models/phases", "models/final", "reports/selection.json")
OUTS = ("reports/metrics.json", "reports/classes.json", "reports/predictions.csv", "reports/plots")


def main() -> None:
    """Write metrics.json, classes.json, predictions.csv and plots of reports/."""
    with guard.stage("evaluate", sections=SECTIONS, inputs=INPUTS, outs=OUTS) as params:
        use_threads(params.compute)
        images = PackedImages.open(Path(INPUTS[0]))
        rows = images.rows("test")
        labels, samples = images.labels(rows), images.samples.iloc[rows]
        final = model.load(INPUTS[3])
        chosen = final.facts.phase
        models = test_answers.load_candidates(final, Path(INPUTS[2]), Path(INPUTS[1]))
        selection = facts.read(Path(INPUTS[4]), Selection)
        found = test_answers.answer(models, images, rows, compute=params.compute, label="evaluate")
        answers = test_set.own_temperatures(found, selection)
        metrics, classes = test_set.test_metrics(
            labels,
            answers,
            selection,
            classes=images.classes,
            temperature=final.temperature,
            groups=samples["group"].to_numpy(),
            draws=params.evaluate.draws,
            seed=params.seed,
        )
        with artifacts.new_folder(Path(OUTS[3])) as folder:
            write_worst(folder / "worst.svg", images, rows, labels, answers[chosen])
            write_test_plots(folder, labels, answers[chosen], images.classes)
        table = test_set.predictions(samples, labels, answers[chosen], answers["head"], images.classes)
        tables.write(Path(OUTS[2]), table)
        facts.write(Path(OUTS[1]), classes)
        facts.write(Path(OUTS[0]), metrics)


if __name__ == "__main__":
    guard.main(main)
