"""Norm layers in training: frozen ones keep their statistics, followed ones update them as BatchNorm itself does."""

import copy
from collections.abc import Callable

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from thaw.training.norms import NormMode, follow_statistics, running_norms, train_with_norms

KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.BatchNorm1d(4), (6, 4)),
    "1d, sequences": (lambda: nn.BatchNorm1d(4, momentum=0.3), (6, 4, 5)),
    "2d": (lambda: nn.BatchNorm2d(4), (6, 4, 5, 3)),
    "2d without momentum": (lambda: nn.BatchNorm2d(4, momentum=None), (6, 4, 5, 3)),
    "3d": (lambda: nn.BatchNorm3d(4), (3, 4, 2, 2, 2)),
    "timm with activation": (lambda: BatchNormAct2d(4), (6, 4, 5, 3)),
    "synchronised": (lambda: nn.SyncBatchNorm(4), (6, 4, 5, 3)),
    "instance": (lambda: nn.InstanceNorm2d(4, track_running_stats=True), (6, 4, 5, 3)),
}
with_kinds = pytest.mark.parametrize("kind", list(KINDS))


def batches(shape: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator) * 3 + step for step in range(4)]


def train(module: nn.Module, shape: tuple[int, ...], mode: NormMode) -> list[Tensor]:
    """Push four batches through, as two epochs of training do, and return what came out."""
    outputs = []
    for epoch in (batches(shape)[:2], batches(shape)[2:]):
        train_with_norms(module, mode)
        hooks = follow_statistics(module) if mode == "stats" else []
        outputs += [module(batch) for batch in epoch]
        for hook in hooks:
            hook.remove()
    return outputs


def assert_same_state(left: nn.Module, right: nn.Module) -> None:
    others = right.state_dict()
    for name, value in left.state_dict().items():
        torch.testing.assert_close(value, others[name], rtol=1e-5, atol=1e-6, msg=name)


@with_kinds
def test_frozen_statistics_do_not_move_although_each_epoch_calls_train(kind: str) -> None:
    build, shape = KINDS[kind]
    module = nn.Sequential(build(), nn.Dropout(0.5))
    before = copy.deepcopy(module.state_dict())
    train(module, shape, "frozen")
    assert module.training
    assert module[1].training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@with_kinds
def test_followed_statistics_are_those_of_the_layers_own_update(kind: str) -> None:
    build, shape = KINDS[kind]
    ours, reference = nn.Sequential(build()), nn.Sequential(build())
    train(ours, shape, "stats")
    reference.train()
    for batch in batches(shape):
        reference(batch)
    assert_same_state(ours, reference)


@with_kinds
def test_followed_statistics_normalise_and_batch_statistics_do_not(kind: str) -> None:
    build, shape = KINDS[kind]
    module = nn.Sequential(build())
    reference = copy.deepcopy(module).eval()
    outputs = train(module, shape, "stats")
    # The statistics are updated by a batch before it is normalised, so the first one is not normalised by the start's.
    first = batches(shape)[0]
    train_with_norms(reference, "stats")
    hooks = follow_statistics(reference)
    torch.testing.assert_close(outputs[0], reference(first))
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(outputs[0], reference.eval()(first))


@with_kinds
def test_train_mode_is_the_layers_own(kind: str) -> None:
    build, shape = KINDS[kind]
    ours, reference = nn.Sequential(build()), nn.Sequential(build()).train()
    outputs = train(ours, shape, "train")
    for output, batch in zip(outputs, batches(shape), strict=True):
        torch.testing.assert_close(output, reference(batch))
    assert_same_state(ours, reference)


@pytest.mark.parametrize("mode", ["frozen", "stats", "train"])
def test_norms_without_running_statistics_are_the_same_in_every_mode(mode: NormMode) -> None:
    module = nn.Sequential(
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4),
        nn.LayerNorm([4, 5, 3]),
        nn.BatchNorm2d(4, track_running_stats=False),
    )
    assert not list(running_norms(module))
    outputs = train(module, (6, 4, 5, 3), mode)
    for output, batch in zip(outputs, batches((6, 4, 5, 3)), strict=True):
        assert torch.equal(output, module.eval()(batch))


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 1, 1)])
def test_following_the_statistics_of_a_single_value_changes_nothing(shape: tuple[int, ...]) -> None:
    module = nn.Sequential(nn.BatchNorm1d(4) if len(shape) == 2 else nn.BatchNorm2d(4))
    before = copy.deepcopy(module.state_dict())
    train(module, shape, "stats")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_statistics_are_no_part_of_the_gradient() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    train_with_norms(module, "stats")
    follow_statistics(module)
    module(batches((6, 3))[0]).square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert not any(buffer.requires_grad for buffer in module.buffers())


def test_hooks_are_gone_when_they_are_removed() -> None:
    module = nn.Sequential(nn.BatchNorm1d(4))
    train(module, (6, 4), "stats")
    before = copy.deepcopy(module.state_dict())
    module.eval()(batches((6, 4))[0])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
