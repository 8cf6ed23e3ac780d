"""Which mirror images keep their label, decided on validation before any view is drawn.

A head fitted on plain images is asked about mirrored validation images. Where the mirror image means the same, it
answers nearly as well; where it does not (a 6 is no 9), it falls back towards chance.
"""

from dataclasses import dataclass, field

import numpy as np

from thaw import memory
from thaw.head.examples import Features, FeatureSet, subsample
from thaw.head.linear import fit_linear
from thaw.pipeline.facts import AugmentFacts, Flip

# Largest share of the skill (accuracy above always naming the commonest class) that a mirror image may cost. Measured:
# solar cells fall from 0.866 to 0.847 at most, handwritten digits upside down from 0.955 to 0.592 (docs/log.md).
MAX_LOSS = 0.25
_STRENGTH = (0.03,)


@dataclass(frozen=True)
class FlipChoice:
    """The flip setting in force, with the validation accuracies that `auto` rests on (none if it was given)."""

    flip: Flip
    accuracy: dict[str, float] = field(default_factory=dict)

    def facts(self, *, tta: bool) -> AugmentFacts:
        """Return the choice and its evidence for model.json; `tta` says whether answers are averaged over the flips."""
        return AugmentFacts(flip=self.flip, accuracy=self.accuracy, tta=tta)

    def __str__(self) -> str:
        seen = ", ".join(f"{name} {value:.3f}" for name, value in self.accuracy.items())
        return f"flips that keep the label: {self.flip} (validation accuracy {seen})"


def choose_flip(
    train: FeatureSet, val: FeatureSet, horizontal: Features, vertical: Features, num_classes: int, *, seed: int
) -> FlipChoice:
    """Return the flips that keep labels: `none`, `horizontal`, `vertical` or `both`.

    `horizontal` and `vertical` are the features of the validation images, mirrored left to right and top to bottom.
    """
    chosen = subsample(train.labels, num_classes, seed=seed, purpose="flips")
    few = FeatureSet(train.features[chosen], train.labels[chosen], train.confidence[chosen])
    memory.drop_pages([train.features])
    fit = fit_linear(few, val, num_classes, strengths=_STRENGTH)

    def accuracy(features: Features) -> float:
        return float(((features @ fit.weight.T + fit.bias).argmax(axis=1) == val.labels).mean())

    plain, across, down = accuracy(val.features), accuracy(horizontal), accuracy(vertical)
    memory.drop_pages([val.features, horizontal, vertical])
    chance = float(np.bincount(val.labels).max() / len(val.labels))
    skill = plain - chance  # none: the head can tell nothing
    mirrored: dict[Flip, float] = {"horizontal": across, "vertical": down}
    keeps = [name for name, value in mirrored.items() if skill > 0 and plain - value <= MAX_LOSS * skill]
    flip: Flip = "both" if len(keeps) == 2 else keeps[0] if keeps else "none"
    return FlipChoice(flip, {"plain": plain, "horizontal": across, "vertical": down})
