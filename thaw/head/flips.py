"""Which mirror images keep their label, decided on training images before any view is drawn.

Heads fitted on plain images are asked about others, mirrored. Where the mirror image means the same, they answer nearly
as well; where it does not (a 6 is no 9), they fall back towards chance.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from thaw import memory
from thaw.augment.draws import representatives
from thaw.config.schema import AugmentParams
from thaw.head.examples import Features, FeatureSet, Labels, inner_folds, subsample
from thaw.head.linear import fit_linear
from thaw.pipeline.data_facts import Flip
from thaw.pipeline.model_facts import AugmentFacts

# Largest share of the skill (accuracy above always naming the commonest class) that a mirror image may cost. Measured:
# solar cells fall from 0.866 to 0.847 at most, handwritten digits upside down from 0.955 to 0.592 (docs/log.md).
MAX_LOSS = 0.25
_STRENGTH = (0.03,)
_ASKED = 600


@dataclass(frozen=True)
class FlipChoice:
    """The flip setting in force, with the accuracies that `auto` rests on (none if it was given)."""

    flip: Flip
    accuracy: dict[str, float] = field(default_factory=dict)

    def facts(self, *, tta: bool) -> AugmentFacts:
        """Return the choice and its evidence for model.json; `tta` says whether answers are averaged over the flips."""
        return AugmentFacts(flip=self.flip, accuracy=self.accuracy, tta=tta)

    def put_into(self, augment: AugmentParams) -> AugmentParams:
        """Return the augmentation with these flips."""
        return augment.model_copy(update={"flip": self.flip})

    def __str__(self) -> str:
        seen = ", ".join(f"{name} {value:.3f}" for name, value in self.accuracy.items()) or "too few to tell"
        return f"flips that keep the label: {self.flip} (accuracy on training images left out: {seen})"


def asked_of(labels: Labels, seed: int) -> NDArray[np.int64]:
    """Return the positions of the training images that are asked about mirrored: at most 600."""
    return representatives(labels, _ASKED, seed=seed, purpose="flips")


def choose_flip(
    train: FeatureSet, asked: NDArray[np.int64], horizontal: Features, vertical: Features, num_classes: int
) -> FlipChoice:
    """Return the flips that keep labels: `none`, `horizontal`, `vertical` or `both`.

    `train` has the plain features of the training images, `horizontal` and `vertical` those of the `asked` ones (their
    positions) mirrored left to right and top to bottom. Each is answered for by a head that has not seen it.
    """
    right = {name: np.zeros(len(asked), bool) for name in ("plain", "horizontal", "vertical")}
    answered = np.zeros(len(asked), bool)
    for left_out in inner_folds(train, num_classes):
        here = left_out[asked]
        kept = np.flatnonzero(~left_out)
        few = kept[subsample(train.labels[kept], num_classes, seed=0, purpose="flips")]
        fit = fit_linear(train[few], num_classes, strengths=_STRENGTH)
        labels = train.labels[asked[here]]
        seen = {"plain": train.features[asked[here]], "horizontal": horizontal[here], "vertical": vertical[here]}
        for name, features in seen.items():
            right[name][here] = fit.logits(features).argmax(axis=1) == labels
        answered |= here
    memory.drop_pages([train.features, horizontal, vertical])
    if not answered.any():
        return FlipChoice("none")
    accuracy = {name: float(values[answered].mean()) for name, values in right.items()}
    chance = float(np.bincount(train.labels[asked[answered]]).max() / answered.sum())
    skill = accuracy["plain"] - chance  # none: the head can tell nothing
    mirrored: tuple[Flip, ...] = ("horizontal", "vertical")
    keeps = [name for name in mirrored if skill > 0 and accuracy["plain"] - accuracy[name] <= MAX_LOSS * skill]
    return FlipChoice("both" if len(keeps) == 2 else keeps[0] if keeps else "none", accuracy)
