"""Figures go to MLflow and Weights & Biases where `compute.track` names them, and to nobody otherwise."""

import sys
from pathlib import Path

import mlflow
import pytest

from thaw.config.schema import Tracker
from thaw.errors import MissingLibraryError
from thaw.pipeline import tracking

ROW = {"epoch": 1, "train_loss": 0.5, "val_loss": 0.4, "val_accuracy": 0.75, "lr:head": 1e-3}


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THAW_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("DVC_EXP_NAME", "slow-cat")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "scratch"


@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_the_losses_of_each_epoch_of_each_fold_in_the_scratch_folder(scratch: Path) -> None:
    with tracking.run("mlflow", "unfreeze@top") as log:
        for epoch in (1, 2):
            log(tracking.losses(ROW | {"val_loss": 1 / epoch}, "fold 1 of 2"), epoch)
        log(tracking.losses(ROW, "fold 2 of 2"), 1)
    (found,) = mlflow.search_runs(experiment_names=["thaw"], output_format="list")
    assert (found.info.run_name, found.data.tags["experiment"]) == ("slow-cat: unfreeze@top", "slow-cat")
    assert found.data.metrics["fold_2_of_2/val_accuracy"] == 0.75
    history = mlflow.MlflowClient().get_metric_history(found.info.run_id, "fold_1_of_2/val_loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5)]
    assert (scratch / "mlflow.db").exists()


@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_figures_offline_in_the_scratch_folder(scratch: Path) -> None:
    tracking.send("wandb", "select", tracking.flat({"mid": {"accuracy": 0.875}}))
    (written,) = (scratch / "wandb").glob("offline-run-*/*.wandb")
    content = written.read_bytes()
    assert b"mid/accuracy" in content
    assert b"0.875" in content
    assert b"slow-cat: select" in content


@pytest.mark.parametrize("kind", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_one_line_that_names_its_extra(
    kind: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(
        MissingLibraryError, match=rf"^{kind} is not installed; run `pip install 'thaw-vision\[{kind}\]'`"
    ):
        tracking.send(kind, "select", {})


def test_without_a_tracker_nothing_is_kept(scratch: Path) -> None:
    with tracking.run("none", "unfreeze@top") as log:
        log(tracking.losses(ROW, ""), 1)
    assert not scratch.exists()


def test_only_losses_and_accuracies_are_told() -> None:
    assert tracking.losses(ROW, "") == {"train_loss": 0.5, "val_loss": 0.4, "val_accuracy": 0.75}
    assert tracking.losses({"epoch": 0, "lr:head": 0.0}, "all images") == {}
    assert tracking.flat({"a": {"b": 1.0}, "c": 2}) == {"a/b": 1.0, "c": 2}
