"""A rate that is found: on a copy, the same for the same seed, and used as if it had been given."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tests.unit.test_training_loop import Points, labelled, nothing
from thaw.errors import TrainingError
from thaw.training import loop
from thaw.training.batches import Batches, Task
from thaw.training.groups import Rule
from thaw.training.loop import Classifier, Phase, Result
from thaw.training.optimizer import Stepper
from thaw.training.range_test import RangeTest, choose, find_rate


def phase(folder: Path, **changes: Any) -> Phase:
    """Return a phase with dropout and batch norm, whose rates are shares of the one given."""
    torch.manual_seed(0)
    suffix = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2))
    params = tiny.phase(**{"views": 2, "epochs": 3, "lr": "auto", "norm": "train", **changes})
    lr = 1.0 if params.lr == "auto" else params.lr
    rules = [Rule("head", r"head\..+", lr), Rule("block", r"backbone\..+", 0.5 * lr)]
    return Phase(
        "top", Classifier(suffix, nn.Linear(8, 2)), params, rules, task=Task(2, 1), seed=0,
        device=torch.device("cpu"), folder=folder / "checkpoint",
    )  # fmt: skip


def run(one: Phase, on_epoch: Any = nothing) -> Result:
    return one.run((Points(), labelled(40)), (Points(), labelled(20)), on_epoch)


def search(one: Phase, confidence: float = 1.0) -> RangeTest:
    examples = labelled(40, confidence=confidence)
    batches = Batches("top", one.params, one.task, (Points(), examples), seed=0, device=one.device)
    return find_rate(one.model, lambda model: Stepper(model, one._rules, one.params, {}), batches)


def bits(one: Phase) -> dict[str, bytes]:
    """Return every tensor of the model, its gradients, its optimizer and the random state, as bytes."""
    found: dict[str, Tensor] = dict(one.model.state_dict()) | {"random": torch.get_rng_state()}
    for name, parameter in one.model.named_parameters():
        found |= {
            f"{name}: {key}": torch.as_tensor(value) for key, value in one.stepper.optimizer.state[parameter].items()
        }
        if parameter.grad is not None:
            found[f"{name}: gradient"] = parameter.grad
    return {name: value.detach().numpy().tobytes() for name, value in found.items()}


@pytest.mark.parametrize("norm", ["frozen", "stats", "train"])
def test_the_search_leaves_model_optimizer_and_random_state_as_they_were_bit_for_bit(tmp_path: Path, norm: str) -> None:
    one = phase(tmp_path, norm=norm, l2_sp=0.1, ema=0.5)
    one.stepper.set_rates(3, 10, 1)
    one.stepper.take(one.model(torch.randn(4, 3)).square().mean(), complete=True)
    one.model(torch.randn(4, 3)).mean().backward()
    one.model.eval()
    before, rates = bits(one), [group["lr"] for group in one.stepper.optimizer.param_groups]
    assert len(before) > 20
    found = search(one)
    assert len(found.points) > 10
    assert bits(one) == before
    assert [group["lr"] for group in one.stepper.optimizer.param_groups] == rates
    assert not one.model.training


def test_a_phase_with_a_rate_that_was_found_is_the_phase_with_that_rate_given(tmp_path: Path) -> None:
    found = run(phase(tmp_path / "found"))
    assert found.range_test is not None
    given = run(phase(tmp_path / "given", lr=found.range_test.lr))
    assert given.range_test is None
    assert given.curves == found.curves
    assert all(torch.equal(value, given.tensors[name]) for name, value in found.tensors.items())
    assert max(row["lr:block"] for row in found.curves) == pytest.approx(
        0.5 * max(row["lr:head"] for row in found.curves)
    )


def test_the_same_seed_finds_the_same_rate_on_the_same_curve(tmp_path: Path) -> None:
    assert search(phase(tmp_path)) == search(phase(tmp_path))


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_an_interrupted_phase_does_not_search_again_and_ends_as_one_that_was_not(
    tmp_path: Path, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(phase(tmp_path / "whole"))

    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(phase(tmp_path), stop)
    monkeypatch.delattr(loop, "find_rate")
    resumed = run(phase(tmp_path))
    assert resumed.curves == whole.curves
    assert resumed.range_test == whole.range_test
    assert all(torch.equal(value, whole.tensors[name]) for name, value in resumed.tensors.items())


def test_rates_of_rules_stay_as_given_while_that_of_the_phase_is_found() -> None:
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "backbone": nn.Linear(2, 2)})
    rules = [Rule("head", r"head\..+", 1.0), Rule("norms", r"backbone\..+", 0.01, given=True)]
    one = Stepper(model, rules, tiny.phase(lr="auto", warmup=0.0, schedule="constant"), {})
    one.try_rate(0.5)
    assert sorted({group["lr"] for group in one.optimizer.param_groups}) == [0.01, 0.5]
    one.scale(0.2)
    one.set_rates(0, 1, 1)
    assert sorted({group["lr"] for group in one.optimizer.param_groups}) == [0.01, 0.2]
    assert one.rates(1.0, 1) == {"lr:head": 0.2, "lr:norms": 0.01}
    assert one.peak == 0.2


def points(*changes: float) -> list[tuple[float, float, float]]:
    return [(10 ** (number / 10 - 4), 0.5 + change, change) for number, change in enumerate(changes)]


def test_the_choice_is_a_tenth_of_the_rate_at_which_the_smoothed_loss_has_risen_by_a_quarter() -> None:
    falling, rising = [0.0] * 8 + [-0.1, -0.2, -0.1], [0.05, 0.1, 0.15, 0.2, 0.25, 0.3]
    found = choose("top", points(*falling, *rising))
    smoothed = [row["smoothed"] for row in found.points]
    assert smoothed[12] == pytest.approx(0.08)
    assert smoothed[13] == pytest.approx(0.15)  # the first above a quarter of 0.5
    assert found.lr == pytest.approx(10 ** (13 / 10 - 5), rel=0.02)
    assert [place for place, row in enumerate(found.points) if row["chosen"]] == [3]
    spike = [0.0] * 4 + [0.6] + [0.0] * 3 + falling[8:]  # one bad batch is no rise
    assert choose("top", points(*spike, *rising)).lr == found.lr
    quiet = [0.3 * change for change in falling]  # how far it falls before does not matter
    assert choose("top", points(*quiet, *rising)).lr == pytest.approx(found.lr, rel=0.3)


def test_a_loss_that_never_rises_gives_a_tenth_of_the_rate_at_its_minimum() -> None:
    assert choose("top", points(*[0.0] * 8, -0.1, -0.2, -0.3, -0.2, -0.1, *[0.0] * 5)).lr == pytest.approx(1e-4)


def test_a_loss_that_bursts_gives_a_tenth_of_the_last_rate_before() -> None:
    assert choose("top", points(*[0.0] * 11), burst=True).lr == pytest.approx(1e-4)


@pytest.mark.parametrize("changes", [(), (0.0, 0.0, 0.0)])
def test_a_test_that_shows_nothing_is_an_error_that_says_what_to_do(changes: tuple[float, ...]) -> None:
    with pytest.raises(TrainingError, match=r"top: lr is auto, but the range test shows nothing: .* give lr a number"):
        choose("top", points(*changes))


def test_the_search_stops_once_the_loss_has_risen_and_never_keeps_one_that_is_not_finite(tmp_path: Path) -> None:
    found = search(phase(tmp_path, optimizer="sgd"), confidence=0.7)  # doubtful labels: one can be too sure
    rates = [row["rate"] for row in found.points]
    assert len(rates) < 61
    assert all(later / earlier == pytest.approx(10**0.1) for earlier, later in itertools.pairwise(rates))
    one = phase(tmp_path)

    def spoil(batch: Tensor, call: int) -> Tensor:
        return batch * float("nan") if call > 40 else batch

    batches = Batches("top", one.params, one.task, (Points(spoil), labelled(40)), seed=0, device=one.device)
    cut = find_rate(one.model, lambda model: Stepper(model, one._rules, one.params, {}), batches)
    assert len(cut.points) == 40
    assert all(row["loss"] == row["loss"] for row in cut.points)


def test_the_change_is_to_the_start_on_the_same_batch_and_its_first_step_has_none(tmp_path: Path) -> None:
    one = phase(tmp_path, accumulate=2)
    found = search(one)
    assert found.points[0]["change"] == 0
    assert abs(found.points[1]["change"]) < 1e-4
    losses = [row["loss"] - row["change"] for row in found.points[:10]]
    assert len(set(losses)) == 10


def test_a_rate_that_was_found_trains_better_than_one_far_below_it(tmp_path: Path) -> None:
    found = run(phase(tmp_path / "found"))
    assert found.range_test is not None

    def best(lr: float) -> float:
        return min(row["val_loss"] for row in run(phase(tmp_path / f"{lr}", lr=lr)).curves)

    lr = found.range_test.lr
    assert best(lr) < 0.5 * best(lr / 300)
