import numpy as np
import torch
from torch import nn

from thaw.head.examples import FeatureSet
from thaw.head.linear import fit_linear
from thaw.training.warm_start import estimate_statistics, pooled, solve_head


def test_statistics_are_the_averages_over_the_batches() -> None:
    norm = nn.BatchNorm2d(3)
    batches = [torch.randn(8, 3, 4, 4) * 5 + 2 for _ in range(4)]
    estimate_statistics(norm, iter([batch] for batch in batches))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, torch.stack([batch.mean(dim=(0, 2, 3)) for batch in batches]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([batch.var(dim=(0, 2, 3)) for batch in batches]).mean(0))


def test_weights_and_momentum_stay_and_the_suffix_ends_in_eval_mode() -> None:
    suffix = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=0.01))
    before = {name: value.clone() for name, value in suffix.named_parameters()}
    estimate_statistics(suffix, iter([[torch.randn(4, 3, 2, 2)]]))
    assert all(torch.equal(value, before[name]) for name, value in suffix.named_parameters())
    assert suffix[1].momentum == 0.01
    assert not any(module.training for module in suffix.modules())


def test_dropout_has_no_part_in_the_statistics() -> None:
    batch = torch.randn(64, 3)
    norm = nn.BatchNorm1d(3)
    estimate_statistics(nn.Sequential(nn.Dropout(0.9), norm), iter([[batch]]))
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, batch.mean(0))


def test_features_come_out_in_the_order_of_the_batches() -> None:
    batches = [torch.full((2, 3), float(number)) for number in range(3)]
    assert pooled(nn.Identity(), iter([batch] for batch in batches))[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_solved_head_knows_the_classes_and_is_softer_than_the_best_fit() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(2000, 5)).astype(np.float32)
    labels = (features[:, 0] > 0).astype(np.int64)
    examples = FeatureSet(features, labels, np.ones(2000))
    head = nn.Linear(5, 2)
    solve_head(head, examples)
    weight = head.weight.detach().numpy()
    np.testing.assert_allclose(weight, fit_linear(examples, 2, strengths=(1.7 / 2000,)).weight, rtol=1e-5)
    best = fit_linear(examples, 2)
    assert np.abs(weight).max() < best.largest_weight / 2
    with torch.inference_mode():
        right = head(torch.from_numpy(features)).argmax(dim=1).numpy() == labels
    assert right.mean() > 0.9


def test_a_solved_head_is_as_soft_on_few_images_as_on_many() -> None:
    generator = np.random.default_rng(1)
    features = generator.normal(size=(100, 5)).astype(np.float32)
    labels = (features[:, 0] + 0.1 * features[:, 1] > 0).astype(np.int64)
    weights = []
    for copies in (1, 10):  # the same distribution, ten times the images
        head = nn.Linear(5, 2)
        many = FeatureSet(np.tile(features, (copies, 1)), np.tile(labels, copies), np.ones(100 * copies))
        solve_head(head, many)
        weights.append(head.weight.detach().numpy())
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-3)
