"""Keep the phase that validation shows to be best. Run by `dvc repro`, or `python -m stages.select`."""

from pathlib import Path

from thaw.config.reader import load_params
from thaw.evaluation import selection, summary
from thaw.evaluation.comparison import choose
from thaw.evaluation.plots import write_training_plots
from thaw.pipeline import artifacts, facts, guard, presence, tracking

# `unfreeze` whole, although only names and starts are read: DVC cannot name one key of every phase. It costs nothing,
# since whatever else changes there reruns its phase, and so this stage.
SECTIONS = ("seed", "select", "unfreeze")
INPUTS = ("data/prepared/samples.csv", "data/prepared/manifest.json", "models/backbone", "models/phases")
OUTS = ("models/final", "reports/selection.json", "reports/validation.json", "reports/training")


def main() -> None:
    """Write models/final, and selection.json, validation.json and training/ of reports/."""
    # First: what a stage depends on must not change while it runs.
    presence.settle(Path("models/phases"), load_params().unfreeze.phases)
    with guard.stage("select", sections=SECTIONS, inputs=INPUTS, outs=OUTS) as params:
        artifacts.verify(Path("data/prepared"), only=("samples.csv",))
        settings = params.select
        starts = {name: phase.start for name, phase in params.unfreeze.phases.items()}
        found = selection.read_phases(Path("models/phases"), starts)
        phases = selection.trained_of(found)
        selection.check_final(phases, settings)
        head = phases[0]
        results = choose(
            [phase.candidate for phase in phases],
            head.labels,
            min_win_rate=settings.min_win_rate,
            draws=settings.draws,
            seed=params.seed,
            metric=settings.metric,
            folds=head.folds,
            groups=selection.read_groups(Path("data/prepared/samples.csv"), head.rows),
        )
        report = selection.selection_report(phases, results, settings, selection.not_trained(found))
        chosen = next(phase for phase in phases if phase.name == report.chosen)
        selection.write_final(
            Path("models/final"),
            Path("models/backbone"),
            chosen,
            selection.chosen_result(results),
            candidates=[phase.name for phase in phases],
            ensemble=report.final == "ensemble",
        )
        with artifacts.new_folder(Path("reports/training")) as folder:
            write_training_plots(folder, selection.read_curves(phases), selection.read_range_tests(phases))
        facts.write(Path("reports/selection.json"), report)
        validation = selection.validation_metrics(report)
        facts.write(Path("reports/validation.json"), validation)
        tracking.send(params.compute.track, "select", tracking.flat(validation.model_dump()["validation"]))
        summary.print_selection(report)


if __name__ == "__main__":
    guard.main(main)
