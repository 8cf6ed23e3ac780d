"""Files of a revision, those that DVC tracks included: read where they lie, in DVC's cache or in a remote.

It imports DVC, through its public interface, as storage.py does; no stage can import this one.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from thaw.errors import ArtifactError, RunError, first_line
from thaw.pipeline import artifacts

WORKSPACE = "workspace"
_SECONDS = {"connect_timeout": 3, "read_timeout": 10}
WAITING = {"s3": _SECONDS, "http": _SECONDS, "https": _SECONDS, "ssh": {"timeout": 10}}
"""For the schemes of a remote's URL, DVC's options that end the wait for one that is silent, in seconds."""

_SHORT = 7  # digits of a commit that are shown


class AbsentError(ArtifactError):
    """A revision, or the workspace, has no such file."""


@dataclass(frozen=True)
class Tree:
    """The files of a revision, or of the workspace."""

    name: str
    """What the user calls it."""
    opener: Callable[[str], BinaryIO]
    """Returns a file by its path from the project's folder, to read and to seek in."""
    commit: str | None = None
    """The hash of the commit; None for the workspace."""

    @property
    def shown(self) -> str:
        """The name, with the first digits of the commit where the name is another one."""
        return shown(self.name, self.commit)

    def open(self, path: str) -> BinaryIO:
        """Return a file to read and to seek in. Raises: ThawError with what to do if it cannot be had."""
        return self.opener(path)

    def read(self, path: str) -> bytes:
        """Return the bytes of a file. Raises: ThawError with what to do if it cannot be had."""
        with self.open(path) as file:
            return file.read()

    def read_if_there(self, path: str) -> bytes | None:
        """Return the bytes of a file, or None if there is no such file. Raises: ThawError if it cannot be had."""
        try:
            return self.read(path)
        except AbsentError:
            return None

    def fetch(self, path: str, folder: Path) -> Path:
        """Return a copy of a file below `folder`; a path that leads out of the project leads nowhere else there.

        Raises: ThawError as `open`.
        """
        target = folder.joinpath(*(part for part in Path(path).parts if part not in (Path(path).anchor, "..")))
        target.parent.mkdir(parents=True, exist_ok=True)
        with self.open(path) as file, target.open("wb") as copy:
            shutil.copyfileobj(file, copy)
        return target

    def fetch_artifact(self, path: str, folder: Path) -> Path:
        """Return a copy of a folder that a stage wrote: what its manifest lists. Raises: ThawError as `open`."""
        manifest = self.fetch(f"{path}/{artifacts.MANIFEST}", folder)
        for name in artifacts.read_json(manifest).get("files", {}):
            self.fetch(f"{path}/{name}", folder)
        return manifest.parent


def shown(name: str, commit: str | None) -> str:
    """Return the name of a revision, with the first digits of its commit where the name is another one."""
    return name if commit is None or commit.startswith(name) else f"{name} ({commit[:_SHORT]})"


def workspace(stage: str, out: str) -> Tree:
    """Return the workspace, to read what a stage wrote into the folder `out`.

    Raises: RunError if it is missing, or older than what it was made from.
    """
    if not Path(out).is_dir():
        raise RunError(
            f"{out} is missing in the {WORKSPACE}; run `dvc repro {stage}`, or `dvc pull {out}` for what dvc.lock names"
        )
    with dvc_errors(), repository() as opened:
        status = opened.status(targets=[stage])
    if stale := list(_changes(status.get(stage, []))):
        raise RunError(f"{out} in the {WORKSPACE} is out of date ({', '.join(stale)}); run `dvc repro {stage}`")
    return Tree(WORKSPACE, _open_here)


def here() -> Tree:
    """Return the workspace; a file that is not on disk is read as dvc.lock names it, from DVC's cache or its remote.

    Raises: RunError if this is no folder of a DVC repository.
    """
    from dvc.api import DVCFileSystem

    with dvc_errors():
        files = DVCFileSystem(url=".")

    def opened(path: str) -> BinaryIO:
        if Path(path).is_file():
            return Path(path).open("rb")
        try:
            return _open_of(files, WORKSPACE, path)
        except ArtifactError:
            raise ArtifactError(f"{path} is not in the {WORKSPACE}; run `dvc pull {path}`, or `dvc repro`") from None

    return Tree(WORKSPACE, opened)


def revision(name: str) -> Tree:
    """Return a revision by what git or DVC call it: a commit, branch, tag or experiment.

    Raises: RunError if there is none of that name, or no DVC repository here.
    """
    from dvc.api import DVCFileSystem
    from dvc.scm import RevError, resolve_rev

    with dvc_errors(), repository() as opened:
        try:
            commit = resolve_rev(opened.scm, name)
        except RevError:
            raise RunError(
                f"{name!r} is no commit, branch, tag or experiment here; `git log` and `dvc exp show` list them, "
                "`git fetch` brings those of others"
            ) from None
        config = _storage(opened.config)
    with dvc_errors():
        files = DVCFileSystem(url=".", rev=commit, config=config)
    return Tree(name, lambda path: _open_of(files, name, path), commit)


State = Literal["done", "running", "queued", "failed"]
_STATES: Mapping[str, State] = {"running": "running", "queued": "queued", "failed": "failed"}


@dataclass(frozen=True)
class Experiment:
    """An experiment of DVC, or the commit that experiments start from."""

    name: str
    commit: str
    state: State
    params: Mapping[str, Any]
    """The tree of its params.yaml; empty where that cannot be read."""


def experiments(baseline: str) -> tuple[Experiment, list[Experiment]]:
    """Return a commit, and the experiments that start from it, the queued and the failed ones included.

    Raises: RunError if there is no such commit, or no DVC repository here.
    """
    commit = revision(baseline).commit
    with dvc_errors(), repository() as opened:
        shown = opened.experiments.show(revs=[commit], hide_workspace=True)
    start = next(state for state in shown if state.rev == commit)
    return _experiment(start, "done", baseline), [
        _experiment(found.revs[0], _state(found.executor), found.revs[0].rev[:_SHORT])
        for found in start.experiments or []
    ]


def _state(executor: Any) -> State:
    """Return the state of an experiment; DVC names an executor while it is not done, and where it failed."""
    return "done" if executor is None else _STATES.get(executor.state, "done")


def _experiment(state: Any, at: State, unnamed: str) -> Experiment:
    found = {} if state.data is None else state.data.dumpd()["params"].get("params.yaml", {})
    return Experiment(state.name or unnamed, state.rev, at, found.get("data") or {})


def _storage(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return where DVC's settings of today keep objects: the revision may have had another remote, or none."""
    name = config["core"].get("remote")
    known = name in config["remote"]
    options = config["remote"][name] if known else {}
    scheme = str(options.get("url", "")).partition("://")[0]
    patient = {**WAITING.get(scheme, {}), **options}
    remote = {"core": {"remote": name}, "remote": {name: patient}} if known else {}
    return {"cache": dict(config["cache"]), **remote}


def _open_here(path: str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except FileNotFoundError:
        raise AbsentError(f"{path} is missing in the {WORKSPACE}; run `dvc repro`, which writes it") from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}; see to its permissions") from None


def _open_of(files: Any, name: str, path: str) -> BinaryIO:
    """Open a file of a revision. Raises: ArtifactError that tells a file that it never had from one that is away."""
    try:
        file: BinaryIO = files.open(path, "rb")
    except Exception as error:  # noqa: BLE001, the library of each kind of remote has errors of its own
        if not isinstance(error, FileNotFoundError):
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise ArtifactError(
                f"{path} of {name} cannot be had from DVC's cache or its remote: {first_line(cause)}"
            ) from None
        if out := _recorded(files, path):
            raise ArtifactError(
                f"{path} of {name} is neither in DVC's cache nor in a remote that answers; run "
                f"`dvc fetch --all-commits -r REMOTE {out}` if another remote has it, or "
                f"`dvc push --all-commits {out}` in a clone that has it"
            ) from None
        raise AbsentError(
            f"{name} has no {path}: the pipeline had not written it when that was committed; name another revision"
        ) from None
    return file


def _recorded(files: Any, path: str) -> str:
    """Return the out of a revision, with a hash in its dvc.lock, that is or holds a path; '' if there is none."""
    parts = Path(path).parts
    for found in files.repo.index.outs:
        out = Path(str(found.fs_path)).relative_to(files.repo.root_dir)
        if found.hash_info and parts[: len(out.parts)] == out.parts:
            return out.as_posix()
    return ""


def _changes(entries: list[Any]) -> Iterator[str]:
    """Yield what `dvc status` says of a stage; that the cache lacks an out is no change."""
    for entry in entries:
        for kind, found in entry.items() if isinstance(entry, dict) else [(str(entry), {})]:
            changed = {path: state for path, state in found.items() if state != "not in cache"} if found else None
            if changed is None:
                yield str(kind)
            elif changed:
                yield f"{kind}: {', '.join(changed)}"


@contextmanager
def repository() -> Iterator[Any]:
    """Yield the DVC repository of the current folder."""
    from dvc.repo import Repo

    os.environ.setdefault("AWS_MAX_ATTEMPTS", "1")  # s3fs tries five times, and botocore five times each

    with Repo(".") as opened:
        yield opened


@contextmanager
def dvc_errors() -> Iterator[None]:
    """Within, an error of DVC's becomes one line. Raises: RunError."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.lock import LockError
    from dvc.scm import SCMError

    try:
        yield
    except NotDvcRepoError:
        raise RunError(f"{Path.cwd()} is no DVC project; run this in the folder where dvc.yaml is") from None
    except LockError:
        raise RunError(
            "another DVC command is at work in this folder; wait for it, and run this again (if none is, see "
            "https://dvc.org/doc/user-guide/troubleshooting#lock-issue)"
        ) from None
    except (DvcException, SCMError) as error:
        raise RunError(f"DVC says: {first_line(error)}") from None
