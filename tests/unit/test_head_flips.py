"""Which mirror images keep their label, found out on features whose answer is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from thaw.head.examples import FeatureSet
from thaw.head.flips import choose_flip

LABELS = np.arange(200) % 2


def features(seed: int) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    return (np.where(LABELS, 2.0, -2.0)[:, None] + random.normal(size=(200, 3))).astype(np.float32)


TRAIN, VAL = (FeatureSet(features(seed), LABELS, np.ones(200)) for seed in (0, 1))
SAME, OTHER = features(2), -features(2)  # a mirror image that means the same, one that means the opposite


@pytest.mark.parametrize(
    ("across", "down", "expected"),
    [
        (SAME, SAME, "both"),
        (SAME, OTHER, "horizontal"),
        (OTHER, SAME, "vertical"),
        (OTHER, OTHER, "none"),
    ],
)
def test_a_flip_is_kept_only_where_the_mirrored_images_are_still_recognised(
    across: NDArray[np.float32], down: NDArray[np.float32], expected: str
) -> None:
    choice = choose_flip(TRAIN, VAL, across, down, 2, seed=0)
    assert choice.flip == expected
    assert set(choice.accuracy) == {"plain", "horizontal", "vertical"}
    assert choice.facts(tta=True).model_dump() == {"flip": expected, "accuracy": choice.accuracy, "tta": True}
    assert str(choice).startswith(f"flips that keep the label: {expected} (validation accuracy plain 1.000, ")


def test_a_small_loss_is_allowed_and_a_large_one_is_not() -> None:
    def wrong(share: float) -> NDArray[np.float32]:
        mirrored = VAL.features.copy()
        mirrored[: int(200 * share)] *= -1
        return mirrored

    assert choose_flip(TRAIN, VAL, wrong(0.05), wrong(0.25), 2, seed=0).flip == "horizontal"


def test_a_head_that_tells_nothing_leaves_images_as_they_are() -> None:
    blind = FeatureSet(np.zeros((200, 3), np.float32), LABELS, np.ones(200))
    assert choose_flip(blind, blind, blind.features, blind.features, 2, seed=0).flip == "none"
