"""What a revision names in DVC's cache and in a remote: whether the objects are there, and hash to their names.

With revisions.py the only module that imports DVC; no stage can import this one.
"""

import hashlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from thaw.errors import RunError, first_line
from thaw.pipeline import revisions
from thaw.progress import progress

DEADLINE_S = 60.0
"""Longest silence of a remote, unless another is asked for."""

_THREADS = 8
_CHUNK = 2**20  # as DVC reads
_KINDS = ("md5", "md5-dos2unix")  # what lies in a bucket itself is known by its ETag, and DVC keeps no copy
_LIST = ".dir"  # ends the name of an object that lists the files of a folder


@dataclass(frozen=True)
class Named:
    """An object that a revision names."""

    path: str
    """The file from the project's folder; of the list of a folder's files, the folder."""
    oid: str
    """The MD5 of its bytes, which is its name; a list's ends in `.dir`."""
    kind: str
    """How DVC hashes it: md5, or md5-dos2unix for what DVC 2 wrote."""
    pushed: bool
    """Whether `dvc push` takes it to a remote."""
    remote: str | None = None
    """The remote that the out names; None is the project's own."""
    within: str | None = None
    """For a file of a folder, the object that lists it."""


class State(Enum):
    """What became of an object."""

    GOOD = "good"
    DAMAGED = "damaged"
    MISSING = "missing"


class Store:
    """DVC's cache, or a remote."""

    def __init__(self, name: str, database: Callable[[str], Any], deadline_s: float) -> None:
        """`database` returns DVC's database of objects for a kind of hash."""
        self.name = name
        self._database = database
        self._deadline_s = deadline_s

    def place(self, named: Named) -> str:
        """Return where an object lies: a path, or the URL in a remote."""
        database = self._database(named.kind)
        path = str(database.oid_to_path(named.oid))
        if database.fs.protocol != "local":
            return str(database.fs.unstrip_protocol(path))
        return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path

    def states(self, objects: Iterable[Named]) -> dict[str, State]:
        """Return the state of each object by its name, hashed anew; a bar shows how far it is.

        Raises: RunError if the store is silent for too long, or refuses.
        """
        wanted = {named.oid: named for named in objects}
        calls = {oid: partial(self._state, named=named) for oid, named in wanted.items()}
        return dict(progress(self._answers(calls), total=len(calls), label=f"hashing what is in {self.name}"))

    def absent(self, objects: Iterable[Named]) -> set[str]:
        """Return the names of objects that are not there. Raises: RunError as `states`."""
        kinds: dict[str, set[str]] = {}
        for named in objects:
            kinds.setdefault(named.kind, set()).add(named.oid)
        calls = {kind: partial(self._missing, kind=kind, oids=oids) for kind, oids in kinds.items()}
        return {oid for _, missing in self._answers(calls) for oid in missing}

    def read(self, named: Named) -> bytes | None:
        """Return the bytes of an object that is whole, or None. Raises: RunError as `states`."""
        content: bytes | None
        ((_, content),) = self._answers({named.oid: partial(self._read, named=named)})
        return content

    def delete(self, objects: Iterable[Named], *, lists: bool) -> None:
        """Delete objects, and if asked the lists of the folders that they belong to. Raises: RunError as `states`.

        Of a folder whose list is in a remote, DVC takes every file to be there.
        """
        both = ((named.kind, oid) for named in objects for oid in (named.oid, named.within if lists else None))
        gone = {(kind, oid) for kind, oid in both if oid is not None}
        calls = {oid: partial(self._delete, kind=kind, oid=oid) for kind, oid in sorted(gone)}
        for _ in self._answers(calls):
            pass

    def _state(self, beat: Callable[[], None], named: Named) -> State:
        database = self._database(named.kind)
        try:
            with database.fs.open(database.oid_to_path(named.oid), "rb") as file:
                plain, as_text = hashlib.md5(usedforsecurity=False), hashlib.md5(usedforsecurity=False)
                while chunk := file.read(_CHUNK):
                    plain.update(chunk)
                    if named.kind != "md5":  # DVC 2 hashed text with the ends of lines that Unix has
                        as_text.update(chunk.replace(b"\r\n", b"\n"))
                    beat()
        except FileNotFoundError:
            return State.MISSING
        wanted = named.oid.removesuffix(_LIST)
        return State.GOOD if wanted in (plain.hexdigest(), as_text.hexdigest()) else State.DAMAGED

    def _missing(self, beat: Callable[[], None], kind: str, oids: set[str]) -> set[str]:
        database = self._database(kind)
        if database.fs.protocol == "local":  # DVC would trust the mode of each file
            return {oid for oid in oids if not Path(database.oid_to_path(oid)).exists()}
        return oids - set(database.oids_exist(oids, progress=lambda *_: beat()))

    def _read(self, beat: Callable[[], None], named: Named) -> bytes | None:
        if self._state(beat, named) is not State.GOOD:
            return None
        database = self._database(named.kind)
        with database.fs.open(database.oid_to_path(named.oid), "rb") as file:
            return bytes(file.read())

    def _delete(self, _beat: Callable[[], None], kind: str, oid: str) -> None:
        database = self._database(kind)
        with suppress(FileNotFoundError):
            database.fs.remove(database.oid_to_path(oid))

    def _answers(self, calls: Mapping[Any, Callable[[Callable[[], None]], Any]]) -> Iterator[tuple[Any, Any]]:
        """Yield what each call returns, as they end, by its key. Raises: RunError if none says anything for too long.

        The threads are daemons: the process ends with the error, whatever a library of the remote still waits for.
        """
        pending: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        ended: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        heard = [time.monotonic()]

        def beat() -> None:
            heard[0] = time.monotonic()

        def work() -> None:
            with suppress(queue.Empty):
                while True:
                    key, call = pending.get_nowait()
                    try:
                        ended.put((key, call(beat)))
                    except Exception as error:  # noqa: BLE001, the library of each kind of remote has errors of its own
                        ended.put((key, error))

        for entry in calls.items():
            pending.put(entry)
        for _ in range(min(_THREADS, len(calls))):
            threading.Thread(target=work, daemon=True).start()
        for _ in calls:
            key, answer = self._next(ended, heard)
            if isinstance(answer, Exception):
                raise RunError(f"{self.name} cannot be read: {first_line(answer)}; see to its URL, rights and network")
            beat()
            yield key, answer

    def _next(self, ended: "queue.SimpleQueue[tuple[Any, Any]]", heard: Sequence[float]) -> tuple[Any, Any]:
        while True:
            with suppress(queue.Empty):
                return ended.get(timeout=min(1.0, self._deadline_s))
            if time.monotonic() - heard[0] > self._deadline_s:
                raise RunError(
                    f"{self.name} has not answered for {self._deadline_s:.0f} s; see to its URL and the network "
                    "(`dvc remote list`), and run this again"
                )


class Project:
    """The DVC project in the current folder."""

    def __init__(self, repository: Any, deadline_s: float) -> None:
        """`repository` is DVC's, opened."""
        self._repository = repository
        self._deadline_s = deadline_s

    def cache(self) -> Store:
        """Return DVC's cache."""
        cache = self._repository.cache
        return Store(
            "DVC's cache", lambda kind: cache.legacy if kind == "md5-dos2unix" else cache.local, self._deadline_s
        )

    def remote(self, name: str | None = None) -> Store:
        """Return a remote; without a name the project's own. Raises: RunError if there is none of that name."""
        from dvc.exceptions import DvcException

        cloud = self._repository.cloud
        wanted = name or self._repository.config["core"].get("remote")
        if wanted not in self._repository.config["remote"]:
            known = ", ".join(self._repository.config["remote"]) or "none"
            raise RunError(
                f"there is no remote {wanted or 'by default'} (there are: {known}); set one up by `dvc remote add "
                "--default NAME URL`"
            )
        try:
            databases = {kind: cloud.get_remote_odb(wanted, hash_name=kind) for kind in _KINDS}
        except DvcException as error:
            raise RunError(f"remote {wanted} cannot be used: {first_line(error)}") from None
        return Store(f"remote {wanted}", databases.__getitem__, self._deadline_s)

    def has_remote(self) -> bool:
        """Tell whether the project has a remote of its own."""
        return self._repository.config["core"].get("remote") is not None

    def named(self, commit: str | None = None, remote: Store | None = None) -> list[Named]:
        """Return the objects that a commit names, or the workspace; the list of a folder before its files.

        The files of a folder are known only if its list is whole in the cache, or in the remote.
        Raises: RunError if DVC cannot read the commit, or as `Store.states`.
        """
        with revisions.dvc_errors():
            if commit is None:
                return self._named(remote)
            for found in self._repository.brancher(revs=[commit], workspace=False, sha_only=True):
                if found == commit:
                    return self._named(remote)
        return []

    def _named(self, remote: Store | None) -> list[Named]:
        objects = []
        for out in self._repository.index.outs:
            if not (out.use_cache and out.hash_info) or out.stage.is_repo_import or out.hash_name not in _KINDS:
                continue
            path = out.fs.relpath(out.fs_path, self._repository.root_dir)
            top = Named(path, out.hash_info.value, out.hash_name, out.can_push, out.remote)
            objects += [top, *(self._files(top, remote) if top.oid.endswith(_LIST) else ())]
        return objects

    def _files(self, folder: Named, remote: Store | None) -> Iterator[Named]:
        content = self.cache().read(folder)
        if content is None and remote is not None and folder.pushed:
            content = remote.read(folder)
        for entry in json.loads(content) if content is not None else ():
            yield Named(
                f"{folder.path}/{entry['relpath']}", entry["md5"], folder.kind, folder.pushed, folder.remote, folder.oid
            )


def databases() -> list[Path]:
    """Return the data bases in which DVC keeps hashes of files and links, outside of the project in this folder.

    DVC says where they are, but is not opened: it opens them itself, and fails where one is torn. Raises: RunError if
    its settings cannot be read.
    """
    from dvc.config import Config
    from dvc.fs import localfs
    from dvc.repo import Repo

    created = Path(".dvc", "tmp", "btime")
    if not created.exists():  # no command of DVC has run here yet
        return []
    with revisions.dvc_errors():
        config = Config.from_cwd()
    asked: Any = SimpleNamespace(config=config, fs=localfs, root_dir=str(Path.cwd()), _btime=created.stat().st_mtime)
    place: Any = vars(Repo)["site_cache_dir"]  # a cached property
    return sorted(Path(place.fget(asked)).rglob("cache.db"))


@contextmanager
def opened(deadline_s: float = DEADLINE_S) -> Iterator[Project]:
    """Yield the DVC project in the current folder. Raises: RunError if there is none, or a remote does not answer."""
    with revisions.dvc_errors(), revisions.repository() as repository:
        yield Project(repository, deadline_s)
