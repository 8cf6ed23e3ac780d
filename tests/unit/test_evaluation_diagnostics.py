"""Signs of trouble on simulated runs, and on trainings that were spoilt on purpose."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from tests import tiny
from thaw.config.schema import PhaseParams
from thaw.evaluation.diagnostics import TrainingRun, findings_of
from thaw.head.examples import FeatureSet
from thaw.head.layers import logits_of
from thaw.head.linear import fit_linear, linear_module
from thaw.training.phase import run_phase

LABELS = np.arange(120, dtype=np.int64) % 2


def answers(accuracy: float, labels: NDArray[np.int64] = LABELS, scale: float = 2.0) -> NDArray[np.float64]:
    wrong = np.random.default_rng(0).permutation(len(labels)) < (1 - accuracy) * len(labels)
    return np.eye(2)[np.where(wrong, 1 - labels, labels)] * scale


def run(
    train: list[float | None], val: list[float], *, rate: float = 1e-3, logits: NDArray[np.float64] | None = None
) -> TrainingRun:
    epochs = range(len(val))
    rates = [0.0, *[rate] * (len(val) - 1)]
    curves = pd.DataFrame({"epoch": epochs, "train_loss": train, "val_loss": val, "lr:head": rates}, dtype=np.float64)
    return TrainingRun("top", curves, answers(0.9) if logits is None else logits, LABELS)


HEAD = TrainingRun("head", pd.DataFrame(), answers(0.9), LABELS)


def names(*runs: TrainingRun) -> list[tuple[str, str]]:
    return [(finding.where, finding.kind) for finding in findings_of(runs)]


@pytest.mark.parametrize(
    ("train", "val", "rate", "sign"),
    [
        ([None, 0.5, 0.3, 0.2], [0.6, 0.4, 0.3, 0.28], 1e-3, None),  # healthy
        ([None, 0.36, 0.30, 0.24], [0.24, 0.36, 0.29, 0.28], 1e-3, None),  # gained nothing, and nothing is wrong
        ([None, 2.0, 40.0, 900.0], [0.6, 3.0, 70.0, 500.0], 10.0, "diverges"),
        ([None, 3.0, 0.5, 0.4], [0.6, 5.0, 0.6, 0.5], 1e-2, None),  # it came back
        ([None, 5.0], [0.6, 4.0], 10.0, "diverges"),  # a single epoch
        ([None, 0.50, 0.499, 0.501], [0.6, 0.55, 0.52, 0.54], 1e-3, "stuck"),
        ([None, 0.50, 0.499, 0.501], [0.6, 0.55, 0.55, 0.55], 1e-4, "rate_too_low"),
        ([None, 0.50, 0.499, 0.501], [0.6, 0.55, 0.52, 0.54], 1e-12, "rate_too_low"),
        ([None, 0.010, 0.010, 0.010], [0.05, 0.04, 0.04, 0.04], 1e-3, None),  # nothing is left to learn
        ([None, 0.5, 0.1, 0.05], [0.9, 0.7, 0.65, 0.66], 1e-3, "overfits"),
        ([None, 0.4, 0.1, 0.01], [0.5, 0.45, 0.7, 1.4], 1e-3, "overfits"),  # after the epoch that was kept
        ([None, 0.5, 0.3, 0.2], [0.6, 0.4, 0.35, 0.3], 1e-3, None),  # a small gap
        ([None, None, None], [0.6, 0.5, 0.4], 1e-3, None),
        ([None], [0.6], 0.0, None),
    ],
)
def test_a_course_shows_its_sign_and_no_other(
    train: list[float | None], val: list[float], rate: float, sign: str | None
) -> None:
    expected = [("top", sign)] if sign else []
    assert names(HEAD, run(train, val, rate=rate)) == expected


def test_of_a_gap_that_may_be_chance_the_finding_is_that_it_cannot_be_told() -> None:
    few = slice(0, 6)
    gap = run([None, 0.5, 0.3], [0.9, 0.7, 0.5])
    assert names(HEAD, gap) == [("top", "overfits")]
    loud = answers(0.8, scale=5.0)
    assert names(HEAD, TrainingRun("top", gap.curves, loud[few], LABELS[few])) == [("top", "cannot_tell")]


@pytest.mark.parametrize(
    ("labels", "logits", "expected"),
    [
        (LABELS, answers(0.9), None),
        (LABELS, answers(0.5), "no_better_than_majority"),
        (LABELS, np.zeros((120, 2)), "no_better_than_majority"),
        (LABELS, answers(0.56), "cannot_tell"),  # a little better, which may be chance
        # 95 % of one class: the accuracy cannot tell, the log loss can.
        ((np.arange(400) % 20 == 0).astype(np.int64), None, None),
        # One of 51 is of the other class, and is told: a loss of nearly 0 against 0.1 is no sign of trouble.
        ((np.arange(51) == 0).astype(np.int64), np.eye(2)[(np.arange(51) == 0).astype(np.int64)] * 8, "cannot_tell"),
        (np.zeros(3, np.int64), np.zeros((3, 2)), "cannot_tell"),
        (np.zeros(1, np.int64), np.array([[1.0, 0.0]]), "cannot_tell"),
    ],
)
def test_a_head_is_held_against_the_majority_class(
    labels: NDArray[np.int64], logits: NDArray[np.float64] | None, expected: str | None
) -> None:
    if logits is None:  # the rarer class is made out, but never thought the likelier
        logits = np.column_stack([np.full(400, 1.0), np.where(labels == 1, 0.9, -3.0)])
        assert (logits.argmax(axis=1) == labels).mean() == 0.95
    assert names(TrainingRun("head", pd.DataFrame(), logits, labels)) == ([("head", expected)] if expected else [])


def test_a_sign_gives_its_figures_and_what_to_do() -> None:
    [finding] = findings_of([HEAD, run([None, 2.0, 40.0, 900.0], [0.6, 3.0, 70.0, 500.0], rate=10.0)])
    assert "900" in finding.evidence
    assert "guessing costs 0.693" in finding.evidence
    assert finding.advice.startswith("lower its lr tenfold (an epoch's mean was up to 10)")


def trained(params: PhaseParams, *, shuffled: bool = False) -> TrainingRun:
    """A real phase on tiny images, from an untrained head."""
    images, network = tiny.packed(72, classes=2), tiny.backbone()
    if shuffled:
        labels = np.random.default_rng(3).permutation(images.samples["label"].to_numpy())
        images = tiny.packed(72, classes=2, label=labels)
    done = run_phase(
        "top", params, images=images, backbone=network, start=tiny.start(network, classes=2), augment=tiny.augment(),
        seed=0, compute=tiny.TORCH,
    )  # fmt: skip
    answers = done.outcome.answers
    return TrainingRun("top", pd.DataFrame(done.curves), answers.logits, answers.labels)


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize(
    ("params", "shuffled", "sign"),
    [
        (tiny.phase(lr=3e-4, warm_start=True), False, None),
        (tiny.phase(lr=100.0, warmup=0.0), False, "diverges"),
        (tiny.phase(lr=100.0, warmup=0.0, norm="frozen"), False, "diverges"),
        (tiny.phase(lr=1e-12), False, "rate_too_low"),
        (tiny.phase(lr=1e-7, norm="frozen"), False, "rate_too_low"),
        (tiny.phase(lr=3e-2, depth=3, batch_size=16, epochs=12, warmup=0.1), True, "overfits"),
        (
            tiny.phase(lr=1e-2, depth="all", batch_size=16, epochs=15, warmup=0.1, norm="frozen"),
            True,
            "stuck",
        ),
    ],
)
def test_a_training_that_was_spoilt_on_purpose_shows_it(params: PhaseParams, shuffled: bool, sign: str | None) -> None:
    run = trained(params, shuffled=shuffled)
    head = TrainingRun("head", pd.DataFrame(), np.eye(2)[run.labels], run.labels)
    assert names(head, run) == ([("top", sign)] if sign else [])


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_head_solved_on_shuffled_labels_is_no_better_than_the_majority(shuffled: bool) -> None:
    images, network = tiny.packed(72, classes=2), tiny.backbone()
    with torch.inference_mode():
        squares = torch.from_numpy(images.shards[0][:, 4:36, 4:36]).float().permute(0, 3, 1, 2) / 255
        features = network(squares).numpy()
    labels = images.labels(np.arange(72))
    if shuffled:
        labels = np.random.default_rng(4).permutation(labels)
    train, val = (FeatureSet(features[part], labels[part], np.ones(36)) for part in (slice(0, 36), slice(36, 72)))
    logits = logits_of(linear_module(fit_linear(train, 2)), val.features)
    found = names(TrainingRun("head", pd.DataFrame(), logits, val.labels))
    assert found == [("head", "no_better_than_majority")] * shuffled
