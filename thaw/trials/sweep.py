"""The command `sweep`: Optuna proposes values, each trial is a DVC experiment, and what surely loses is stopped.

A trial tells the answers of each fold of each phase as soon as that is trained (`pipeline.trial`). Their losses, one
for each parcel of images, are Optuna's intermediate values. Its `WilcoxonPruner` compares them, in pairs, with those of
the best trial so far. The commit that the trials start from is the first trial of a study. All that decides lies in the
study, so any number of machines can work on one storage.
"""

import subprocess
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from thaw.config.reader import PARAMS_FILE, load_params
from thaw.config.schema import Params
from thaw.errors import RunError, ThawError, first_line
from thaw.pipeline import revisions, scratch
from thaw.pipeline.trial import told
from thaw.trials import losses, study
from thaw.trials.running import Running, StoppedError
from thaw.trials.space import Space, parse

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Wish:
    """What is asked of a sweep."""

    words: list[str]
    """The space, as `space.parse` reads it."""
    trials: int
    """Trials of the study in all, those of earlier calls and of other machines included."""
    jobs: int
    study: str
    storage: str | None
    """Optuna's URL of a data base, or a file; None is a file in the scratch folder."""


@dataclass(frozen=True)
class Sweep:
    """A study that is open, and what its trials are compared by."""

    study: "optuna.Study"
    space: Space
    params: Params
    folder: Path
    """Answers and logs of the trials that this clone runs."""
    ending: threading.Event = field(default_factory=threading.Event)
    _asking: threading.Lock = field(default_factory=threading.Lock)

    def work(self, most: int) -> None:
        """Run trials until the study has so many, or the sweep ends."""
        while (trial := self._ask(most)) is not None:
            self._run(trial)

    def _ask(self, most: int) -> "optuna.Trial | None":
        with self._asking:
            if self.ending.is_set() or study.num_trials(self.study) >= most:
                return None
            return self.study.ask(study.distributions(self.space))

    def _run(self, trial: "optuna.Trial") -> None:
        from optuna.trial import TrialState

        name = study.name_of(self.study.study_name, trial.number)
        values = study.values_of(self.space, trial.params)
        shown = ", ".join(f"{key}={value}" for key, value in values.items())
        study.begin(trial, name)
        reported = set[tuple[str, int]]()
        try:
            running = Running.start(name, values, self.folder / name)
            running.wait(lambda: self.ending.is_set() or self._is_worse(trial, running, reported))
            kept, loss = self._finish(trial, name)
        except StoppedError:
            if self.ending.is_set():  # it is asked for again when the study goes on
                study.put_off(self.study, trial, trial.number)
                return
            self.study.tell(trial, state=TrialState.PRUNED)
            print(f"{name}: {shown}: stopped, surely worse than the best", flush=True)
        except ThawError as error:
            self.study.tell(trial, state=TrialState.FAIL)
            print(f"{name}: {shown}: failed: {first_line(error)}", flush=True)
        else:
            self.study.tell(trial, loss)
            print(f"{name}: {shown}: loss {loss:.4f}, {kept} is kept", flush=True)

    def _is_worse(self, trial: "optuna.Trial", running: Running, reported: set[tuple[str, int]]) -> bool:
        """Report the folds that were told since the last look, and say whether the trial is to be stopped."""
        numbers = losses.numbered(list(self.params.unfreeze.phases))
        news = {key: path for key, path in told(running.folder).items() if key not in reported and key[0] in numbers}
        for (phase, fold), path in news.items():
            reported.add((phase, fold))
            for step, loss in losses.of_file(path, numbers[phase], fold, self.params.select.metric).items():
                trial.report(loss, step)
        return bool(news) and trial.should_prune()

    def _finish(self, trial: "optuna.Trial", name: str) -> tuple[str, float]:
        """Report what was not trained anew, too, and return what the trial keeps, and its loss."""
        kept, loss, every = study.figures(name, self.params)
        for step, value in every.items():
            trial.report(value, step)  # a step that was reported stays as it is
        return kept, loss


def sweep(wish: Wish) -> None:
    """Search until the study has as many trials as were asked for; an interrupt leaves a study that can go on.

    Raises: ThawError if the space, the workspace, a name or the storage does not allow it.
    """
    import optuna  # first: what is missing is said before anything is looked at

    params, space = load_params(), parse(wish.words, PARAMS_FILE)
    commit = _commit()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the pruner is called experimental, and says which steps only one trial has
        opened = study.open_study(wish.study, wish.storage, space, params, commit)
        found = Sweep(opened, space, params, scratch.folder() / "sweeps" / wish.study)
        with ThreadPoolExecutor(wish.jobs) as pool:
            workers = [pool.submit(found.work, wish.trials) for _ in range(wish.jobs)]
            try:
                for worker in workers:
                    worker.result()
            except BaseException:
                found.ending.set()
                print(f"the trials that run are stopped; the same command goes on with {wish.study}", flush=True)
                raise
    _say_best(opened, wish.study)


def _commit() -> str:
    """Return HEAD's hash. Raises: RunError if the workspace differs: trials would start from what no commit has."""
    commit = revisions.revision(study.BASELINE).commit
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "."], check=False, capture_output=True)
    if changed.returncode:
        raise RunError("the workspace differs from HEAD, with which the trials are compared; commit the changes first")
    return str(commit)


def _say_best(found: "optuna.Study", name: str) -> None:
    try:
        best = found.best_trial
    except ValueError:
        raise RunError(f"no trial of {name} has ended; the logs are in {scratch.folder() / 'sweeps' / name}") from None
    experiment = best.user_attrs.get(study.EXPERIMENT)
    print(f"best of {name}: {experiment}, loss {best.value:.4f}; the best of many looks better than it is", flush=True)
    if experiment != study.BASELINE:
        print(f"`thaw trials` compares them all; `dvc exp apply {experiment}`, then `dvc repro`, keeps it", flush=True)
