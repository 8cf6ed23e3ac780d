"""What `advise` found out before the time is spent, as it lies on disk: advice.json of models/advice."""

from typing import Literal

from pydantic import Field

from thaw.pipeline.facts import Facts
from thaw.pipeline.model_facts import EarlierLayers, Lineage

Regime = Literal["head", "upper", "everything", "cannot_tell", "not_asked"]
REGIMES: dict[Regime, str] = {
    "head": "a new head only",
    "upper": "the upper part of the network",
    "everything": "the whole network",
    "cannot_tell": "too few images to measure anything",
    "not_asked": "nothing was asked",
}
"""What the texts on fine-tuning call each of them."""


class Tried(Facts):
    """A short trial: a few images, a few epochs, answers for others."""

    start: int
    """Blocks that were unfrozen where it began; 0 for the head."""
    depth_blocks: int
    lr: float
    accuracy: float
    cost: float
    """What is compared, the smaller the better."""
    change: float
    """Cost less that of what it started from; below 0 is better."""
    low: float | None = None
    """End of the 95 % interval of the change, as the next; absent where all draws agree."""
    high: float | None = None
    win_rate: float
    """Share of bootstrap draws in which the change is below 0."""
    accepted: bool
    """It is a step of the advice."""


class Step(Facts):
    """What a phase with `depth: auto` is to do."""

    depth_blocks: int
    lr: float


class Advice(Facts):
    """advice.json: how deep, how fast, or not at all."""

    regime: Regime
    steps: list[Step]
    """Phase after phase, each deeper than the one before; none where the head is enough."""
    sentence: str
    """The advice and what it rests on."""
    cost: str
    """What was compared for it, in words."""
    trained: int = 0
    """Images that each trial trained on; 0, as the next two, where there were too few for any."""
    asked: int = 0
    """Others that it answered for."""
    epochs: int = 0
    """Of each trial."""
    head_accuracy: float | None = None
    """Of the head that the trials started from, fitted on the same images; absent where none was made."""
    head_cost: float | None = None
    change: float | None = None
    """Cost after all steps less that of the head; absent, as the next two, where there are no steps."""
    low: float | None = None
    high: float | None = None
    earlier_layers: EarlierLayers | None = None
    """Heads on what each block holds while nothing is trained, from the pass that the features took; absent where
    nothing was compared."""
    gradients: dict[str, float] = Field(default_factory=dict)
    """By block: norm of the gradient over the norm of the weights, at a strongly regularised head."""
    trials: list[Tried] = Field(default_factory=list)
    blocks: list[str]
    """Of the backbone, input first."""
    lineage: Lineage
