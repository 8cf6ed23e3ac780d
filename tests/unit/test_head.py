"""The head: solved exactly against an oracle, folded, well conditioned; and hidden layers that learn; angles."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional

from thaw.config.schema import HeadParams
from thaw.errors import TrainingError
from thaw.head import trained
from thaw.head.examples import FeatureSet, cross_entropy, inner_folds, log_losses, soft_targets
from thaw.head.layers import CosineHead, build_head, logits_of
from thaw.head.linear import choose_strength, fit_linear, linear_module
from thaw.head.trained import train_head


def blobs(
    num_examples: int, num_classes: int, *, spread: float = 1.0, seed: int = 0, num_features: int = 6
) -> FeatureSet:
    """Return clusters around fixed centres, far from zero and unequal in scale."""
    centres = np.random.default_rng(99).normal(size=(num_classes, num_features)) * 2
    random = np.random.default_rng(seed)
    labels = np.arange(num_examples) % num_classes
    values = (centres[labels] + spread * random.normal(size=(num_examples, num_features))) * 3 + 10
    return FeatureSet(values.astype(np.float32), labels, np.ones(num_examples))


def oracle(train: FeatureSet, strength: float, weights: NDArray[np.float64] | None = None) -> Any:
    """Return scikit-learn's own fit on features centred, and scaled by one factor."""
    scaler = StandardScaler(with_std=False).fit(train.features.astype(np.float64))
    centred = scaler.transform(train.features.astype(np.float64))
    scale = np.sqrt((centred**2).mean())
    solver = LogisticRegression(C=strength, tol=1e-10, max_iter=5000).fit(centred / scale, train.labels, weights)
    return lambda features: solver.predict_proba(scaler.transform(features.astype(np.float64)) / scale)


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    return torch.softmax(torch.from_numpy(logits).double(), dim=1).numpy()


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_the_linear_head_is_scikit_learns_with_the_scaling_folded_in(num_classes: int) -> None:
    train, val = blobs(200, num_classes), blobs(80, num_classes, seed=1)
    fit = fit_linear(train, num_classes, strengths=(0.1,))
    ours = softmax(val.features @ fit.weight.T + fit.bias)
    np.testing.assert_allclose(ours, oracle(train, 0.1)(val.features), atol=2e-3)
    np.testing.assert_allclose(softmax(logits_of(linear_module(fit), val.features)), ours, atol=1e-4)


def test_the_strength_is_the_one_with_the_lowest_loss_on_training_images_left_out() -> None:
    train = blobs(60, 3, spread=5, num_features=40)
    strengths = (0.0001, 0.01, 1.0, 100.0)
    losses = dict.fromkeys(strengths, 0.0)
    for left_out in inner_folds(train, 3):
        out = train[left_out]
        for strength in strengths:
            logits = fit_linear(train[~left_out], 3, strengths=(strength,)).logits(out.features)
            losses[strength] += float(log_losses(logits, out.labels).sum())
    best = min(losses, key=lambda strength: losses[strength])
    assert best not in (strengths[0], strengths[-1]), "or the order of trial would decide"
    assert choose_strength(train, 3, strengths) == best
    assert fit_linear(train, 3, strengths=strengths).strength == best


def test_the_fit_at_the_strength_that_was_found_is_on_all_training_images() -> None:
    train = blobs(90, 3, spread=2.5)
    fit = fit_linear(train, 3)
    alone = fit_linear(train, 3, strengths=(fit.strength,))
    np.testing.assert_allclose(softmax(fit.logits(train.features)), softmax(alone.logits(train.features)), atol=5e-3)


def test_a_strength_from_the_middle_is_taken_where_no_image_can_be_left_out() -> None:
    train = blobs(3, 3)
    assert inner_folds(train, 3) == []
    assert choose_strength(train, 3, (0.1, 0.2, 0.3)) == 0.2


@pytest.mark.parametrize("num_classes", [2, 3, 6])
def test_an_unsure_label_counts_as_rows_of_every_class_in_its_shares(num_classes: int) -> None:
    train, val = blobs(90, num_classes, spread=1.5), blobs(60, num_classes, seed=1)
    unsure = FeatureSet(train.features, train.labels, np.where(np.arange(90) % 2, 1.0, 0.6))
    rows, labels, weights = [], [], []
    for index in range(90):
        for label in range(num_classes):
            sure = unsure.confidence[index]
            rows.append(train.features[index])
            labels.append(label)
            weights.append(sure if label == train.labels[index] else (1 - sure) / (num_classes - 1))
    copies = FeatureSet(np.stack(rows), np.array(labels), np.ones(90 * num_classes))
    fit = fit_linear(unsure, num_classes, strengths=(0.1,))
    expected = oracle(copies, 0.1, np.array(weights))(val.features)
    np.testing.assert_allclose(softmax(val.features @ fit.weight.T + fit.bias), expected, atol=3e-3)
    assert not np.allclose(expected, oracle(train, 0.1)(val.features), atol=3e-2)


def test_a_nearly_constant_feature_gets_no_huge_weight() -> None:
    train = blobs(120, 2)
    train.features[:, 0] = 5 + 1e-4 * train.features[:, 0]
    ours = fit_linear(train, 2).largest_weight
    scaler = StandardScaler().fit(train.features)
    each = LogisticRegression(C=0.1, max_iter=500).fit(scaler.transform(train.features), train.labels)
    assert ours < 2
    assert float(np.abs(each.coef_ / scaler.scale_).max()) > 100 * ours


def test_constant_features_still_give_the_frequencies() -> None:
    labels = np.array([0, 0, 0, 1])
    same = FeatureSet(np.full((4, 3), 2.0, np.float32), labels, np.ones(4))
    fit = fit_linear(same, 2)
    np.testing.assert_allclose(softmax(same.features @ fit.weight.T + fit.bias)[0], [0.75, 0.25], atol=0.01)


def test_a_class_without_training_images_is_an_error() -> None:
    train = blobs(40, 2)
    with pytest.raises(TrainingError, match="1 of 3 classes have no training image"):
        fit_linear(train, 3)


def hidden(**changes: Any) -> HeadParams:
    return HeadParams.model_validate({"hidden": [16], "dropout": 0.0, "lr": 0.01, "epochs": 60} | changes)


def xor(num_examples: int, seed: int) -> FeatureSet:
    points = np.random.default_rng(seed).uniform(-1, 1, (num_examples, 2))
    labels = (points[:, 0] * points[:, 1] > 0).astype(np.int64)
    return FeatureSet((points * 5 + 20).astype(np.float32), labels, np.ones(num_examples))


def test_hidden_layers_learn_what_no_line_can_and_fold_the_scaling() -> None:
    train, val = xor(400, 0), xor(200, 1)
    line = fit_linear(train, 2)
    assert ((val.features @ line.weight.T + line.bias).argmax(axis=1) == val.labels).mean() < 0.7
    head, rows = train_head(train, 2, hidden(), seed=0)
    logits = logits_of(head, val.features)
    assert (logits.argmax(axis=1) == val.labels).mean() > 0.9
    # The folded head, on raw features, has about the loss of the best epoch on scaled ones that were left out.
    best = min(row["val_loss"] for row in rows)
    assert cross_entropy(logits.astype(np.float64), val.labels) == pytest.approx(best, abs=0.15)


def test_hidden_layers_are_the_same_for_the_same_seed_whatever_was_drawn_before() -> None:
    train = xor(60, 0)
    heads = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        heads.append(train_head(train, 2, hidden(epochs=3, dropout=0.2), seed=5)[0].state_dict())
    assert all(torch.equal(value, heads[1][name]) for name, value in heads[0].items())


def test_a_trial_on_images_left_out_settles_the_epochs_and_all_images_are_then_trained_on() -> None:
    random = np.random.default_rng(0)
    train = FeatureSet(random.normal(size=(40, 5)).astype(np.float32), random.integers(0, 2, 40), np.ones(40))
    head, rows = train_head(train, 2, hidden(epochs=500), seed=0)
    best = min(range(len(rows)), key=lambda index: rows[index]["val_loss"])
    assert len(rows) == best + 1 + 10 < 500
    expected, _ = trained._train(train, None, 2, hidden(), best + 1, seed=0)
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in head.state_dict().items())


def test_too_few_images_to_leave_any_out_take_all_epochs() -> None:
    pair = FeatureSet(np.eye(2, dtype=np.float32), np.arange(2), np.ones(2))
    head, rows = train_head(pair, 2, hidden(epochs=3), seed=0)
    expected, _ = trained._train(pair, None, 2, hidden(), 3, seed=0)
    assert rows == []
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in head.state_dict().items())


def test_hidden_layers_that_diverge_are_an_error() -> None:
    with pytest.raises(TrainingError, match=r"head: the loss is not finite in epoch \d+; lower head.lr \(now 1e\+30\)"):
        train_head(xor(60, 0), 2, hidden(lr=1e30), seed=0)


def test_a_head_has_the_layers_that_it_was_asked_for() -> None:
    assert isinstance(build_head(6, 3, [], 0.5), nn.Linear)
    head = build_head(6, 3, [5, 4], 0.5)
    shapes = [tuple(layer.weight.shape) for layer in head.modules() if isinstance(layer, nn.Linear)]
    assert shapes == [(5, 6), (4, 5), (3, 4)]
    assert sum(isinstance(layer, nn.Dropout) for layer in head.modules()) == 3


def test_soft_targets_put_the_doubt_on_the_other_classes() -> None:
    targets = soft_targets(np.array([0, 2]), np.array([1.0, 0.7]), 4)
    np.testing.assert_allclose(targets, [[1.0, 0.0, 0.0, 0.0], [0.1, 0.1, 0.7, 0.1]], atol=1e-7)
    smoothed = soft_targets(np.array([0]), np.array([1.0]), 4, smoothing=0.2)
    np.testing.assert_allclose(smoothed, [[0.85, 0.05, 0.05, 0.05]], atol=1e-7)


def test_smoothed_targets_give_torchs_own_label_smoothing() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    labels = np.array([0, 1, 2, 3, 0])
    ours = nn.functional.cross_entropy(logits, soft_targets(labels, np.ones(5), 4, 0.1))
    reference = nn.functional.cross_entropy(logits, torch.from_numpy(labels), label_smoothing=0.1)
    torch.testing.assert_close(ours, reference)


def test_the_log_loss_is_torchs_and_survives_large_logits() -> None:
    logits = np.array([[1000.0, 0.0], [0.0, -1000.0], [1.0, 2.0]])
    labels = np.array([1, 0, 1])
    reference = nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
    assert cross_entropy(logits, labels) == pytest.approx(float(reference))


def cosine(**changes: Any) -> HeadParams:
    return hidden(**({"hidden": [], "kind": "cosine"} | changes))


def test_a_cosine_head_gives_scaled_cosines_and_forgets_lengths() -> None:
    torch.manual_seed(0)
    head = build_head(5, 3, [], 0.0, kind="cosine").eval()
    assert isinstance(head, CosineHead)
    features = torch.randn(4, 5)
    expected = 10 * functional.cosine_similarity(features[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head(features), expected)
    torch.testing.assert_close(head(7 * features), expected)


def test_a_trained_cosine_head_knows_the_classes_and_moves_its_scale() -> None:
    train, val = blobs(150, 3), blobs(90, 3, seed=1)
    head, rows = train_head(train, 3, cosine(), seed=0)
    assert isinstance(head, CosineHead)
    logits = logits_of(head, val.features)
    assert (logits.argmax(axis=1) == val.labels).mean() > 0.9
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    assert float(head.log_scale.detach().exp()) > 11


def test_a_cosine_head_starts_from_the_mean_directions_of_the_classes() -> None:
    train = blobs(60, 3)
    head, _ = train_head(train, 3, cosine(epochs=1, lr=1e-9), seed=0)
    for label in range(3):
        rows = train.features[train.labels == label].astype(np.float64)
        mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)
        np.testing.assert_allclose(head.state_dict()["weight"][label], mean / np.linalg.norm(mean), atol=1e-5)


def test_the_scale_of_a_cosine_head_does_not_decay() -> None:
    train = blobs(60, 2)
    torch.manual_seed(0)
    still = replace(train, features=np.zeros_like(train.features))  # no cosine but 0, so no gradient
    head, _ = train_head(still, 2, cosine(epochs=3, lr=0.5), seed=0)
    assert float(head.state_dict()["log_scale"].exp()) == pytest.approx(10)


@pytest.mark.parametrize("kind", ["mlp", "cosine"])
def test_a_class_without_training_images_cannot_be_trained(kind: str) -> None:
    params = cosine() if kind == "cosine" else hidden()
    with pytest.raises(TrainingError, match="1 of 3 classes have no training image"):
        train_head(blobs(40, 2), 3, params, seed=0)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_dropout_acts_before_a_head_of_one_layer_while_it_trains_only(kind: str) -> None:
    torch.manual_seed(0)
    head, plain = (build_head(200, 3, [], share, kind=kind) for share in (0.5, 0.0))
    head.load_state_dict(plain.state_dict())  # tensors of the same names
    features = torch.randn(4, 200)
    assert torch.equal(head.eval()(features), plain(features))
    assert not torch.allclose(head.train()(features), head(features))
    with torch.no_grad():
        many = torch.stack([head(features) for _ in range(4000)]).mean(dim=0)
    if kind == "linear":  # what is kept is scaled up, so the mean is that without dropout
        torch.testing.assert_close(many, plain(features).detach(), atol=0.05, rtol=0)
