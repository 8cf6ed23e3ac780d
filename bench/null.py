"""How often the verdict claims help where there is none, and how often each 95 % interval holds the truth.

    python -m bench.null                                             about 10 minutes on one core
    python -m bench.null --runs 20

Three parts, all through the shipped code. `verdicts`: head and one or two phases, each after its last epoch, answer
simulated images equally well, their population losses being equal by construction; `comparison.choose` picks one, and
the verdict on it is read off test images of a third of the development images. With five folds all development images
are validation images, with one a fifth of them.
`coverage`: every interval of metrics.json and classes.json against the value on 200,000 images, of a weak and a strong
model, of rare classes, and of groups of three images that are hard together; `given` is the share of runs with one.
`rates`: the interval of a proportion at rates near 1 on few images, by summing the binomial distribution.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench import _tools
from thaw.config.schema import Metric
from thaw.evaluation.calibration import probabilities
from thaw.evaluation.comparison import Candidate, choose
from thaw.evaluation.intervals import class_intervals, metric_intervals, proportion_interval
from thaw.evaluation.metrics import class_metrics, classification_metrics
from thaw.evaluation.verdict import change_of, side_of

_IMAGES = (20, 60, 200, 1000)
_METRICS: tuple[Metric, ...] = ("accuracy", "log_loss", "balanced_accuracy", "macro_f1", "roc_auc")
_RATES, _FEW = (0.9, 0.95, 0.99, 1.0), (1, 2, 5, 36)
_DRAWS = 400
_POPULATION = 200_000

Answers = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """A task of classification in which the answers of a model are known in distribution."""

    shares: tuple[float, ...]
    """Of each class among the images."""
    evidence: float
    """Distance of the classes in standard deviations."""
    confidence: float = 1.0
    """Times the logits that would be calibrated."""
    group: int = 1
    """Images that come together."""

    def labels(self, images: int, random: np.random.Generator) -> Labels:
        """Return the labels of so many images; half of a group's images share its label."""
        drawn = random.choice(len(self.shares), size=images, p=self.shares)
        together = np.repeat(drawn[:: self.group], self.group)[:images]
        return np.where(random.random(images) < 0.5, together, drawn).astype(np.int64)

    def noise(self, images: int, random: np.random.Generator) -> Answers:
        """Return what makes images hard, [images, classes], with variance 1; half of it is shared in a group."""
        each = random.normal(size=(images, len(self.shares)))
        if self.group == 1:
            return each
        shared = np.repeat(random.normal(size=(images // self.group + 1, len(self.shares))), self.group, axis=0)
        return np.asarray((each + shared[:images]) / 2**0.5)

    def logits(self, labels: Labels, noise: Answers) -> Answers:
        """Return the logits of a model that sees this noise."""
        return self.confidence * self.evidence * (self.evidence * np.eye(len(self.shares))[labels] + noise)


TASKS = {
    "weak": Task((0.5, 0.5), 1.2),
    "strong": Task((0.5, 0.5), 2.5),
    "six classes": Task((1 / 6,) * 6, 3.0, 1.5),
    "a rare class": Task((0.9, 0.1), 1.8),
    "groups": Task((0.6, 0.4), 1.5, 1.0, 3),
}


def main() -> None:
    """Run what was not run before and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400, help="runs of each simulation")
    given = parser.parse_args()
    _tools.report("null", lambda: measure(given.runs))


def measure(runs: int) -> _tools.Facts:
    """Return the three parts."""
    cells: list[_tools.Facts] = [
        *({"phases": phases, "folds": folds, "images": images, "task": task}
          for phases in (1, 2) for folds in (1, 5) for images in _IMAGES for task in ("weak", "six classes")),
        *({"test_images": images, "task": task} for images in (7, 20, 67, 333) for task in TASKS),
    ]  # fmt: skip

    def one_cell(number: int) -> _tools.Facts:
        cell = cells[number]
        return cell | (verdicts(**cell, runs=runs) if "phases" in cell else coverage(**cell, runs=runs))

    settings = {"runs": runs, "draws": _DRAWS, "tasks": {name: asdict(task) for name, task in TASKS.items()}}
    found = _tools.rounds("null", settings, len(cells), one_cell)
    return {
        "runs": runs,
        "most_often_helped": _most_helped(found),
        "least_coverage": _least_covered(found),
        "verdicts": [entry for entry in found if "phases" in entry],
        "coverage": [entry for entry in found if "covered" in entry],
        "rates": rates(),
    }


def verdicts(*, phases: int, folds: int, images: int, task: str, runs: int) -> _tools.Facts:
    """Return how often a phase was chosen, each side of the verdict by metric, and the coverage of each change."""
    source, random = TASKS[task], np.random.default_rng(images + phases)
    sides: dict[str, Counter[int]] = {metric: Counter() for metric in ("accuracy", "log_loss")}
    held, kept = Counter[str](), 0
    for run in range(runs):
        validation = max(images if folds > 1 else images // 5, 2)
        labels, seen = source.labels(validation, random), _sight(source, validation, phases, random)
        answers = [source.logits(labels, seen(model)) for model in range(phases + 1)]
        chosen = _chosen(answers, labels, folds, run)
        if not chosen:
            continue
        kept += 1
        labels, seen = source.labels(max(images // 3, 7), random), _sight(source, max(images // 3, 7), phases, random)
        model, head = (probabilities(source.logits(labels, seen(number))) for number in (chosen, 0))
        change = change_of(labels, model, head, groups=None, metric="accuracy", draws=_DRAWS, seed=run)
        for metric, counted in sides.items():
            counted[side_of(change, metric)] += 1
            held[metric] += change.get(f"{metric}_low", -1) <= 0 <= change.get(f"{metric}_high", 1)
    return {
        "kept": round(kept / runs, 4),
        "helped": {metric: round(found[1] / runs, 4) for metric, found in sides.items()},
        "hurt": {metric: round(found[-1] / runs, 4) for metric, found in sides.items()},
        "covered_change": {metric: round(hits / kept, 4) for metric, hits in held.items()},
    }


def _sight(source: Task, images: int, phases: int, random: np.random.Generator) -> Callable[[int], Answers]:
    """Return the noise that a model sees, 0 being the head and the others what phases leave after their last epochs.

    Seven tenths of its variance are common to all, so that models differ as related ones do.
    """
    common, *own = (source.noise(images, random) for _ in range(phases + 2))
    return lambda model: np.asarray(0.7**0.5 * common + 0.3**0.5 * own[model])


def _chosen(answers: list[Answers], labels: Labels, folds: int, seed: int) -> int:
    """Return which candidate the shipped rule chooses, the head being the first."""
    candidates = [
        Candidate(f"phase{number}" if number else "head", "head" if number else None, logits)
        for number, logits in enumerate(answers)
    ]
    fold = np.arange(len(labels)) % folds
    found = choose(candidates, labels, min_win_rate=0.6, draws=_DRAWS, seed=seed, folds=fold)
    return max(number for number, verdict in enumerate(found) if verdict.replaced_best)


def coverage(*, test_images: int, task: str, runs: int) -> _tools.Facts:
    """Return for each figure the share of intervals that hold the truth, and the share of runs that have one."""
    source, random = TASKS[task], np.random.default_rng(test_images)
    images = test_images - test_images % source.group
    groups = np.arange(images) // source.group if source.group > 1 else None
    truth = _truth(source)
    given, held = Counter[str](), Counter[str]()
    for run in range(runs):
        labels, common = source.labels(images, random), source.noise(images, random)
        both = [
            probabilities(source.logits(labels, 0.8**0.5 * common + 0.2**0.5 * source.noise(images, random)))
            for _ in range(2)
        ]
        found = metric_intervals(labels, both[0], groups=groups, draws=_DRAWS, seed=run)
        found |= class_intervals(labels, both[0], groups=groups)[1]
        for metric in _METRICS:
            change = change_of(labels, *both, groups=groups, metric=metric, draws=_DRAWS, seed=run)
            if f"{metric}_low" in change:
                found[f"change in {metric}"] = (change[f"{metric}_low"], change[f"{metric}_high"])
        for name, (low, high) in found.items():
            given[name] += 1
            held[name] += low - 1e-9 <= truth.get(name, 0.0) <= high + 1e-9
    return {
        "covered": {name: round(held[name] / count, 4) for name, count in given.items()},
        "given": {name: round(count / runs, 4) for name, count in given.items()},
    }


def _truth(source: Task) -> dict[str, float]:
    random = np.random.default_rng(7)
    labels = source.labels(_POPULATION, random)
    chances = probabilities(source.logits(labels, source.noise(_POPULATION, random)))
    return classification_metrics(labels, chances) | class_metrics(labels, chances)[1]


def rates() -> list[dict[str, Any]]:
    """Return the coverage of the interval of a proportion at each rate on each number of images, exactly."""
    rows = []
    for images in _FEW:
        ends = [proportion_interval(hits, images) for hits in range(images + 1)]
        for rate in _RATES:
            chances = stats.binom.pmf(np.arange(images + 1), images, rate)
            held = [low - 1e-9 <= rate <= high + 1e-9 for low, high in ends]
            rows.append({"images": images, "rate": rate, "covered": round(float(chances[held].sum()), 4)})
    return rows


def _most_helped(found: list[_tools.Facts]) -> dict[str, float]:
    told = [entry["helped"] for entry in found if "helped" in entry]
    return {metric: max(entry[metric] for entry in told) for metric in told[0]}


def _least_covered(found: list[_tools.Facts]) -> dict[str, float]:
    """Return the least coverage of each figure over the simulations in which a quarter of the runs have an interval."""
    least: dict[str, float] = {}
    for entry in (entry for entry in found if "covered" in entry):
        for name, share in entry["covered"].items():
            if entry["given"][name] >= 0.25:
                least[name] = min(least.get(name, 1.0), share)
    return least


if __name__ == "__main__":
    main()
