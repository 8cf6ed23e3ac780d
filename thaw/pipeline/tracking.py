"""What MLflow or Weights & Biases get, where `compute.track` names one of them; otherwise nothing is loaded.

Each stage that has figures is a run of its own, in the group of its DVC experiment. Where runs are kept is said by the
variables of either (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, WANDB_PROJECT, WANDB_MODE). Without them it is a data
base in the scratch folder, or wandb.ai.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from thaw import DISTRIBUTION
from thaw.config.schema import Tracker
from thaw.errors import MissingLibraryError
from thaw.pipeline import scratch

Log = Callable[[Mapping[str, float], int], object]
PROJECT = "thaw"
_LOSSES = ("train_loss", "val_loss", "val_accuracy")
_EXPERIMENT = "DVC_EXP_NAME"  # set by DVC while an experiment runs


@contextmanager
def run(kind: Tracker, stage: str) -> Iterator[Log]:
    """Yield what takes figures by name, and the epoch that they are of. Raises: MissingLibraryError."""
    if kind == "none":
        yield lambda _values, _step: None
        return
    group = os.environ.get(_EXPERIMENT, "workspace")
    if find_spec(kind) is None:  # not by `extras`: a stage would run again after every change of what is extra
        raise MissingLibraryError(
            f"{kind} is not installed; run `pip install '{DISTRIBUTION}[{kind}]'`, or set compute.track to none"
        )
    with _RUNS[kind](f"{group}: {stage}", group) as log:
        yield log


def send(kind: Tracker, stage: str, values: Mapping[str, float]) -> None:
    """Send figures that are of no epoch. Raises: MissingLibraryError."""
    with run(kind, stage) as log:
        log(values, 0)


def losses(row: Mapping[str, float], part: str) -> dict[str, float]:
    """Return the losses and the accuracy in a row of the curves, under the name of the fold that they are of."""
    above = f"{part.replace(' ', '_')}/" if part else ""
    return {f"{above}{name}": row[name] for name in _LOSSES if name in row}


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, float]:
    """Return the numbers of a tree, each under the path that leads to it."""
    found = dict[str, float]()
    for key, value in tree.items():
        found |= flat(value, f"{above}{key}/") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


@contextmanager
def _mlflow(name: str, group: str) -> Iterator[Log]:
    import mlflow

    if "MLFLOW_TRACKING_URI" not in os.environ:
        scratch.folder().mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{scratch.folder().resolve() / 'mlflow.db'}")
    mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
    with mlflow.start_run(run_name=name, tags={"experiment": group}):
        yield lambda values, step: mlflow.log_metrics(dict(values), step=step)


@contextmanager
def _wandb(name: str, group: str) -> Iterator[Log]:
    import wandb

    scratch.folder().mkdir(parents=True, exist_ok=True)
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    with wandb.init(project=project, name=name, group=group, dir=scratch.folder().resolve()) as started:
        started.define_metric("*", step_metric="epoch")  # a step of its own must not go back, as it does with folds
        yield lambda values, epoch: started.log({**values, "epoch": epoch})


_RUNS = {"mlflow": _mlflow, "wandb": _wandb}
