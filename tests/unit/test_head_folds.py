"""A head in folds: out-of-fold answers, what is chosen on training images alone, and what is kept together."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests import tiny
from tests.unit.test_head import blobs
from thaw.config.schema import HeadParams
from thaw.head import linear
from thaw.head.examples import NUM_INNER_FOLDS, FeatureSet, inner_folds
from thaw.head.features import Features
from thaw.head.fit import Fitted, fit_head
from thaw.head.linear import choose_strength, fit_linear

NUM_FOLDS, NUM_IMAGES = 3, 48
CLASSES = ["a", "b", "c"]


def in_folds(num_views: int = 2) -> Features:
    """Return features of images that are each validated on in one of three folds, in two views of every image."""
    plain = blobs(NUM_IMAGES, 3, spread=2.0)
    views = [plain.features + np.float32(0.1 * view) for view in range(num_views)]
    units = np.arange(NUM_IMAGES)
    every = FeatureSet(
        np.concatenate(views), np.tile(plain.labels, num_views), np.ones(num_views * NUM_IMAGES),
        np.tile(units, num_views),
    )  # fmt: skip
    rows = 2 * np.arange(NUM_IMAGES)  # as where test images lie between
    val = replace(every, features=every.features.copy())  # a solved head overwrites what it was fitted on
    return Features(every, rows, val, rows, np.arange(NUM_IMAGES) // 3 % NUM_FOLDS, tiny.features_facts(CLASSES))


def fitted(data: Features, **changes: Any) -> Fitted:
    params = {"hidden": [], "dropout": 0.0, "lr": 0.01, "epochs": 5} | changes
    return fit_head(HeadParams.model_validate(params), data, seed=0)


@pytest.mark.parametrize("changes", [{}, {"hidden": [8], "dropout": 0.2}, {"kind": "cosine"}])
def test_answers_out_of_fold_are_bit_for_bit_those_of_separate_heads(changes: dict[str, Any]) -> None:
    together, data = fitted(in_folds(), **changes), in_folds()
    assert len(together.folds) == NUM_FOLDS
    for number in range(NUM_FOLDS):
        part = data.of_fold(number)
        assert not set(part.train_rows) & set(part.val_rows)
        assert len(part.train.labels) == 2 * len(part.train_rows)
        alone = fitted(part, **changes)
        assert alone.folds == []
        np.testing.assert_array_equal(together.val_logits[data.val_folds == number], alone.val_logits)
        ours = together.folds[number].state_dict()
        assert all(torch.equal(value, ours[name]) for name, value in alone.head.state_dict().items())


def test_the_head_that_is_kept_is_fitted_on_all_development_images() -> None:
    kept, data = fitted(in_folds()), in_folds()
    alone = fit_linear(data.train, 3)
    np.testing.assert_array_equal(kept.head.state_dict()["weight"], alone.weight.astype(np.float32))
    assert kept.facts.strength == alone.strength
    own = data.val_answers(kept.head)
    assert not np.allclose(own, kept.val_logits), "what it answers for its own images is not what counts"


def test_validation_images_have_no_part_in_a_head() -> None:
    data = in_folds()
    part = data.of_fold(0)
    nonsense = replace(part.val, features=1e3 * np.ones_like(part.val.features), labels=1 - part.val.labels // 2)
    for changes in ({}, {"hidden": [8]}, {"kind": "cosine"}):
        # the features that a solved head is fitted on are overwritten
        heads = [
            fitted(replace(part, train=replace(part.train, features=part.train.features.copy()), val=val), **changes)
            for val in (part.val, nonsense)
        ]
        assert heads[0].facts == heads[1].facts
        ours, theirs = (head.head.state_dict() for head in heads)
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_strength_is_chosen_by_fits_that_have_not_seen_what_they_answer_for(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = blobs(30, 3, spread=2.0)
    features = plain.features.copy()
    features[:, 0] = np.arange(30)  # each image is known by its first feature, each copy by that of its image
    train = FeatureSet(
        np.concatenate([features, features]), np.tile(plain.labels, 2), np.ones(60), np.tile(np.arange(30), 2)
    )
    fits, asked = list[set[float]](), list[set[float]]()
    path, answer = linear._Path.__init__, linear.LinearFit.logits

    def built(self: Any, train: FeatureSet, num_classes: int, among: NDArray[np.int64]) -> None:
        fits.append(set(train.features[among, 0].tolist()))
        path(self, train, num_classes, among)

    def answered(self: Any, seen: Any) -> Any:
        asked.append(set(seen[:, 0].tolist()))
        return answer(self, seen)

    monkeypatch.setattr(linear._Path, "__init__", built)
    monkeypatch.setattr(linear.LinearFit, "logits", answered)
    choose_strength(train, 3)
    assert len(fits) == NUM_INNER_FOLDS
    assert set().union(*asked[:NUM_INNER_FOLDS]) == set(range(30))
    for number, answered_for in enumerate(asked):
        assert not answered_for & fits[number % NUM_INNER_FOLDS]


@st.composite
def examples(draw: st.DrawFn) -> tuple[FeatureSet, int]:
    num_classes = draw(st.integers(2, 4))
    unit_labels = draw(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=25))
    units = draw(st.lists(st.integers(0, len(unit_labels) - 1), min_size=1, max_size=60))
    labels = [unit_labels[unit] for unit in units]
    if draw(st.booleans()):  # a group may hold images of several classes
        labels = draw(st.lists(st.integers(0, num_classes - 1), min_size=len(units), max_size=len(units)))
    count = len(units)
    return FeatureSet(np.zeros((count, 1), np.float32), np.array(labels), np.ones(count), np.array(units)), num_classes


@given(examples())
def test_inner_folds_keep_units_whole_and_leave_every_class(given_: tuple[FeatureSet, int]) -> None:
    train, num_classes = given_
    assert train.units is not None
    masks = inner_folds(train, num_classes)
    for mask in masks:
        assert mask.any()
        assert not set(train.units[mask]) & set(train.units[~mask])
        assert set(train.labels[mask]) <= set(train.labels[~mask])
    assert len(masks) <= NUM_INNER_FOLDS
    if masks:
        assert np.sum(masks, axis=0).max() == 1, "none is left out twice"


def test_inner_folds_spread_each_class_evenly_and_views_stay_together() -> None:
    train = FeatureSet(
        np.zeros((80, 1), np.float32), np.tile(np.arange(40) % 2, 2), np.ones(80), np.tile(np.arange(40), 2)
    )
    masks = inner_folds(train, 2)
    assert len(masks) == NUM_INNER_FOLDS
    assert [np.bincount(train.labels[mask]).tolist() for mask in masks] == [[8, 8]] * NUM_INNER_FOLDS
    for mask in masks:
        assert mask[:40].tolist() == mask[40:].tolist()
    assert np.sum(masks, axis=0).tolist() == [1] * 80


def test_the_only_unit_of_a_class_is_never_left_out() -> None:
    labels = np.array([0] * 10 + [1])
    masks = inner_folds(FeatureSet(np.zeros((11, 1), np.float32), labels, np.ones(11)), 2)
    assert len(masks) == NUM_INNER_FOLDS
    assert not any(mask[10] for mask in masks)
