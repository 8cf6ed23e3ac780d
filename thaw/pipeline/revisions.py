"""Files of a revision, those that DVC tracks included: read where they lie, in DVC's cache or in a remote.

The only module that imports DVC, through its public interface; no stage can import this one.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from thaw.errors import ArtifactError, RunError, first_line

WORKSPACE = "workspace"


class AbsentError(ArtifactError):
    """A revision, or the workspace, has no such file."""


@dataclass(frozen=True)
class Tree:
    """The files of a revision, or of the workspace."""

    name: str
    """What the user calls it."""
    opener: Callable[[str], BinaryIO]
    """Returns a file by its path from the project's folder, to read and to seek in."""

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


def workspace(stage: str, out: str) -> Tree:
    """Return the workspace, to read what a stage wrote into the folder `out`.

    Raises: RunError if it is missing, or older than what it was made from.
    """
    if not Path(out).is_dir():
        raise RunError(
            f"{out} is missing in the {WORKSPACE}; run `dvc repro {stage}`, or `dvc pull {out}` for what dvc.lock names"
        )
    with _dvc_errors(), _repository() as repository:
        status = repository.status(targets=[stage])
    if stale := list(_changes(status.get(stage, []))):
        raise RunError(f"{out} in the {WORKSPACE} is out of date ({', '.join(stale)}); run `dvc repro {stage}`")
    return Tree(WORKSPACE, _open_here)


def revision(name: str) -> Tree:
    """Return a revision by what git or DVC call it: a commit, branch, tag or experiment.

    Raises: RunError if there is none of that name, or no DVC repository here.
    """
    from dvc.api import DVCFileSystem
    from dvc.scm import RevError, resolve_rev

    with _dvc_errors(), _repository() as repository:
        try:
            commit = resolve_rev(repository.scm, name)
        except RevError:
            raise RunError(
                f"{name!r} is no commit, branch, tag or experiment here; `git log` and `dvc exp show` list them, "
                "`git fetch` brings those of others"
            ) from None
        config = _storage(repository.config)
    with _dvc_errors():
        files = DVCFileSystem(url=".", rev=commit, config=config)
    return Tree(name, lambda path: _open_of(files, name, path))


def _storage(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return where DVC's settings of today keep objects: the revision may have had another remote, or none."""
    name = config["core"].get("remote")
    known = name in config["remote"]
    remote = {"core": {"remote": name}, "remote": {name: config["remote"][name]}} if known else {}
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
    folder = path.rpartition("/")[0] or path
    try:
        file: BinaryIO = files.open(path, "rb")
    except Exception as error:  # noqa: BLE001, the library of each kind of remote has errors of its own
        if not isinstance(error, FileNotFoundError):
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise ArtifactError(
                f"{path} of {name} cannot be had from DVC's cache or its remote: {first_line(cause)}"
            ) from None
        if _is_recorded(files, folder):
            raise ArtifactError(
                f"{path} of {name} is neither in DVC's cache nor in a remote that answers; run "
                f"`dvc fetch --all-commits -r REMOTE {folder}` if another remote has it, or "
                f"`dvc push --all-commits {folder}` in a clone that has it"
            ) from None
        raise AbsentError(
            f"{name} has no {path}: the pipeline had not written it when that was committed; name another revision"
        ) from None
    return file


def _is_recorded(files: Any, out: str) -> bool:
    """Return whether the dvc.lock of a revision has the hash of an out."""
    return any(str(found.fs_path).endswith(out) and bool(found.hash_info) for found in files.repo.index.outs)


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
def _repository() -> Iterator[Any]:
    from dvc.repo import Repo

    with Repo(".") as repository:
        yield repository


@contextmanager
def _dvc_errors() -> Iterator[None]:
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
