"""What a checkpoint saves comes back bit for bit, and training goes on from it as if nothing had been."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from thaw.training import checkpoint

Bits = dict[str, tuple[torch.dtype, torch.Size, bytes]]

SIZES, SEEDS = st.integers(1, 3), st.integers(0, 2**31 - 1)
# The first is the one that phases use. Its kernel goes through a tensor and its moments in the order of memory.
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "fused": lambda groups: torch.optim.AdamW(groups, fused=True),
    "plain": lambda groups: torch.optim.AdamW(groups, amsgrad=True, foreach=False),
    "momentum": lambda groups: torch.optim.SGD(groups, momentum=0.9),
}


@dataclass
class Training:
    """A model in training on gradients drawn from a seed, in place of any that a network may have."""

    model: nn.Sequential
    optimizer: torch.optim.Optimizer

    def step(self, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        for group in self.optimizer.param_groups:
            group["lr"] = float(torch.rand((), generator=random))  # a phase sets the rate before each step
            for parameter in group["params"]:
                values = torch.randn(parameter.shape, generator=random)
                used = float(torch.rand((), generator=random)) < 0.8  # the others have no gradient in this step
                parameter.grad = torch.empty_like(parameter).copy_(values) if used else None
        self.optimizer.step()

    def bits(self) -> Bits:
        """Return every tensor of the model and the optimizer."""
        tensors = dict(self.model.state_dict())
        for name, parameter in self.model.named_parameters():
            entries = self.optimizer.state.get(parameter, {})
            tensors |= {f"{name}: {key}": torch.as_tensor(value) for key, value in entries.items()}
        return bits(tensors)


@dataclass(frozen=True)
class Recipe:
    """What is trained: layers, of which the first few are frozen, and an optimizer."""

    layers: list[nn.Module]
    num_frozen: int
    optimizer: str

    def start(self, seed: int) -> Training:
        """Return a new model with values of a seed, and an optimizer that has taken no step."""
        model = nn.Sequential(*copy.deepcopy(self.layers))
        fill(model, seed)
        trained = list(model[self.num_frozen :].parameters())
        matrices, vectors = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim == 1]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        return Training(model, OPTIMIZERS[self.optimizer]([group for group in groups if group["params"]]))


def bits(tensors: dict[str, Tensor]) -> Bits:
    return {
        name: (value.dtype, value.shape, value.detach().contiguous().numpy().tobytes())
        for name, value in tensors.items()
    }


def fill(model: nn.Module, seed: int) -> None:
    """Give every tensor of a model, buffers included, arbitrary values in place."""
    random = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=random, dtype=value.dtype))
        else:
            value.copy_(torch.randint(2**53, value.shape, generator=random))


def conv(inner: int, outer: int, kernel: int, bias: bool, layout: torch.memory_format) -> nn.Module:
    return nn.Conv2d(inner, outer, kernel, bias=bias).to(memory_format=layout)


LAYERS = st.one_of(
    st.builds(
        conv, SIZES, SIZES, SIZES, st.booleans(), st.sampled_from([torch.channels_last, torch.contiguous_format])
    ),
    st.builds(nn.Linear, SIZES, SIZES, bias=st.booleans()),
    st.builds(nn.BatchNorm2d, SIZES),
    st.builds(nn.LayerNorm, SIZES),
).flatmap(lambda layer: st.sampled_from([torch.float32, torch.float32, torch.float64]).map(layer.to))


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    layers = draw(st.lists(LAYERS, min_size=1, max_size=4))
    return Recipe(layers, draw(st.integers(0, len(layers) - 1)), draw(st.sampled_from(list(OPTIMIZERS))))


CHANNELS_LAST = Recipe([conv(2, 3, 3, True, torch.channels_last), nn.BatchNorm2d(3)], 0, "fused")


@settings(max_examples=50)
@given(recipe=recipes(), seed=SEEDS, steps=st.lists(SEEDS, max_size=3))
@example(recipe=CHANNELS_LAST, seed=0, steps=[1])
def test_model_and_optimizer_come_back_bit_for_bit(
    recipe: Recipe, seed: int, steps: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "checkpoint"
    before, after = recipe.start(seed), recipe.start(seed + 1)
    for step in steps:
        before.step(step)
    expected = before.bits()
    checkpoint.save(folder, before.model, before.optimizer, {})
    assert before.bits() == expected
    assert checkpoint.restore(folder, after.model, after.optimizer) == {}
    assert after.bits() == expected


@settings(max_examples=50)
@given(recipe=recipes(), seed=SEEDS, steps=st.lists(SEEDS, min_size=1, max_size=4))
@example(recipe=CHANNELS_LAST, seed=0, steps=[1, 2])
def test_a_further_step_is_the_same_as_without_a_checkpoint(
    recipe: Recipe, seed: int, steps: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "checkpoint"
    through, stopped, resumed = recipe.start(seed), recipe.start(seed), recipe.start(seed + 1)
    for step in steps[:-1]:
        through.step(step)
        stopped.step(step)
    checkpoint.save(folder, stopped.model, stopped.optimizer, {})
    assert checkpoint.restore(folder, resumed.model, resumed.optimizer) is not None
    for training in (through, resumed):
        training.step(steps[-1])
    assert resumed.bits() == through.bits()


VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)


@settings(max_examples=50)
@given(
    recipe=recipes(),
    seed=SEEDS,
    state=st.dictionaries(st.text(max_size=5), VALUES | st.lists(st.dictionaries(st.text(max_size=5), VALUES))),
)
def test_the_tensors_and_the_counters_of_the_last_checkpoint_come_back(
    recipe: Recipe, seed: int, state: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "checkpoint"
    training = recipe.start(seed)
    checkpoint.save(folder, training.model, training.optimizer, {"epoch": 0})
    training.step(seed)
    checkpoint.save(folder, training.model, training.optimizer, state)
    last = checkpoint.trained_tensors(training.model)
    expected = bits(last)
    fill(training.model, seed + 1)
    assert bits(last) == expected, "a copy, which what comes after leaves alone"
    found = checkpoint.restore(folder, training.model, training.optimizer)
    assert bits(training.model.state_dict()) == expected
    assert found == state
    assert json.dumps(found) == json.dumps(state)


def test_a_checkpoint_that_a_killed_save_had_put_aside_is_resumed_from(tmp_path: Path, scratch: Path) -> None:
    folder, trained, resumed = tmp_path / "part-00", CHANNELS_LAST.start(0), CHANNELS_LAST.start(1)
    trained.step(1)
    checkpoint.save(folder, trained.model, trained.optimizer, {"epoch": 3})
    folder.rename(tmp_path / ".part-00.old.partial")  # where a kill between the two renames of a save leaves it
    assert checkpoint.restore(folder, resumed.model, resumed.optimizer) == {"epoch": 3}
    assert resumed.bits() == trained.bits()
    checkpoint.save(folder, trained.model, trained.optimizer, {"epoch": 4})
    assert checkpoint.restore(folder, resumed.model, resumed.optimizer) == {"epoch": 4}
    assert [path.name for path in tmp_path.iterdir() if path != scratch] == ["part-00"]


def test_a_running_average_comes_back_beside_the_model(tmp_path: Path) -> None:
    model, average = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2))
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint.save(tmp_path / "kept", model, optimizer, {"epoch": 2}, average)
    others = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2)]
    optimizer = torch.optim.AdamW(others[0].parameters())
    assert checkpoint.restore(tmp_path / "kept", others[0], optimizer, others[1]) == {"epoch": 2}
    for ours, theirs in zip((model, average), others, strict=True):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name
    assert not torch.equal(others[0].state_dict()["0.weight"], others[1].state_dict()["0.weight"])
