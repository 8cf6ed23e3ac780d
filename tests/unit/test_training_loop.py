"""Training on boundary tensors made by hand: divergence, the last epoch, rates, doubtful labels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests import tiny
from thaw.config.schema import PhaseParams
from thaw.data.packed import LabelledRows, Rows
from thaw.errors import TrainingError
from thaw.networks.model_files import round_matrices
from thaw.pipeline import artifacts
from thaw.training.batches import Task
from thaw.training.groups import Rule
from thaw.training.loop import Classifier, Phase
from thaw.training.schedule import rate_factor

RULES = [Rule("head", r"head\..+", 0.01), Rule("block", r"backbone\..+", 0.001)]


class Points:
    """Boundary tensors of a class each, the view added to the last number; and what was asked for."""

    def __init__(self, spoil: Callable[[Tensor, int], Tensor] = lambda batch, _: batch) -> None:
        self.spoil = spoil
        self.asked: list[tuple[list[int], list[int]]] = []

    def batch(self, rows: Rows, views: Rows) -> list[Tensor]:
        self.asked.append((rows.tolist(), views.tolist()))
        values = torch.from_numpy(np.stack([np.where(rows % 2, 1.0, -1.0), rows / 50, views / 10], axis=1)).float()
        return [self.spoil(values, len(self.asked))]


def labelled(num_rows: int = 20, *, confidence: float = 1.0, flipped: bool = False) -> LabelledRows:
    rows = np.arange(num_rows)
    return LabelledRows(rows, (rows + flipped) % 2, np.full(num_rows, confidence))


def phase(folder: Path, *, norm_layer: bool = False, rules: list[Rule] | None = None, **changes: object) -> Phase:
    torch.manual_seed(0)
    suffix = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4) if norm_layer else nn.Tanh())
    params: PhaseParams = tiny.phase(**{"views": 1, "lr": 0.01, **changes})
    return Phase(
        "top", Classifier(suffix, nn.Linear(4, 2)), params, rules or RULES, task=Task(2, 1), seed=0,
        device=torch.device("cpu"), folder=folder / "checkpoint",
    )  # fmt: skip


def nothing(row: dict[str, float]) -> None:
    pass


def test_the_start_is_evaluated_before_the_first_step(tmp_path: Path) -> None:
    run, rows = phase(tmp_path), list[dict[str, float]]()
    expected, accuracy, _ = run.evaluate(Points(), labelled())
    source = Points()
    result = run.run((source, labelled()), (Points(), labelled()), rows.append)
    assert rows == result.curves
    assert rows[0]["epoch"] == 0
    assert (rows[0]["val_loss"], rows[0]["val_accuracy"]) == (expected, accuracy)
    assert "train_loss" not in rows[0]


def test_the_log_loss_and_accuracy_are_those_of_the_logits(tmp_path: Path) -> None:
    examples = labelled(130)  # more than one batch of the evaluation
    loss, accuracy, logits = phase(tmp_path).evaluate(Points(), examples)
    labels = torch.from_numpy(examples.labels)
    assert loss == pytest.approx(float(functional.cross_entropy(torch.from_numpy(logits), labels)), rel=1e-5)
    assert accuracy == (logits.argmax(axis=1) == examples.labels).mean()
    assert logits.shape == (130, 2)


def test_training_separates_what_can_be_separated_and_leaves_the_last_epoch(tmp_path: Path) -> None:
    run = phase(tmp_path, epochs=30, lr=0.05, rules=[Rule("all", ".+", 0.05)])
    result = run.run((Points(), labelled()), (Points(), labelled()), nothing)
    assert [row["epoch"] for row in result.curves] == list(range(31))
    assert result.curves[-1]["val_accuracy"] == 1
    loss, _, logits = run.evaluate(Points(), labelled())
    assert loss == result.curves[-1]["val_loss"]
    np.testing.assert_array_equal(logits, result.val_logits)
    assert all(torch.equal(value, result.tensors[name]) for name, value in run.model.state_dict().items())


@pytest.mark.parametrize("looked_at", ["nothing", "the opposite"])
def test_validation_decides_nothing_of_a_phase(tmp_path: Path, looked_at: str) -> None:
    usual = phase(tmp_path / "usual", epochs=4, rules=[Rule("all", ".+", 0.5)])
    expected = usual.run((Points(), labelled()), (Points(), labelled()), nothing)
    other = phase(tmp_path / "other", epochs=4, rules=[Rule("all", ".+", 0.5)])
    val = None if looked_at == "nothing" else (Points(), labelled(flipped=True))
    result = other.run((Points(), labelled()), val, nothing)
    assert [row.get("train_loss") for row in result.curves] == [row.get("train_loss") for row in expected.curves]
    assert all(torch.equal(value, expected.tensors[name]) for name, value in result.tensors.items())
    if val is None:
        assert result.val_logits.shape == (0, 2)
        assert not any(key.startswith("val_") for row in result.curves for key in row)
    else:
        assert result.curves[-1]["val_loss"] > result.curves[0]["val_loss"], "what only harms is left all the same"


def test_a_loss_that_is_not_finite_stops_at_its_step_and_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    def spoil(batch: Tensor, call: int) -> Tensor:
        return batch * float("nan") if call == 5 + 3 else batch  # the third step of the second epoch

    run, rows = phase(tmp_path, epochs=4), list[dict[str, float]]()
    with pytest.raises(
        TrainingError, match=r"top: the loss is nan at step 3 of epoch 2; lower lr \(now 0.01\), or unfr"
    ):
        run.run((Points(spoil), labelled()), (Points(), labelled()), rows.append)
    assert [row["epoch"] for row in rows] == [0, 1]
    artifacts.verify(tmp_path / "checkpoint")
    assert artifacts.read_json(tmp_path / "checkpoint" / "state.json")["epoch"] == 1
    whole = phase(tmp_path / "other", epochs=4).run((Points(), labelled()), (Points(), labelled()), nothing)
    resumed = phase(tmp_path, epochs=4).run((Points(), labelled()), (Points(), labelled()), nothing)
    assert resumed.curves == whole.curves
    assert all(torch.equal(value, whole.tensors[name]) for name, value in resumed.tensors.items())


def test_a_rate_that_is_far_too_high_ends_in_an_error_not_in_nan(tmp_path: Path) -> None:
    def growing(batch: Tensor, _: int) -> Tensor:
        return batch * 1e20

    run = phase(tmp_path, epochs=5, rules=[Rule("all", ".+", 1e30)])
    with pytest.raises(TrainingError, match=r"is not finite|the loss is (nan|inf)"):
        run.run((Points(growing), labelled()), (Points(), labelled()), nothing)


def test_a_start_whose_loss_is_not_finite_is_refused_before_the_first_step(tmp_path: Path) -> None:
    source = Points()
    with pytest.raises(TrainingError, match="top: the validation loss is not finite before the first step"):
        phase(tmp_path).run((source, labelled()), (Points(lambda batch, _: batch * float("nan")), labelled()), nothing)
    assert not source.asked


def test_rates_keep_their_ratio_through_the_whole_schedule(tmp_path: Path) -> None:
    run = phase(tmp_path, epochs=4, warmup=0.25)
    seen: list[list[float]] = []
    run.stepper.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append([group["lr"] for group in optimizer.param_groups])
    )
    result = run.run((Points(), labelled()), (Points(), labelled()), nothing)
    factors = [rate_factor(index, 20, 0.25) for index in range(20)]
    assert len(run.stepper.optimizer.param_groups) == 4  # two rates, each with decay and without
    np.testing.assert_allclose(sorted(map(max, seen)), sorted(0.01 * factor for factor in factors))
    np.testing.assert_allclose([max(rates) / min(rates) for rates in seen], 10)
    means = [0.01 * float(np.mean(factors[start : start + 5])) for start in range(0, 20, 5)]
    np.testing.assert_allclose([row["lr:head"] for row in result.curves], [0.0, *means])
    np.testing.assert_allclose([row["lr:head"] / row["lr:block"] for row in result.curves[1:]], 10)


def test_an_epoch_visits_each_row_once_and_each_view_of_the_bank_in_turn(tmp_path: Path) -> None:
    source = Points()
    run = phase(tmp_path, epochs=4, views=2)
    run.run((source, labelled()), (Points(), labelled()), nothing)
    epochs = [source.asked[start : start + 5] for start in range(0, 20, 5)]
    assert [sorted(row for rows, _ in epoch for row in rows) for epoch in epochs] == [list(range(20))] * 4
    views = [dict(pair for rows, views in epoch for pair in zip(rows, views, strict=True)) for epoch in epochs]
    assert all(views[0][row] != views[1][row] and views[0][row] == views[2][row] for row in range(20))


def test_doubtful_labels_and_smoothing_reach_the_loss(tmp_path: Path) -> None:
    def first_loss(confidence: float, smoothing: float) -> float:
        run = phase(tmp_path / f"{confidence}-{smoothing}", epochs=1, label_smoothing=smoothing, batch_size=20)
        examples = labelled(confidence=confidence)
        logits = run.evaluate(Points(), examples)[2]
        result = run.run((Points(), examples), (Points(), examples), nothing)
        targets = np.full((20, 2), 1 - confidence)
        targets[examples.rows, examples.labels] = confidence
        targets = targets * (1 - smoothing) + smoothing / 2
        expected = functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets).float())
        assert result.curves[1]["train_loss"] == pytest.approx(float(expected), rel=1e-5)
        return float(expected)

    assert len({first_loss(1.0, 0.0), first_loss(0.7, 0.0), first_loss(0.7, 0.2)}) == 3


def test_validation_is_never_smoothed(tmp_path: Path) -> None:
    plain, smooth = (phase(tmp_path, label_smoothing=share).evaluate(Points(), labelled()) for share in (0.0, 0.5))
    assert plain[0] == smooth[0]


def test_a_batch_of_one_trains_with_frozen_norms(tmp_path: Path) -> None:
    for norm in ("frozen", "stats"):
        run = phase(tmp_path / norm, norm_layer=True, norm=norm, batch_size=1, epochs=1)
        assert len(run.run((Points(), labelled(3)), (Points(), labelled(3)), nothing).curves) == 2


def test_a_batch_of_one_under_batch_statistics_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    run = phase(tmp_path, norm_layer=True, norm="train", batch_size=1, epochs=1)
    with pytest.raises(
        TrainingError, match=r"top: norm is train, .* raise batch_size \(now 1\), or set norm to frozen"
    ):
        run.run((Points(), labelled(3)), (Points(), labelled(3)), nothing)


def test_answers_are_averaged_over_their_views(tmp_path: Path) -> None:
    run = phase(tmp_path)
    one = [run.model(*Points().batch(np.arange(4), np.full(4, view))).detach() for view in range(3)]
    logits = run.evaluate(Points(), labelled(4), 3)[2]
    torch.testing.assert_close(torch.from_numpy(logits), torch.stack(one).mean(dim=0))


def test_with_an_average_it_is_the_average_that_is_looked_at_answers_and_is_kept(tmp_path: Path) -> None:
    run = phase(tmp_path, epochs=2, ema=0.8, warmup=0.0, schedule="constant", lr=0.05)
    followed: dict[str, Tensor] = {}

    def follow(*_: object) -> None:
        for name, value in run.model.state_dict().items():
            before = followed.get(name)
            followed[name] = value.clone() if before is None else 0.8 * before + 0.2 * value

    run.stepper.optimizer.register_step_post_hook(follow)
    result = run.run((Points(), labelled()), (Points(), labelled()), nothing)
    plain = Classifier(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 2))
    plain.load_state_dict(followed)
    round_matrices(plain.backbone)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(result.tensors[name], value, rtol=1e-4, atol=1e-6)
        assert (value - run.model.state_dict()[name]).abs().max() > 1e-3
    with torch.inference_mode():
        logits = plain(*Points().batch(np.arange(20), np.zeros(20, np.int64)))
    np.testing.assert_allclose(result.val_logits, logits.numpy(), rtol=1e-3, atol=1e-5)
    loss = float(functional.cross_entropy(logits, torch.from_numpy(labelled().labels)))
    assert result.curves[-1]["val_loss"] == pytest.approx(loss, rel=1e-4)
