"""Mistakes that other tools made and that no other test here holds alone; docs/pitfalls.md lists all of them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests import tiny
from tests.unit.test_training_loop import RULES, Points, labelled, nothing, phase
from thaw.activations.prefix import Prefix, Views
from thaw.activations.sources import Fresh
from thaw.config.schema import PhaseParams
from thaw.networks.backbone import Backbone
from thaw.pipeline import artifacts
from thaw.training.batches import Task
from thaw.training.groups import Rule, lowest_block, param_groups, rules_of
from thaw.training.loop import Classifier, Phase
from thaw.training.optimizer import Stepper
from thaw.training.phase import run_phase
from thaw.training.schedule import rate_factor


class Noisy(nn.Module):
    """Two blocks, each of which drops what it sees and moves statistics while it trains."""

    def __init__(self) -> None:
        super().__init__()
        layers = (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5))
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Sequential(*copy.deepcopy(layers))) for _ in range(2)))

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.blocks(images)
        return maps.mean((2, 3))


@pytest.mark.parametrize("traced", [True, False])
def test_what_is_random_in_training_is_still_in_a_frozen_block(traced: bool) -> None:
    network = Backbone(Noisy().eval(), tiny.backbone().spec)
    images = torch.randn(2, 3, 8, 8)
    prefix, suffix = network.split(1) if traced else network._uncut(1)
    lower = network.module.get_submodule("blocks.0")
    before = {name: value.clone() for name, value in lower.state_dict().items()}
    suffix.train()
    if traced:
        assert torch.equal(prefix(images)[0], prefix(images)[0])
    else:
        assert torch.equal(lower(images), lower(images))
    assert not torch.equal(suffix(*prefix(images)), suffix(*prefix(images)))  # the block above drops what it sees
    assert all(torch.equal(value, before[name]) for name, value in lower.state_dict().items())


def saved_bytes(run: Callable[[], Tensor]) -> int:
    """Return the bytes of activations that autograd keeps for the way back through what `run` computes."""
    kept = 0

    def pack(value: Tensor) -> Tensor:
        nonlocal kept
        kept += 0 if isinstance(value, nn.Parameter) else value.numel() * value.element_size()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        run()
    return kept


@pytest.mark.usefixtures("scratch")
def test_a_trainable_norm_below_the_cut_keeps_no_graph_alive() -> None:
    network, images, rows = tiny.backbone(), tiny.packed(), np.arange(4)
    for name, parameter in network.module.named_parameters():
        parameter.requires_grad_(name.startswith(("bn1", "layer4")))
    views = Views(images, network.spec, 0, tiny.augment())
    lower, suffix = network.split(1)
    model = Classifier(suffix, nn.Linear(network.num_features, 3))
    source = Fresh(Prefix(views, lower, identity="weights", compute=tiny.TORCH, suffix=model))
    boundary = source.batch(rows, np.zeros(4, np.int64))
    assert not any(value.requires_grad for value in boundary)
    whole = saved_bytes(lambda: network.module.train()(views.plain(rows)))
    ours = saved_bytes(lambda: model.train()(*boundary))
    alone = saved_bytes(lambda: model.train()(*(torch.zeros_like(value) for value in boundary)))
    assert ours == alone < whole / 20


def test_each_phase_has_an_optimizer_and_a_schedule_of_its_own(tmp_path: Path) -> None:
    first = phase(tmp_path / "first", epochs=2)
    first.run((Points(), labelled()), (Points(), labelled()), nothing)
    assert first.stepper.optimizer.state
    second = Phase(
        "mid", first.model, tiny.phase(views=1, lr=0.01, epochs=2), RULES, task=Task(2, 1), seed=0,
        device=torch.device("cpu"), folder=tmp_path / "second",
    )  # fmt: skip
    assert second.stepper.optimizer is not first.stepper.optimizer
    assert not second.stepper.optimizer.state
    seen: list[float] = []
    second.stepper.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append(max(group["lr"] for group in optimizer.param_groups))
    )
    second.run((Points(), labelled()), (Points(), labelled()), nothing)
    assert seen == [pytest.approx(0.01 * rate_factor(step, 10, 0.2)) for step in range(10)]


def test_a_block_that_joins_later_has_its_ratio_to_the_rate_of_the_head_at_that_step() -> None:
    network = tiny.backbone()
    params = tiny.phase(depth=3, unfreeze_every=1, epochs=4, lr_scale=0.5)
    rules = rules_of(params, network, network.cut_index(3))
    run = Stepper(Classifier(network.split(3)[1], nn.Linear(network.num_features, 3)), rules, params, {})
    for epoch in (1, 2, 3, 4):
        for step in range(5 * epoch - 5, 5 * epoch):
            run.set_rates(step, 20, epoch)
            head, *joined = sorted({group["lr"] for group in run.optimizer.param_groups if group["lr"]}, reverse=True)
            np.testing.assert_allclose(joined, [head * 0.5**distance for distance in range(1, min(epoch, 3) + 1)])


@pytest.mark.usefixtures("scratch")
def test_what_is_tried_before_a_phase_changes_no_tensor_and_draws_no_random_number() -> None:
    network = tiny.backbone()
    lower, suffix = network.split(2)
    model = Classifier(suffix, nn.Linear(network.num_features, 3))
    before = model.state_dict() | network.module.state_dict()
    tensors = {name: value.clone() for name, value in before.items()}
    random = torch.get_rng_state()
    views = Views(tiny.packed(), network.spec, 0, tiny.augment())
    trial = Prefix(views, lower, identity="weights", compute=tiny.TORCH, suffix=model).trial
    assert trial.seconds_an_image > 0
    assert torch.equal(torch.get_rng_state(), random)
    after = model.state_dict() | network.module.state_dict()
    assert all(torch.equal(value, tensors[name]) for name, value in after.items())


def test_a_phase_never_looks_at_a_test_image(scratch: Path) -> None:
    def trained(noise: int) -> Any:
        artifacts.remove(scratch)  # or the second run would take up the checkpoint of the first
        images = tiny.packed(30, split=(["train"] * 6 + ["val"] * 3 + ["test"] * 6) * 2)
        images.shards[0][images.rows("test")] = noise
        network = tiny.backbone()
        return run_phase(
            "top", tiny.phase(depth=1, epochs=2, warm_start=True), images=images, backbone=network,
            start=tiny.start(network), augment=tiny.augment(), seed=0, compute=tiny.TORCH, on_epoch=lambda _: None,
        )  # fmt: skip

    one, other = trained(0), trained(255)
    assert one.curves == other.curves
    assert all(torch.equal(value, other.outcome.tensors[name]) for name, value in one.outcome.tensors.items())


def test_the_weights_of_classes_count_once_in_training_and_never_in_validation(tmp_path: Path) -> None:
    def losses(weights: Tensor | None) -> tuple[float, float]:
        run = phase(tmp_path / str(weights), epochs=1, batch_size=20)
        run.task = Task(2, 1, weights)
        logits = torch.from_numpy(run.evaluate(Points(), labelled())[2])
        row = run.run((Points(), labelled()), (Points(), labelled()), nothing).curves
        targets = functional.one_hot(torch.from_numpy(labelled().labels), 2).float()
        expected = functional.cross_entropy(logits, targets, weight=weights)
        assert row[1]["train_loss"] == pytest.approx(float(expected), rel=1e-5)
        return row[0]["val_loss"], float(expected)

    plain, weighted = losses(None), losses(torch.tensor([1.0, 3.0]))
    assert plain[0] == weighted[0]
    assert plain[1] != weighted[1]


def test_the_average_of_the_weights_holds_buffers_starts_anew_and_leaves_what_is_frozen() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    rules = [Rule("frozen", r"0\..+", None), Rule("rest", ".+", 0.1)]
    params: PhaseParams = tiny.phase(ema=0.5, warmup=0.0, schedule="constant", weight_decay=0.5)
    frozen = copy.deepcopy(model[0].state_dict())
    run, means = Stepper(model, rules, params, {}), list[Tensor]()
    for step in range(3):
        run.take(model.train()(torch.randn(8, 2) + step).square().sum(), complete=True)
        means.append(model.get_buffer("1.running_mean").clone())
    judged = run.eval_model
    torch.testing.assert_close(judged.get_buffer("1.running_mean"), (means[0] + means[1]) / 4 + means[2] / 2)
    assert all(torch.equal(value, judged.get_submodule("0").state_dict()[name]) for name, value in frozen.items())
    assert Stepper(model, rules, params, {}).eval_model is model


def test_each_phase_cuts_the_network_anew_and_trains_all_that_its_rules_name() -> None:
    network, seen = tiny.backbone(), list[nn.Module]()
    norms_alone = [{"pattern": "layer4*bn*", "lr": 0.01}]
    for depth in (norms_alone, 1, 3):
        params = tiny.phase(depth=depth)
        index = lowest_block(params, network)
        lower, suffix = network.split(len(network.units) - index)
        model = Classifier(suffix, nn.Linear(network.num_features, 3))
        param_groups(model.named_parameters(), rules_of(params, network, index), 0.0)
        model.train()(*(value.clone() for value in lower(torch.randn(4, 3, 32, 32)))).square().mean().backward()
        for name, parameter in model.named_parameters():
            asked = depth != norms_alone or name.startswith("head") or ".bn" in name
            assert (parameter.grad is not None) == parameter.requires_grad == asked, name
            parameter.grad = None
        assert not any(suffix is other for other in seen)
        seen.append(suffix)
