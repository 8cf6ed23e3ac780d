"""Rows 21 and 22 of the fault list: numbers that are none, in training and in params.yaml, under `dvc repro`."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests import tiny
from tests.faults.rows import SECONDS, accepted, leftovers, recovers, refused
from tests.pipeline.clone import Clone, stages_run
from tests.pipeline.fixtures import Run
from thaw.pipeline import artifacts


def test_row_21_a_rate_that_makes_the_loss_nan_stops_the_phase_and_the_others_stay(finished: Run, copy: Clone) -> None:
    copy.update({"unfreeze.phases.mid": {"lr": 1e6}})
    says = "mid: the loss is nan at step "
    lines = refused(copy, "dvc", "repro", "evaluate", says=says, lacks="models/phases/mid")
    (line,) = [line for line in lines if line.startswith(says)]
    assert "; lower lr (now 1e+06), or unfreeze less; the last good checkpoint is kept" in line
    assert stages_run("\n".join(lines)) == ["unfreeze@mid"], "nothing was made of it"
    metrics = json.loads((copy.root / "reports" / "metrics.json").read_text(encoding="utf-8"))
    assert all(math.isfinite(number) for number in _numbers(metrics))
    (copy.root / "params.yaml").write_bytes((finished.clone.root / "params.yaml").read_bytes())
    recovers(copy, finished, "unfreeze@mid")


@pytest.fixture(scope="module")
def constant(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A copy of the finished clone after `dvc repro evaluate` on a network whose weights are all zero."""
    clone = finished.clone.copy(tmp_path_factory.mktemp("constant") / "thaw")
    zeros = {name: torch.zeros_like(value) for name, value in tiny.backbone().module.state_dict().items()}
    torch.save(zeros, clone.root / "zeros.pth")
    clone.update({"backbone.source": "file:zeros.pth@timm:test_resnet"})
    for name in ("mid", "top"):
        clone.remove_phase(name)
    accepted(clone, "dvc", "repro", "evaluate")
    return clone


def test_row_21_features_that_are_constant_give_finite_metrics_that_are_no_better_than_chance(constant: Clone) -> None:
    metrics = json.loads((constant.root / "reports" / "metrics.json").read_text(encoding="utf-8"))
    numbers = [*_numbers(metrics)]
    assert len(numbers) > 30
    assert all(math.isfinite(number) for number in numbers)
    assert metrics["final"]["phase"] == "head"
    assert artifacts.verify(constant.root / "models" / "final")


def test_row_25_of_answers_that_are_all_tied_the_ranks_are_those_of_chance(constant: Clone) -> None:
    test = json.loads((constant.root / "reports" / "metrics.json").read_text(encoding="utf-8"))["test"]
    share = _share(constant)
    assert test["roc_auc"] == 0.5
    assert test["balanced_accuracy"] == 0.5
    assert test["accuracy"] in (pytest.approx(share), pytest.approx(1 - share))


def _share(clone: Clone) -> float:
    """Return the share of one of the two classes among the test images."""
    classes = json.loads((clone.root / "reports" / "classes.json").read_text(encoding="utf-8"))
    support = [figures["support"] for figures in classes.values()]
    return float(support[0] / sum(support))


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _numbers(inner)
    elif not isinstance(value, str):
        yield float(value)


def test_row_22_all_mistakes_in_params_are_told_at_once_each_with_its_path(finished: Run, copy: Clone) -> None:
    copy.update(
        {
            "seed": -1,
            "prepare.test_fraction": float("nan"),
            "prepare.size": 64,
            "unfreeze.phases.top": {"lr": float("inf")},
            "unfreeze.phases.mid": {"lr": -1.0, "weight_decay": "much"},
        }
    )
    lines = refused(copy, "dvc", "repro", "prepare", says="params.yaml: ", lacks="data/prepared")
    assert [line for line in lines if line.startswith("params.yaml: ")] == [
        "params.yaml: seed is -1; it must be at least 0",
        "params.yaml: prepare.test_fraction is NaN; it must be a finite number",
        "params.yaml: prepare.size is not a known key; did you mean size_px?",
        "params.yaml: unfreeze.phases.top.lr is Infinity; it must be a finite number",
        'params.yaml: unfreeze.phases.mid.weight_decay is "much"; it must be a number',
        "params.yaml: unfreeze.phases.mid.lr is -1.0; it must be above 0",
    ]
    (copy.root / "params.yaml").write_bytes((finished.clone.root / "params.yaml").read_bytes())
    recovers(copy, finished, "prepare")


def test_row_22_yaml_that_is_read_differently_or_runs_code_is_refused_before_dvc_starts(
    finished: Run, copy: Clone
) -> None:
    path = copy.root / "params.yaml"
    text = path.read_text(encoding="utf-8").replace("lr: 0.0003", "lr: 3e-4")  # which is a number
    wrong = {
        "seed: 0": "seed: no",
        "batch_size: 16": "batch_size: 16\n      batch_size: 8",
        "depth: 1\n": "depth: !!python/object/apply:os.mkdir [canary]\n",
    }
    for right, mistake in wrong.items():
        assert right in text
        path.write_text(text.replace(right, mistake), encoding="utf-8")
        text = path.read_text(encoding="utf-8")
    code, output = copy.run("thaw", "repro", "prepare", seconds=SECONDS)
    assert (code, output.count("\n")) == (1, 3), output
    for said in ("line 1: no is read differently", "/apply:os.mkdir' is not allowed;", "'batch_size' stands twice;"):
        assert said in output
    code, output = copy.run("dvc", "repro", "prepare", seconds=SECONDS)
    assert code != 0
    assert output.startswith("ERROR: unable to read: 'params.yaml', YAML file structure is corrupted: ")
    assert not (copy.root / "canary").exists()
    assert leftovers(copy) == []
    assert copy.hashes() == finished.clone.hashes()
