"""The learning curve of the head: which shares are taken, of what, and what the figures are of."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from tests import tiny
from tests.unit.test_head import blobs
from thaw.evaluation import learning_curve as curves
from thaw.evaluation.intervals import paired_proportion
from thaw.evaluation.learning_curve import learning_curve
from thaw.head.examples import FeatureSet
from thaw.head.features import Features
from thaw.head.linear import STRENGTHS, LinearFit, fit_linear

NUM_IMAGES = 120


def heads(data: Features) -> list[LinearFit]:
    return [fit_linear(data.of_fold(number).train, 3) for number in range(data.num_folds)]


def curve_of(data: Features) -> pd.DataFrame:
    return learning_curve(data, heads(data))


def features(num_images: int = NUM_IMAGES, *, num_folds: int = 5, num_views: int = 1) -> Features:
    """Return features of three overlapping classes, each image validated on in one of these folds."""
    plain = blobs(num_images, 3, spread=2.0)
    every = FeatureSet(
        np.tile(plain.features, (num_views, 1)), np.tile(plain.labels, num_views), np.ones(num_views * num_images),
        np.tile(np.arange(num_images), num_views),
    )  # fmt: skip
    rows, folds = np.arange(num_images), np.arange(num_images) // 3 % num_folds
    return Features(every, rows, every, rows, folds, tiny.features_facts(["a", "b", "c"]))


@pytest.mark.parametrize("num_views", [1, 2])
def test_the_head_is_fitted_on_an_eighth_a_quarter_half_and_all(num_views: int) -> None:
    curve = curve_of(features(num_views=num_views))
    assert curve["images"].tolist() == [12, 24, 48, 96], "of the 96 images that each fold trains on"
    assert curve["gain"].isna().tolist() == [True, False, False, False]
    np.testing.assert_allclose(curve["gain"][1:], np.diff(curve["accuracy"]), atol=1e-12)
    assert curve["accuracy"].iloc[-1] > curve["accuracy"].iloc[0]
    assert curve["log_loss"].iloc[-1] < curve["log_loss"].iloc[0]


def test_the_last_point_is_the_head_of_each_fold_and_the_interval_is_of_paired_answers() -> None:
    data = features()
    curve, right = curve_of(data), np.zeros(NUM_IMAGES, bool)
    half = right.copy()
    for number in range(5):
        part, out = data.of_fold(number), data.val_folds == number
        right[out] = fit_linear(part.train, 3).logits(part.val.features).argmax(axis=1) == part.val.labels
        first = np.isin(np.arange(96), [place for label in range(3) for place in _first_half(part.train.labels, label)])
        half[out] = fit_linear(part.train[first], 3).logits(part.val.features).argmax(axis=1) == part.val.labels
    last = curve.iloc[-1]
    assert last["accuracy"] == right.mean()
    low, high = paired_proportion(right, half, np.arange(NUM_IMAGES))
    assert (last["gain_low"], last["gain_high"]) == pytest.approx((low, high))


def _first_half(labels: NDArray[np.int64], label: int) -> list[int]:
    own = [place for place, one in enumerate(labels) if one == label]
    return own[: len(own) // 2]


def test_a_large_share_takes_the_strength_of_the_head_of_all_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = features(num_folds=1)
    asked = list[tuple[int, tuple[float, ...]]]()

    def noted(
        train: FeatureSet, num_classes: int, strengths: tuple[float, ...] = STRENGTHS, *, among: NDArray[np.int64]
    ) -> LinearFit:
        asked.append((len(among), strengths))
        return fit_linear(train, num_classes, strengths, among=among)

    monkeypatch.setattr(curves, "subsample", lambda labels, *_, **__: np.arange(min(len(labels), 40)))
    monkeypatch.setattr(curves, "fit_linear", noted)
    head = replace(heads(data)[0], strength=0.3)
    learning_curve(data, [head])
    assert asked == [(15, STRENGTHS), (30, STRENGTHS), (60, (0.3,))]
    assert capsys.readouterr().out == "learning curve: 60 examples at C 0.3, as on all of them\n"


def test_shares_that_leave_too_few_of_a_class_are_passed_over() -> None:
    assert curve_of(features(30))["images"].tolist() == [12, 24], "a quarter would be two of each class"
    assert curve_of(features(15)).empty


def test_copies_and_groups_are_in_a_share_or_out_of_it_whole() -> None:
    data = features(60)
    pairs = np.arange(60) // 6  # ten groups of two of each class
    grouped = replace(data.train, units=pairs)
    curve = curve_of(replace(data, train=grouped, val=grouped, val_folds=pairs % 5))
    assert curve["images"].tolist() == [24, 48], "four and eight groups of six"
