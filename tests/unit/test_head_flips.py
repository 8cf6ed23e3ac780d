"""Which mirror images keep their label, found out on features whose answer is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from thaw.head.examples import FeatureSet
from thaw.head.flips import asked_of, choose_flip

LABELS = np.arange(200) % 2


def features(seed: int) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    return (np.where(LABELS, 2.0, -2.0)[:, None] + random.normal(size=(200, 3))).astype(np.float32)


TRAIN, ALL = FeatureSet(features(0), LABELS, np.ones(200)), np.arange(200)
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
    choice = choose_flip(TRAIN, ALL, across, down, 2)
    assert choice.flip == expected
    assert set(choice.accuracy) == {"plain", "horizontal", "vertical"}
    assert choice.facts(tta=True).model_dump() == {"flip": expected, "accuracy": choice.accuracy, "tta": True}
    assert str(choice).startswith(
        f"flips that keep the label: {expected} (accuracy on training images left out: plain "
    )


def test_a_small_loss_is_allowed_and_a_large_one_is_not() -> None:
    def wrong(share: float) -> NDArray[np.float32]:
        mirrored = TRAIN.features.copy()
        mirrored[: int(200 * share)] *= -1
        return mirrored

    assert choose_flip(TRAIN, ALL, wrong(0.05), wrong(0.25), 2).flip == "horizontal"


def test_a_head_that_tells_nothing_leaves_images_as_they_are() -> None:
    blind = FeatureSet(np.zeros((200, 3), np.float32), LABELS, np.ones(200))
    assert choose_flip(blind, ALL, blind.features, blind.features, 2).flip == "none"


def test_each_mirror_image_is_answered_for_by_a_head_that_has_not_seen_its_image_nor_a_copy() -> None:
    random = np.random.default_rng(5)
    noise = random.normal(size=(64, 200)).astype(np.float32)  # as many features as it takes to know each image by heart
    labels = np.tile(random.permutation(np.arange(64) % 2), 2)
    copies = FeatureSet(np.concatenate([noise, noise]), labels, np.ones(128), np.tile(np.arange(64), 2))
    same = copies.features
    together, apart = (choose_flip(train, np.arange(128), same, same, 2) for train in (copies, alone(copies)))
    assert together.accuracy["plain"] < 0.75
    assert apart.accuracy["plain"] > 0.9, "where copies are taken for other images, they are known by heart"


def alone(train: FeatureSet) -> FeatureSet:
    return FeatureSet(train.features, train.labels, train.confidence)


def test_few_images_are_asked_about_and_too_few_to_leave_any_out_keep_no_flip() -> None:
    assert len(asked_of(np.arange(5000) % 3, 0)) == 600
    assert asked_of(LABELS, 0).tolist() == list(range(200))
    pair = FeatureSet(features(0)[:2], LABELS[:2], np.ones(2))
    choice = choose_flip(pair, np.arange(2), pair.features, pair.features, 2)
    assert (choice.flip, choice.accuracy) == ("none", {})
    assert "too few to tell" in str(choice)
