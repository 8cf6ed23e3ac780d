"""Keep the phase that validation shows to be best. Run by `dvc repro`, or `python -m stages.select`."""

from pathlib import Path

from thaw.evaluation import selection, summary
from thaw.evaluation.comparison import choose
from thaw.pipeline import artifacts, facts, guard

# `unfreeze` whole, although only names and starts are read: DVC cannot name one key of every phase. It costs nothing,
# since whatever else changes there reruns its phase, and so this stage.
SECTIONS = ("seed", "select", "unfreeze")
INPUTS = ("data/prepared/samples.csv", "data/prepared/manifest.json", "models/backbone", "models/phases")
OUTS = ("models/final", "reports/selection.json")


def main() -> None:
    """Write models/final and reports/selection.json."""
    with guard.stage("select", sections=SECTIONS, inputs=INPUTS, outs=OUTS) as params:
        artifacts.verify(Path("data/prepared"), only=("samples.csv",))
        min_win_rate, draws = params.select.min_win_rate, params.select.draws
        starts = {name: phase.start for name, phase in params.unfreeze.phases.items()}
        phases = selection.read_phases(Path("models/phases"), starts)
        candidates = [phase.candidate for phase in phases]
        verdicts = choose(
            candidates,
            phases[0].labels,
            min_win_rate=min_win_rate,
            draws=draws,
            seed=params.seed,
            groups=selection.read_groups(Path("data/prepared/samples.csv"), phases[0].rows),
        )
        report = selection.selection_report(phases, verdicts, min_win_rate=min_win_rate, draws=draws)
        chosen = next(phase for phase in phases if phase.name == report.chosen)
        names = [phase.name for phase in phases]
        selection.write_final(
            Path("models/final"), Path("models/backbone"), chosen, selection.chosen_verdict(verdicts), names
        )
        facts.write(Path("reports/selection.json"), report)
        summary.print_selection(report)


if __name__ == "__main__":
    guard.main(main)
