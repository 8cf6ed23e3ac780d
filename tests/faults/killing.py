"""One kill of a real `dvc repro` in a copy of a finished clone, and all that must hold after it. No test here.

The copy is told to run one stage again; the rest is as a finished run left it. At a moment of that run a signal goes to
the stage, to dvc or to the whole group. What was there must stay, no process may stay, and running the same command
once more must leave what a run without a kill leaves, byte for byte.
"""

import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from tests.pipeline.clone import Clone, stages_run
from thaw.pipeline import artifacts

AT_RANDOM = "at random"
COMMANDS = {"dvc repro": ("dvc", "repro"), "thaw repro": ("python", "-m", "thaw", "repro")}
_GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
_ATTEMPTS = 4
_BEFORE_STAGE_S = 4.0  # what dvc takes before it starts a stage
_BETWEEN_S = 0.05  # from one signal to the next
_ORPHAN_S = 30.0  # a stage looks once a second for its dvc, and then has ten more to end
_RUN_S = 600.0


@dataclass(frozen=True)
class Plan:
    """Which stage is killed, when, and how."""

    stage: str
    moment: str
    """A key of MOMENTS, or AT_RANDOM."""
    target: str
    """`stage`, `dvc`, or `group`: dvc and all that it has started."""
    signals: tuple[str, ...] = ("SIGKILL",)
    fraction: float = 0.0
    """0 to 1: of the known duration where the moment is random, or else of the moment's delay."""
    command: str = "dvc repro"
    again: float | None = None
    """0 to 1: the fraction of the known duration at which the run that goes on is killed, too."""


@dataclass
class Outcome:
    """What a kill has shown."""

    kills: int = 0
    missed: int = 0
    """Runs that had ended before the moment came; it was waited for again in a new copy."""
    orphan_s: float = 0.0
    """From the last signal to the end of the last process; of two kills the longer."""
    left: list[str] = field(default_factory=list)
    """What a kill left under a temporary name."""
    mended: list[str] = field(default_factory=list)
    """What `thaw doctor --fix` had to put right before the run that recovers."""
    epochs: int = 0
    """Epochs of which a checkpoint was written."""
    repeated: int = 0
    """Those of them that a later run has trained and written once more."""
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Reference:
    """A finished clone: what each copy must be again in the end, and how long each stage takes."""

    def __init__(self, clone: Clone) -> None:
        self.clone = replace(clone, cold=True)
        self.lock, self.hashes = (clone.root / "dvc.lock").read_bytes(), clone.hashes()

    def seconds(self, stage: str) -> float:
        """Return how long a stage took."""
        return float(artifacts.read_json(self.clone.root / ".thaw" / "timings" / f"{stage}.json")["seconds"])

    def copy(self, to: Path) -> Clone:
        """Return a copy in which git has dvc.lock, two processes decode images, and no activations are cached."""
        clone = self.clone.copy(to)
        clone.update({"compute.workers": 2})
        clone.succeed("git", "add", "dvc.lock", "params.yaml")
        clone.succeed(*_GIT, "commit", "--quiet", "--message", "lock")
        artifacts.remove(to / ".thaw" / "cache")
        return clone


@dataclass
class Scene:
    """A run that is to be killed."""

    clone: Clone
    objects: list[Path]
    """Where the cache will have what the stage writes."""
    outs: list[Path]
    saved: set[tuple[str, int]]
    """Part and epoch of each checkpoint that the run has written, as they come."""
    repro: subprocess.Popen[str]
    lock_bytes: int
    _found: list[psutil.Process] = field(default_factory=list)
    _looked: float = 0.0

    def started(self) -> bool:
        """Tell whether the stage runs, or has run."""
        if not self._found and time.monotonic() > self._looked + 0.01:
            self._found.extend(stages_below(self.repro))
            self._looked = time.monotonic()
        return bool(self._found)

    def runs(self) -> bool:
        """Tell whether the stage runs now."""
        return self.started() and _is_alive(self._found[0])

    def has(self, pattern: str) -> bool:
        """Tell whether the clone has a path of a pattern."""
        return next(self.clone.root.glob(pattern), None) is not None

    def send(self, target: str, name: str) -> None:
        """Send a signal to the stage, to dvc or to the group."""
        number = signal.Signals[name]
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if target == "group":
                os.killpg(self.repro.pid, number)
            elif target == "dvc":
                self.repro.send_signal(number)
            else:
                self._found[0].send_signal(number)


@dataclass(frozen=True)
class Moment:
    """When to kill."""

    has_come: Callable[[Scene], bool]
    targets: tuple[str, ...] = ("dvc", "group")
    delay_s: float = 0.0
    """What is waited then, at most; the plan has a fraction of it."""
    training: bool = False
    """Whether only a stage that trains has it."""
    pause_s: float = 0.0005
    """Between two looks; none for what is over in less than a millisecond."""


_ALL = ("stage", "dvc", "group")
MOMENTS = {
    "outs removed": Moment(lambda scene: not scene.outs[0].exists()),
    "imports": Moment(Scene.started, _ALL, delay_s=1.5),
    "activations": Moment(lambda scene: scene.has(".thaw/cache/.*.partial"), _ALL, training=True),
    "epoch": Moment(lambda scene: bool(scene.saved), _ALL, delay_s=1.0, training=True),
    "checkpoint written": Moment(
        lambda scene: scene.has(".thaw/checkpoints/*/.part-??.partial/tensors.safetensors"), _ALL, training=True
    ),
    # The one before is aside; a phase of one epoch has none, and the first checkpoint of the second part will do.
    "checkpoint renamed": Moment(
        lambda scene: any(map(scene.has, (".thaw/checkpoints/*/.part-??.old.partial", ".thaw/checkpoints/*/part-01"))),
        _ALL,
        training=True,
        pause_s=0,
    ),
    "out written": Moment(lambda scene: any(map(_partials, scene.outs)), _ALL),
    "out renamed": Moment(lambda scene: scene.runs() and any(out.exists() for out in scene.outs), _ALL),
    "stage over": Moment(lambda scene: scene.started() and not scene.runs()),
    "run cache": Moment(lambda scene: scene.has(".dvc/cache/runs/*/*/*")),
    "cache": Moment(lambda scene: any(path.exists() for path in scene.objects)),
    "dvc.lock": Moment(lambda scene: (scene.clone.root / "dvc.lock").stat().st_size != scene.lock_bytes),
    "rwlock": Moment(lambda scene: _is_empty(scene.clone.root / ".dvc" / "tmp" / "rwlock"), pause_s=0),
}


def kill(reference: Reference, plan: Plan, place: Path) -> Outcome:
    """Kill a run in a copy at `place`, and say what has come of it; a copy in which something failed stays."""
    outcome, started = Outcome(), time.monotonic()
    for _ in range(_ATTEMPTS):
        artifacts.remove(place)
        if Attempt(reference, plan, reference.copy(place), outcome).kill_and_recover():
            break
        outcome.missed += 1
        plan = replace(plan, fraction=plan.fraction * 0.8)
    else:
        outcome.failures.append(f"{_ATTEMPTS} runs had ended before the moment came")
    if not outcome.failures:
        artifacts.remove(place)
    outcome.seconds = round(time.monotonic() - started, 1)
    return outcome


class Attempt:
    """A copy in which a run is killed, maybe twice, and then another one goes on."""

    def __init__(self, reference: Reference, plan: Plan, clone: Clone, outcome: Outcome) -> None:
        self.reference, self.plan, self.clone, self.outcome = reference, plan, clone, outcome
        self.outs = [out["path"] for out in reference.clone.lock()[plan.stage]["outs"]]
        self.objects = clone.forget(plan.stage)
        self.saves: list[set[tuple[str, int]]] = []

    def kill_and_recover(self) -> bool:
        """Return whether there was a kill; all else goes into the outcome."""
        if not self._kill(self.plan):
            return False
        if self.plan.again is not None:
            self._kill(replace(self.plan, moment=AT_RANDOM, fraction=self.plan.again, signals=("SIGKILL",)))
        with saves(self.clone) as saved:
            output = self._recover()
        self.saves.append(saved)
        if others := set(stages_run(output)) - {self.plan.stage}:
            self.outcome.failures.append(f"ran again, too: {', '.join(sorted(others))}")
        self.count_epochs()
        self.outcome.failures += self.differences()
        return True

    def _kill(self, plan: Plan) -> bool:
        """Start the command and kill it; return whether it was there to be killed. No process may stay."""
        with saves(self.clone) as saved:
            repro = self.clone.start(*COMMANDS[plan.command], own_group=True)
            lock_bytes = (self.clone.root / "dvc.lock").stat().st_size
            outs = [self.clone.root / out for out in self.outs]
            scene = Scene(self.clone, self.objects, outs, saved, repro, lock_bytes)
            try:
                was_there, sent = _strike(scene, plan, self.reference.seconds(plan.stage)), time.monotonic()
                with suppress(subprocess.TimeoutExpired):
                    repro.communicate(timeout=_ORPHAN_S if was_there else _RUN_S)
                while (alive := self.processes()) and time.monotonic() < sent + _ORPHAN_S:
                    time.sleep(0.05)
            finally:
                _end(repro)
        self.saves.append(saved)
        if not was_there or repro.returncode == 0:
            return False
        self.outcome.kills += 1
        self.outcome.orphan_s = max(self.outcome.orphan_s, round(time.monotonic() - sent, 2))
        self.outcome.left += [path.relative_to(self.clone.root).as_posix() for path in _leavings(self.clone)]
        if alive:
            self.outcome.failures.append(f"still there after {_ORPHAN_S:.0f} s: {alive}")
        self.outcome.failures += self.lost()
        return True

    def processes(self) -> list[str]:
        """Return the commands of all processes that run in the copy, or with its scratch folder."""
        found, root = [], self.clone.root
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                here = Path(process.cwd()).is_relative_to(root)
                if here or process.environ().get("THAW_SCRATCH") == str(root / ".thaw"):
                    found.append(f"{process.pid} {' '.join(process.cmdline())}")
        return found

    def lost(self) -> Iterator[str]:
        """Yield what of the outs and of git's files is not as it was before the kill.

        Files of the stage's own outs may be missing, since dvc removes them before the stage; none may be torn.
        """
        found, expected = self.clone.hashes(), self.reference.hashes
        for path in sorted(found.keys() | expected.keys()):
            own = any(path == out or path.startswith(f"{out}/") for out in self.outs)
            if found.get(path) != expected.get(path) and not (own and path not in found):
                yield f"{path} is {'not what it was' if path in found else 'lost'} after the kill"
        for line in self.clone.succeed("git", "status", "--porcelain").splitlines():
            if line != " M dvc.lock":
                yield f"after the kill git says {line}"

    def _recover(self) -> str:
        """Run the command once, or, where that says that something is torn, once that is mended; return its output."""
        command = COMMANDS[self.plan.command]
        code, output = self.clone.run(*command)
        if code:
            _, said = self.clone.run("python", "-m", "thaw", "doctor", "--fix")
            self.outcome.mended += (mended := [line for line in said.splitlines() if ": kept as " in line])
            if mended:
                code, output = self.clone.run(*command)
        if code:
            self.outcome.failures.append(f"the next run has failed: {output[-1000:]}")
        return output

    def count_epochs(self) -> None:
        counts = Counter(epoch for saved in self.saves for epoch in saved)
        self.outcome.epochs, self.outcome.repeated = len(counts), counts.total() - len(counts)
        if self.outcome.repeated:
            twice = sorted(epoch for epoch, count in counts.items() if count > 1)
            self.outcome.failures.append(f"trained twice, although there was a checkpoint: {twice}")
        params = self.clone.params()
        phase = params["unfreeze"]["phases"].get(self.plan.stage.partition("@")[2])
        expected = (params["select"]["folds"] + 1) * phase["epochs"] if phase else 0
        if len(counts) != expected:
            self.outcome.failures.append(f"{len(counts)} of {expected} epochs have written a checkpoint")

    def differences(self) -> Iterator[str]:
        """Yield what is not as a run without a kill leaves it, in the outs, in dvc.lock and in DVC's cache."""
        if (self.clone.root / "dvc.lock").read_bytes() != self.reference.lock:
            yield "dvc.lock is another one"
        found, expected = self.clone.hashes(), self.reference.hashes
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name) != expected.get(name):
                yield f"{name} is another one"
        for path in self.clone.root.glob(".dvc/cache/files/md5/??/[!.]*"):
            if hashlib.md5(path.read_bytes()).hexdigest() != path.parent.name + path.name.removesuffix(".dir"):
                yield f"{path} is torn"
        if folders := [str(path) for path in _leavings(self.clone) if path.is_dir()]:
            yield f"never cleared away: {folders}"


def _strike(scene: Scene, plan: Plan, seconds: float) -> bool:
    """Wait for the moment and send the signals; return whether there was a run to send them to."""
    if plan.moment == AT_RANDOM:
        of_stage = plan.target == "stage"
        moment = Moment(
            Scene.started if of_stage else lambda _: True, delay_s=seconds + (0 if of_stage else _BEFORE_STAGE_S)
        )
    else:
        moment = MOMENTS[plan.moment]
    while not moment.has_come(scene):
        if scene.repro.poll() is not None:
            return False
        time.sleep(moment.pause_s)
    time.sleep(plan.fraction * moment.delay_s)
    if scene.repro.poll() is not None or (plan.target == "stage" and not scene.runs()):
        return False
    for number, name in enumerate(plan.signals):
        time.sleep(_BETWEEN_S if number else 0)
        scene.send(plan.target, name)
    return True


@contextmanager
def saves(clone: Clone) -> Iterator[set[tuple[str, int]]]:
    """Yield a set that fills with part and epoch of each checkpoint that is written meanwhile."""
    saved: set[tuple[str, int]] = set()
    over = threading.Event()

    def look() -> Iterator[tuple[int, Path]]:
        with suppress(FileNotFoundError):  # what was listed is gone
            # One that was put aside in mid-save keeps its time when it gets its name again.
            for path in clone.root.glob(".thaw/checkpoints/*/*part-*/state.json"):
                yield path.stat().st_mtime_ns, path

    known = {stamp for stamp, _ in look()}

    def watch() -> None:
        while not over.wait(0.003):
            for stamp, path in look():
                if stamp not in known and path.parent.name.startswith("part-"):
                    with suppress(FileNotFoundError):
                        epoch = json.loads(path.read_text(encoding="utf-8"))["epoch"]
                        known.add(stamp)
                        saved.update({(path.parent.name, epoch)} if epoch else ())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield saved
    finally:
        over.set()
        thread.join()


def stages_below(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the stages that a process has started."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                words = child.cmdline()
                if Path(words[0] if words else "").name.startswith("python") and "-m" in words:
                    found.append(child)
    return found


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _partials(out: Path) -> list[Path]:
    """Return the temporary names under which an out is being written."""
    return [*out.parent.glob(f".{out.name}.partial"), *out.parent.glob(f".{out.name}.*.partial")]


def _leavings(clone: Clone) -> list[Path]:
    """Return what lies under temporary names beside the outs, in the scratch folder, and in DVC's cache."""
    folders = ("data", "models", "models/phases", "reports", ".thaw/*", ".thaw/checkpoints/*")
    ours = {path for folder in folders for path in clone.root.glob(f"{folder}/.*.partial")}
    return sorted(ours | {*clone.root.glob(".dvc/cache/files/md5/??/.*.tmp")})


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except FileNotFoundError:
        return False
