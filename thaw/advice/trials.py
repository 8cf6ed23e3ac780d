"""How deep does unfreezing pay, and at which rate? Short trials from the head downwards, until a step gains nothing.

Each step starts where the one before it ended, as phases do, and is tried at a few rates. The best of them is accepted
where the images that were left out are answered better with it, by paired bootstrap draws. It is a measurement on few
images and few epochs: a gain is a sign that a whole phase gains, and its size is a lower estimate.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thaw.advice.ground import Ground
from thaw.errors import TrainingError
from thaw.evaluation.comparison import Candidate, Result, choose
from thaw.networks.backbone import Backbone
from thaw.pipeline.advice_facts import Step, Tried
from thaw.training.parts import Start
from thaw.training.phase import Trained

DEPTHS = ("1/3", "2/3", "all")
RATES = (3e-4, 1e-3)
MIN_WIN_RATE = 0.25
"""Share of the bootstrap draws that a step must win. Low, since a trial sees few images for a short time and a whole
phase gains more; what a step that was tried in vain costs is time, since `select` decides what is kept."""
CLEAR = 0.85
"""Share of the draws from which on, or below one less this, a deeper step is tried at no further rate."""
DRAWS = 2000
METRIC = "accuracy"
"""What is compared, whatever `select.metric` is: the default, so that another one asks for no other advice."""

Run = Callable[[Start, int, float], Trained]


@dataclass(frozen=True)
class Search:
    """What the trials found."""

    tried: list[Tried]
    steps: list[Step]
    logits: NDArray[np.floating]
    """[asked images, classes], after all steps; the head's where there are none."""


def search(ground: Ground, backbone: Backbone, run: Run, *, seed: int) -> Search:
    """Try ever deeper steps from the head, each at several rates, and stop at the first that does not pay."""
    start: Start = ground.start
    logits: NDArray[np.floating] = ground.logits
    tried: list[Tried] = []
    steps: list[Step] = []
    for depth in depths_of(backbone):
        able: list[tuple[Tried, Trained]] = []
        for lr in _rates(steps):
            if steps and able and not 1 - CLEAR < able[-1][0].win_rate < CLEAR:
                break
            able += _try(ground, run, start, logits, depth, lr, seed=seed)
        if not able:
            break
        best, trained = min(able, key=lambda one: one[0].cost)
        accepted = best.win_rate >= MIN_WIN_RATE
        tried += [one.model_copy(update={"accepted": accepted and one is best}) for one, _ in able]
        if not accepted:
            break
        steps.append(Step(depth_blocks=depth, lr=best.lr))
        start, logits = Start(trained.outcome.tensors, trained.model), trained.outcome.answers.logits
    return Search(tried, steps, logits)


def _rates(steps: Sequence[Step]) -> list[float]:
    """Return the rates in the order in which they are tried: that of the step before first."""
    return sorted(RATES, key=lambda lr: not steps or lr != steps[-1].lr)


def depths_of(backbone: Backbone) -> list[int]:
    """Return the depths that are tried, in blocks from the head, ascending."""
    return sorted({len(backbone.units) - backbone.cut_index(depth) for depth in DEPTHS})


def _try(
    ground: Ground,
    run: Run,
    start: Start,
    before: NDArray[np.floating],
    depth: int,
    lr: float,
    *,
    seed: int,
) -> list[tuple[Tried, Trained]]:
    """Return what a trial showed; nothing for one that diverged."""
    try:
        trained = run(start, depth, lr)
    except TrainingError as error:
        print(f"advise: {depth} blocks at {lr:g}: {error}", flush=True)
        return []
    _, result = compared(ground, [before, trained.outcome.answers.logits], seed=seed)
    change = result.against_head
    assert change is not None
    found = Tried(
        start=start.model.depth_blocks,
        depth_blocks=depth,
        lr=lr,
        accuracy=result.accuracy,
        cost=result.cost,
        change=change.difference,
        low=change.low,
        high=change.high,
        win_rate=change.win_rate,
        accepted=False,
    )
    print(
        f"advise: {depth} blocks at {lr:g}: accuracy {found.accuracy:.3f}, cost {found.cost:.4f}, change "
        f"{found.change:+.4f}, better in {100 * found.win_rate:.0f} % of draws",
        flush=True,
    )
    return [(found, trained)]


def compared(ground: Ground, answers: Sequence[NDArray[np.floating]], *, seed: int) -> list[Result]:
    """Return how answers for the images that were asked compare, each with the first."""
    candidates = [Candidate(str(number), None, logits) for number, logits in enumerate(answers)]
    return choose(
        candidates, ground.labels, min_win_rate=0.6, draws=DRAWS, seed=seed, metric=METRIC, groups=ground.units
    )
