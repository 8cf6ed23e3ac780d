"""What a phase with `depth: auto` makes of the advice: a depth and a rate, or the reason why it is not trained."""

from pathlib import Path

from thaw.config.schema import PhaseParams
from thaw.errors import ArtifactError
from thaw.pipeline import artifacts, facts
from thaw.pipeline.advice_facts import Advice
from thaw.pipeline.model_facts import Lineage, ModelFacts

ADVICE = Path("models/advice")


def open_advice() -> Advice:
    """Return the advice in models/advice. Raises: ArtifactError if there is none that is whole."""
    artifacts.verify(ADVICE)
    return facts.read(ADVICE / "advice.json", Advice)


def read_advice(lineage: Lineage) -> Advice:
    """Return the advice in models/advice. Raises: ArtifactError if there is none, or it was made of other data."""
    advice = open_advice()
    pairs = {"images": (advice.lineage.data, lineage.data), "backbone": (advice.lineage.backbone, lineage.backbone)}
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise ArtifactError(
                f"{ADVICE} was made with another {what} ({theirs[:12]}) than is here now ({ours[:12]}); run `dvc "
                "repro`, which makes it anew"
            )
    return advice


def settled(params: PhaseParams, start: ModelFacts) -> PhaseParams | str:
    """Return the phase as it is trained from `start`, or a sentence why it is not worth training (see `follow`).

    Only a phase with `depth: auto` reads the advice. Raises: ArtifactError as `read_advice` does.
    """
    if params.depth != "auto":
        return params
    return follow(params, read_advice(start.lineage), unfrozen_before=start.depth_blocks)


def follow(params: PhaseParams, advice: Advice, *, unfrozen_before: int) -> PhaseParams | str:
    """Return the phase with the depth and the rate that are advised, or a sentence why it is not worth training.

    It takes the first step that is deeper than what its start has unfrozen, `unfrozen_before` blocks. A rate that
    params.yaml gives stays.
    """
    for step in advice.steps:
        if step.depth_blocks > unfrozen_before:
            lr = step.lr if params.lr == "auto" else params.lr
            return params.model_copy(update={"depth": step.depth_blocks, "lr": lr})
    if not unfrozen_before:
        return advice.sentence
    refused = [tried for tried in advice.trials if tried.depth_blocks > unfrozen_before]
    if not refused:
        return f"no step of the advice is deeper than the {unfrozen_before} blocks that {params.start} has unfrozen"
    best = min(refused, key=lambda tried: tried.cost)
    return (
        f"{best.depth_blocks} blocks at {best.lr:g} did not pay in a trial: {advice.cost} {best.change:+.3f}, better "
        f"than before in {100 * best.win_rate:.0f} % of the bootstrap draws of {advice.asked} images that were left out"
    )
