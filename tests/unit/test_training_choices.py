"""What a phase may be asked for beside depth and rate: each choice changes the training run in the way it says."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tests.unit.test_training_loop import Points, labelled, nothing, phase
from thaw.augment.draws import balanced_order, generator
from thaw.errors import ParamsError
from thaw.training import checkpoint
from thaw.training.groups import Rule, rules_of
from thaw.training.loop import Classifier
from thaw.training.loss import class_weights, cutmix, map_axes, mix, mixup, require_maps
from thaw.training.optimizer import Stepper
from thaw.training.schedule import rate_factor


def trained(folder: Path, **changes: Any) -> dict[str, Tensor]:
    """Return the tensors after one epoch, whether it helped or not."""
    settings = {"epochs": 1, "warmup": 0.6, **changes}
    phase(folder, **settings).run((Points(), labelled()), (Points(), labelled(flipped=True)), nothing)
    run = phase(folder, **settings)  # from the checkpoint, since the phase itself went back to its best epoch
    assert checkpoint.restore(run.folder, run.model, run.stepper.optimizer, run.stepper.average) is not None
    return checkpoint.trained_tensors(run.stepper.eval_model)


def distance(tensors: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    return sum(float((value.double() - others[name].double()).norm()) for name, value in tensors.items())


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "sgd"},
        {"schedule": "one-cycle"},
        {"schedule": "constant"},
        {"grad_clip": 0.01},
        {"accumulate": 2},
        {"ema": 0.9},
        {"mixup": 1.0},
        {"balanced_sampler": True},
        {"label_smoothing": 0.2},
        {"weight_decay": 0.5},
    ],
)
def test_each_choice_has_an_effect(tmp_path: Path, change: dict[str, Any]) -> None:
    assert distance(trained(tmp_path / "without"), trained(tmp_path / "with", **change)) > 1e-6


@pytest.mark.parametrize("change", [{"ema": 0.9}, {"optimizer": "sgd", "accumulate": 2, "mixup": 0.4}])
def test_a_resumed_phase_equals_an_uninterrupted_one(tmp_path: Path, change: dict[str, Any]) -> None:
    whole = phase(tmp_path / "whole", epochs=4, **change).run((Points(), labelled()), (Points(), labelled()), nothing)

    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        phase(tmp_path, epochs=4, **change).run((Points(), labelled()), (Points(), labelled()), stop)
    resumed = phase(tmp_path, epochs=4, **change).run((Points(), labelled()), (Points(), labelled()), nothing)
    assert resumed.curves == whole.curves
    assert all(torch.equal(value, whole.tensors[name]) for name, value in resumed.tensors.items())


def stepper(model: nn.Module, **changes: Any) -> Stepper:
    params = tiny.phase(weight_decay=0.0, warmup=0.0, schedule="constant", **changes)
    return Stepper(model, [Rule("all", ".+", 0.1)], params, {"weight": torch.zeros(1, 2)})


def test_gradients_of_accumulated_batches_are_averaged() -> None:
    both, one = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    one.load_state_dict(both.state_dict())
    parts, whole = stepper(both, accumulate=2, optimizer="sgd"), stepper(one, optimizer="sgd")
    inputs = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    parts.take(both(inputs[:1]).sum(), complete=False)
    assert torch.equal(both.weight, one.weight)
    parts.take(both(inputs[1:]).sum(), complete=True)
    whole.take(one(inputs).sum() / 2, complete=True)
    torch.testing.assert_close(both.weight, one.weight)


def test_a_clipped_gradient_has_the_norm_asked_for() -> None:
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    clipped = stepper(model, grad_clip=0.5, optimizer="sgd")
    for group in clipped.optimizer.param_groups:
        group.update(momentum=0.0, nesterov=False)
    clipped.take(100 * model(torch.ones(1, 2)).sum(), complete=True)
    assert float((model.weight.detach() - before).norm()) == pytest.approx(0.1 * 0.5, rel=1e-4)


def test_l2_sp_pulls_towards_the_pretrained_weights() -> None:
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    pulled = stepper(model, l2_sp=1.0, optimizer="sgd")
    for group in pulled.optimizer.param_groups:
        group.update(momentum=0.0, nesterov=False)
    pulled.take(0 * model(torch.ones(1, 2)).sum(), complete=True)
    torch.testing.assert_close(model.weight, torch.full((1, 2), 0.9))  # 1 - lr * l2_sp * (1 - 0)


def test_the_average_follows_the_weights_at_its_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    averaged = stepper(model, ema=0.75, optimizer="sgd")
    assert averaged.eval_model is model
    seen = []
    for _ in range(3):
        averaged.take(model(torch.ones(1, 1)).sum(), complete=True)
        seen.append(float(model.weight.detach()))
    expected = seen[0]
    for value in seen[1:]:
        expected = 0.75 * expected + 0.25 * value
    judged = averaged.eval_model
    assert isinstance(judged, nn.Linear)
    assert float(judged.weight.detach()) == pytest.approx(expected, rel=1e-5)


def test_a_block_stays_as_it_is_until_its_epoch() -> None:
    network = tiny.backbone()
    params = tiny.phase(depth=2, unfreeze_every=2, epochs=4)
    model = Classifier(network.split(2)[1], nn.Linear(network.num_features, 3))
    run = Stepper(model, rules_of(params, network, network.cut_index(2)), params, {})
    upper, lower = network.blocks[-1], network.blocks[-2]
    for epoch, rates in ((1, (True, False)), (2, (True, False)), (3, (True, True))):
        before = {name: value.clone() for name, value in model.named_parameters()}
        factor = run.set_rates(epoch, 10, epoch)
        shown = run.rates(factor, epoch)
        assert (shown[f"lr:{upper}"] > 0, shown[f"lr:{lower}"] > 0) == rates
        boundary = network.split(2)[0](torch.randn(2, 3, 40, 40))
        run.take(model(*boundary).square().mean(), complete=True)
        moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
        of = {name: network.block_of(name.removeprefix("backbone.")) for name in moved if name.startswith("backbone.")}
        assert (len(network.blocks) - 2 in of.values()) == rates[1]
        assert len(network.blocks) - 1 in of.values()


def test_schedules_end_where_they_say() -> None:
    one_cycle = [rate_factor(step, 100, 0.3, "one-cycle") for step in range(100)]
    assert one_cycle[0] < 0.06
    assert max(one_cycle) == one_cycle[29] == 1
    assert one_cycle[-1] < 0.001
    assert [rate_factor(step, 10, 0.2, "constant") for step in range(10)] == [0.5] + [1.0] * 9


def test_a_balanced_order_sees_each_class_equally_often() -> None:
    labels = np.array([0] * 900 + [1] * 100)
    drawn = balanced_order(labels, seed=0, phase="top", epoch=1)
    assert len(drawn) == 1000
    assert labels[drawn].mean() == pytest.approx(0.5, abs=0.05)
    assert not np.array_equal(drawn, balanced_order(labels, seed=0, phase="top", epoch=2))


def test_class_weights_are_inverse_to_the_classes_shares_or_as_named() -> None:
    labels, classes = np.array([0, 0, 0, 1]), ["car", "truck"]
    assert class_weights("none", labels, classes) is None
    balanced = class_weights("balanced", labels, classes)
    assert balanced is not None
    torch.testing.assert_close(balanced, torch.tensor([4 / 6, 2.0]))
    named = class_weights({"truck": 3.0}, labels, classes)
    assert named is not None
    assert named.tolist() == [1, 3]
    with pytest.raises(ParamsError, match="class_weights names 'trunk', which is no class; did you mean 'truck'"):
        class_weights({"trunk": 3.0}, labels, classes)


def test_mixup_mixes_examples_and_targets_alike() -> None:
    values, targets = torch.eye(4).reshape(4, 4, 1, 1), torch.eye(4)
    (mixed,), mixed_targets = mixup([values], targets, 1.0, np.random.default_rng(0))
    torch.testing.assert_close(mixed.reshape(4, 4), mixed_targets)
    assert not torch.equal(mixed_targets, targets)
    torch.testing.assert_close(mixed_targets.sum(dim=1), torch.ones(4))


def test_cutmix_pastes_one_box_of_another_example_and_mixes_targets_by_its_area() -> None:
    values, targets = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 2, 8, 8), torch.eye(4)
    sizes = set()
    for seed in range(20):
        (mixed,), mixed_targets = cutmix([values], targets, 1.0, np.random.default_rng(seed))
        for row in range(4):
            (own, other), share = mixed_targets[row].topk(2).indices, mixed_targets[row].max()
            pasted = mixed[row, 0] != values[row, 0]
            assert torch.equal(mixed[row, 0], mixed[row, 1])
            if not pasted.any():  # the box is empty, or the partner is the example itself
                assert share == 1
                continue
            partner = int(mixed[row, 0][pasted][0])
            assert {int(own), int(other)} == {row, partner}
            assert float(mixed_targets[row, partner]) == pytest.approx(float(pasted.float().mean()), abs=1e-6)
            rows, columns = (pasted.any(dim=axis).nonzero().flatten() for axis in (1, 0))
            assert int(pasted.sum()) == len(rows) * len(columns) == len(range(rows[0], rows[-1] + 1)) * len(columns)
            sizes.add(int(pasted.sum()))
    assert len(sizes) > 5


def test_the_box_of_cutmix_lies_in_the_same_place_of_each_tensor_whatever_its_cells_and_axes() -> None:
    fine = torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, 3, 16, 16)
    coarse, last = fine[:, :, ::2, ::2], fine.permute(0, 2, 3, 1)
    seen = 0
    for seed in range(20):
        mixed, targets = cutmix([fine, coarse, last], torch.eye(2), 1.0, np.random.default_rng(seed))
        pasted = [mixed[0][0, 0] != 0, mixed[1][0, 0] != 0, mixed[2][0, :, :, 0] != 0]
        assert torch.equal(pasted[0], pasted[2])
        shares = [float(part.float().mean()) for part in pasted]
        assert float(targets[0, 1]) == pytest.approx(np.mean(shares), abs=1e-6)
        seen += 0 < shares[0] < 1
        if shares[0] and shares[1]:
            for axis in (0, 1):
                small, large = (part.any(dim=axis).nonzero().flatten() for part in (pasted[1], pasted[0]))
                assert abs(int(large[0]) - 2 * int(small[0])) <= 1
                assert abs(int(large[-1]) - (2 * int(small[-1]) + 1)) <= 1
    assert seen > 5


def test_cutmix_leaves_the_activations_that_it_was_given() -> None:
    values = torch.randn(4, 2, 8, 8)
    before = values.clone()
    (mixed,), _ = cutmix([values], torch.eye(4), 1.0, np.random.default_rng(2))
    assert torch.equal(values, before)
    assert not torch.equal(mixed, values)


def test_a_batch_gets_mixup_or_cutmix_where_both_are_set_each_in_about_half_of_them() -> None:
    values, targets = torch.randn(6, 2, 8, 8), torch.eye(6)
    params = tiny.phase(mixup=1.0, cutmix=1.0)
    kinds = []
    for step in range(100):
        (mixed,), _ = mix([values], targets, params, functools.partial(_generator, step))
        mixture = mixup([values], targets, 1.0, generator(0, "top", "mixup", step))[0][0]
        box = cutmix([values], targets, 1.0, generator(0, "top", "cutmix", step))[0][0]
        assert torch.equal(mixed, mixture) or torch.equal(mixed, box)
        kinds.append(torch.equal(mixed, mixture))
    assert 35 < sum(kinds) < 65
    neither = mix([values], targets, tiny.phase(), functools.partial(_generator, 0))
    assert neither[0][0] is values
    assert neither[1] is targets


def _generator(step: int, what: str) -> np.random.Generator:
    return generator(0, "top", what, step)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((64, 7, 7), (1, 2)), ((7, 7, 64), (0, 1)), ((197, 192), None), ((64,), None), ((64, 1, 1), None)],
)
def test_a_map_has_rows_and_columns_channels_first_or_last(
    shape: tuple[int, ...], axes: tuple[int, int] | None
) -> None:
    assert map_axes(shape) == axes


def test_tokens_at_the_cut_cannot_be_cut_and_the_error_says_what_to_do() -> None:
    require_maps("top", [(64, 7, 7), (3, 32, 32)])
    with pytest.raises(
        ParamsError,
        match=r"unfreeze.phases.top.cutmix needs rows and columns .* activation at the cut is 197x192 .* use mixup",
    ):
        require_maps("top", [(64, 7, 7), (197, 192)])
