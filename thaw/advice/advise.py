"""Put the advice together: what is measured, which regime it speaks for, and the sentence that says so."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from thaw.activations.engine import device_of
from thaw.activations.prefix import Views
from thaw.advice.gradients import relative_gradients
from thaw.advice.ground import Ground
from thaw.advice.trials import METRIC, Search, compared, search
from thaw.config.schema import AugmentParams, ComputeParams, PhaseDefaults
from thaw.data.packed import folds_of
from thaw.evaluation.selection import COST_WORDS
from thaw.networks.backbone import Backbone
from thaw.pipeline.advice_facts import REGIMES, Advice, Regime, Step
from thaw.pipeline.model_facts import ModelFacts
from thaw.training.parts import Start
from thaw.training.phase import Trained


@dataclass(frozen=True)
class Setting:
    """What trials have in common with the phases."""

    network: Callable[[], Backbone]
    """The backbone, a new one on each call, since training changes it."""
    augment: AugmentParams
    defaults: PhaseDefaults
    seed: int
    compute: ComputeParams


_NOT_MEASURED = {
    "cannot_tell": "There are too few images to measure anything, so the head alone is advised; more images would "
    "tell, and a phase with a depth and a rate of its own is trained in any case.",
    "not_asked": "advise.images is 0, so nothing was measured.",
}


def without_trials(regime: Literal["cannot_tell", "not_asked"], head: ModelFacts) -> Advice:
    """Return the advice where nothing is measured: there are too few images, or no phase asks for it."""
    return Advice(
        regime=regime,
        steps=[],
        sentence=_NOT_MEASURED[regime],
        cost=COST_WORDS[METRIC],
        earlier_layers=head.earlier_layers,
        blocks=head.blocks,
        lineage=head.lineage,
    )


def advise(ground: Ground | None, head: ModelFacts, setting: Setting) -> Advice:
    """Return the advice; `ground` is None where there are too few images to measure anything.

    The same inputs give the same advice: what is measured is counted in images and epochs, never in seconds.
    """
    nothing = without_trials("cannot_tell", head)
    if ground is None:
        return nothing
    backbone = setting.network()
    found = search(ground, backbone, _run(ground, setting), seed=setting.seed)
    head_alone, after = compared(ground, [ground.logits, found.logits], seed=setting.seed)
    regime = regime_of(found.steps, len(backbone.units))
    measured: dict[str, object] = {
        "regime": regime,
        "steps": found.steps,
        "sentence": _sentence(regime, found, head_alone.accuracy, after.accuracy, len(ground.labels)),
        "trained": ground.num_trained,
        "asked": len(ground.labels),
        "epochs": ground.epochs(setting.defaults.epochs),
        "head_accuracy": head_alone.accuracy,
        "head_cost": head_alone.cost,
        "gradients": _gradients(ground, backbone, setting),
        "trials": found.tried,
    }
    if found.steps and (gained := after.against_head) is not None:
        measured |= {"change": gained.difference, "low": gained.low, "high": gained.high}
    return nothing.model_copy(update=measured)


def regime_of(steps: list[Step], num_blocks: int) -> Regime:
    """Return which of the regimes some steps are."""
    if not steps:
        return "head"
    return "everything" if steps[-1].depth_blocks == num_blocks else "upper"


def _run(ground: Ground, setting: Setting) -> Callable[[Start, int, float], Trained]:
    def run(start: Start, depth_blocks: int, lr: float) -> Trained:
        # What a phase prints of its activations and epochs would bury what the trials show.
        with contextlib.redirect_stdout(io.StringIO()):
            return ground.trial(
                start,
                depth_blocks,
                lr,
                network=setting.network,
                augment=setting.augment,
                defaults=setting.defaults,
                seed=setting.seed,
                compute=setting.compute,
            )

    return run


def _gradients(ground: Ground, backbone: Backbone, setting: Setting) -> dict[str, float]:
    (fold,) = folds_of(ground.images)
    views = Views(ground.images, backbone.spec, setting.seed, setting.augment)
    return relative_gradients(
        backbone, views, fold.train, ground.strong, seed=setting.seed, device=device_of(setting.compute)
    )


def _sentence(regime: Regime, found: Search, before: float, after: float, asked: int) -> str:
    measured = (
        f"in {len(found.tried)} short trial{'s' * (len(found.tried) > 1)}, judged by {asked} images that were left out"
    )
    if not found.steps:
        return (
            f"{REGIMES[regime].capitalize()}: no unfreezing came near the head, whose accuracy is {before:.3f} there, "
            f"{measured}."
        )
    steps = ", then ".join(f"{step.depth_blocks} blocks at {step.lr:g}" for step in found.steps)
    return (
        f"{REGIMES[regime].capitalize()}: {steps}; accuracy {after:.3f} after that and {before:.3f} of the head, "
        f"{measured}."
    )
