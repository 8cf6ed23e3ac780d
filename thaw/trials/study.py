"""The study behind a sweep: what Optuna keeps of it, where, and how values of params.yaml become its parameters."""

import json
import os
import platform
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from thaw.config.reader import PARAMS_FILE, read_tree
from thaw.config.schema import Params
from thaw.errors import RunError, ThawError, first_line
from thaw.pipeline import revisions, scratch
from thaw.trials import losses
from thaw.trials.answers import Answers
from thaw.trials.space import Domain, Options, Space, contains

if TYPE_CHECKING:
    import optuna

BASELINE = "HEAD"
EXPERIMENT, PROCESS, PUT_OFF = "experiment", "process", "put off"  # what a study keeps of a trial
_P_WORSE = 0.1  # Wilcoxon's p below which a trial is worse than the best one: Optuna's default
_FEWEST = 8  # losses that a trial must have for that


def open_study(name: str, storage: str | None, space: Space, params: Params, commit: str) -> "optuna.Study":
    """Return the study of that name, a new one or one that goes on.

    storage is Optuna's URL of a data base, or a file; None is a file in the scratch folder.
    Raises: RunError if the study searches something else, or its experiments' names are taken.
    """
    import optuna

    try:
        study = optuna.create_study(
            storage=_storage(storage),
            study_name=name,
            load_if_exists=True,
            pruner=optuna.pruners.WilcoxonPruner(p_threshold=_P_WORSE, n_startup_steps=_FEWEST),
        )
    except Exception as error:  # noqa: BLE001 - a URL leads into the drivers of any data base, each with errors of its own
        raise RunError(f"the storage {storage} cannot be used: {first_line(error)}") from None
    study.sampler = optuna.samplers.TPESampler(seed=params.seed + len(study.trials), constant_liar=True)
    asked = {"commit": commit, "metric": params.select.metric, "space": str(sorted(space.items()))}
    if study.user_attrs:
        for key, value in asked.items():
            if (before := study.user_attrs.get(key)) != value:
                raise RunError(
                    f"the study {name} has {key} {before}, and this is {value}: their trials cannot be compared; "
                    "name another study with --study"
                )
        _put_off_killed(study)
        return study
    _check_names(name)
    for key, value in asked.items():
        study.set_user_attr(key, value)
    _add_baseline(study, space, params)
    return study


def _add_baseline(study: "optuna.Study", space: Space, params: Params) -> None:
    """Make HEAD the first trial of a study, if it has run: with its values where the space has them."""
    import optuna

    try:
        kept, loss, every = figures(BASELINE, params)
    except ThawError as error:
        print(f"{BASELINE} is no trial of the study, since its answers cannot be had: {first_line(error)}", flush=True)
        return
    inside = contains(space, read_tree(PARAMS_FILE))
    drawn = {} if inside is None else {key: _drawn(space[key], value) for key, value in inside.items()}
    study.add_trial(
        optuna.trial.create_trial(
            params=drawn,
            distributions={key: value for key, value in distributions(space).items() if key in drawn},
            value=loss,
            intermediate_values=every,
            user_attrs={"experiment": BASELINE},
        )
    )
    print(f"{BASELINE}: loss {loss:.4f}, {kept} is kept", flush=True)


def figures(revision: str, params: Params) -> tuple[str, float, losses.Losses]:
    """Return what a revision keeps, its loss, and the losses of all its phases. Raises: ThawError if it has none."""
    tree, metric = revisions.revision(revision), params.select.metric
    with tempfile.TemporaryDirectory(prefix="thaw-sweep-") as folder:
        answers = Answers.at(tree, Path(folder))
        every = losses.Losses()
        for phase, number in losses.numbered(list(params.unfreeze.phases)).items():
            every |= losses.of_answers(Answers.at(tree, Path(folder), phase), number, metric)
    return answers.name, answers.result(metric).cost, every


def num_trials(study: "optuna.Study") -> int:
    """Return how many trials of a study are done or at work, here or elsewhere; without HEAD and those put off."""
    trials = study.get_trials(deepcopy=False)
    return sum(
        trial.state.name != "WAITING"
        and trial.user_attrs.get(EXPERIMENT) != BASELINE
        and PUT_OFF not in trial.user_attrs
        for trial in trials
    )


def begin(trial: "optuna.Trial", name: str) -> None:
    """Write down which experiment a trial is, and which process is at work on it."""
    trial.set_user_attr(EXPERIMENT, name)
    trial.set_user_attr(PROCESS, _process(os.getpid()))


def put_off(study: "optuna.Study", trial: "optuna.trial.BaseTrial", number: int) -> None:
    """End a trial that was interrupted, and ask for its values again when the study goes on."""
    from optuna.trial import TrialState

    study.enqueue_trial(dict(trial.params))
    storage, trial_id = study._storage, study.get_trials(deepcopy=False)[number]._trial_id  # noqa: SLF001
    storage.set_trial_user_attr(trial_id, PUT_OFF, True)
    study.tell(number, state=TrialState.FAIL)


def _put_off_killed(study: "optuna.Study") -> None:
    """Put off the trials of processes of this machine that are gone."""
    for trial in study.get_trials(deepcopy=False):
        at = trial.user_attrs.get(PROCESS)
        if trial.state.name == "RUNNING" and at and at["machine"] == platform.node() and at != _process(at["pid"]):
            put_off(study, trial, trial.number)


def _process(pid: int) -> dict[str, Any] | None:
    """Return what tells a process from all others, of other machines too; None if there is none."""
    try:
        return {"machine": platform.node(), "pid": pid, "since": psutil.Process(pid).create_time()}
    except psutil.NoSuchProcess:
        return None


def name_of(study: str, number: int) -> str:
    """Return the name of the experiment of a trial."""
    return f"{study}-{number:03d}"


def _check_names(study: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", study):
        raise RunError(f"a study cannot be called {study!r}, since its experiments are; use letters, digits, _ and -")
    _, found = revisions.experiments(BASELINE)
    if taken := [one.name for one in found if re.fullmatch(rf"{re.escape(study)}-\d+", one.name)]:
        raise RunError(
            f"there is an experiment {taken[0]} already, and the study {study} is new; name another with --study, or "
            f"remove it with `dvc exp remove {taken[0]}`"
        )


def _storage(given: str | None) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if given is not None and "://" in given:
        return given
    path = scratch.folder() / "sweeps" / "studies.journal" if given is None else Path(given)
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


def distributions(space: Space) -> dict[str, Any]:
    """Return what Optuna draws each key from; it draws an option as its JSON, since a list is no value to it."""
    return {key: _distribution(domain) for key, domain in space.items()}


def _distribution(domain: Domain) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(domain, Options):
        return CategoricalDistribution([json.dumps(value) for value in domain.points])
    if isinstance(domain.low, int) and isinstance(domain.high, int):
        return IntDistribution(domain.low, domain.high, log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def values_of(space: Space, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Return what params.yaml is to have; numbers of four digits, which a person can read."""
    found = {}
    for key, value in drawn.items():
        domain = space[key]
        if isinstance(domain, Options):
            found[key] = json.loads(value)
        else:
            found[key] = min(max(float(f"{value:.4g}"), domain.low), domain.high) if isinstance(value, float) else value
    return found


def _drawn(domain: Domain, value: Any) -> Any:
    return json.dumps(value) if isinstance(domain, Options) else value
