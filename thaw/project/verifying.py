"""`thaw verify`: what is damaged or missing in DVC's cache or in a remote, by its path here and as an object there."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from thaw.errors import ArtifactError
from thaw.pipeline import storage
from thaw.pipeline.storage import Named, Project, State, Store

MOST = 20
"""Findings that are printed one by one."""

_MOST_PATHS = 3


def verify_cache(*, delete: bool, deadline_s: float) -> Iterator[str]:
    """Hash what the workspace names anew in DVC's cache, and yield what was found, a line each.

    What the cache lacks is no damage: a clone brings what it needs. `delete` deletes what is damaged, with the files of
    the workspace that are the same file. Raises: ArtifactError if something is damaged, and is not deleted.
    """
    with storage.opened(deadline_s) as project:
        cache, objects = project.cache(), project.named()
        states = cache.states(objects)
        damaged = [named for named in objects if states[named.oid] is State.DAMAGED]
        yield from _lines("damaged", damaged, cache)
        absent = sorted({named.within or named.oid for named in objects if states[named.oid] is State.MISSING})
        outs = [named.path for named in objects if named.within is None and named.oid in absent]
        if outs:
            yield f"not in {cache.name}, in part or whole: {_some(outs)}; `dvc fetch` brings what a remote has"
        if not damaged:
            yield _whole(states, cache)
        elif delete:
            _delete_linked(damaged, cache)
            cache.delete(damaged, lists=False)
            yield (
                f"deleted from {cache.name}: {_counted(damaged)}; run `dvc pull` to bring them from a remote, or "
                "`dvc repro`; an image that no remote has must be put there again, and `dvc add` run"
            )
        else:
            raise ArtifactError(
                f"damaged in {cache.name}: {_counted(damaged)} of {len(states)}; `thaw verify --delete` deletes them, "
                "then `dvc pull` brings them from a remote, or `dvc repro` makes them"
            )


def verify_remote(name: str | None, *, delete: bool, deadline_s: float) -> Iterator[str]:
    """Do the same in a remote, in which everything must be that `dvc push` takes there.

    Raises: ArtifactError if something is missing, or is damaged and not deleted.
    """
    with storage.opened(deadline_s) as project:
        remote = project.remote(name)
        objects = [named for named in project.named(remote=remote) if named.pushed]
        states = remote.states(objects)
        damaged, missing = (
            [named for named in objects if states[named.oid] is state] for state in (State.DAMAGED, State.MISSING)
        )
        yield from _lines("damaged", damaged, remote)
        yield from _lines("missing", missing, remote)
        if delete and damaged:
            remote.delete(damaged, lists=True)
            yield f"deleted from {remote.name}: {_counted(damaged)}"
        if damaged or missing:
            first = "" if delete or not damaged else f"`thaw verify {_option(name)} --delete`, then "
            raise ArtifactError(
                f"{remote.name}: {_counted(damaged)} damaged, {_counted(missing)} missing; run {first}`dvc push` in a "
                "clone where `thaw verify` finds them whole"
            )
        yield _whole(states, remote)


def verify_pushed(commits: Sequence[str], name: str | None, *, deadline_s: float = storage.DEADLINE_S) -> Iterator[str]:
    """Look whether all that some commits name is in a remote, and whether what lies in the cache of it is whole.

    Raises: ArtifactError if something is not, after a line for each.
    """
    with storage.opened(deadline_s) as project:
        if name is None and not project.has_remote():
            yield "no remote of DVC's is set up, so no data can be in it; `dvc remote add --default NAME URL` does that"
            return
        remote = project.remote(name)
        objects = _of_commits(project, commits, remote)
        absent = remote.absent(objects)
        missing = [named for named in objects if named.oid in absent]
        states = project.cache().states(objects)
        damaged = [named for named in objects if states[named.oid] is State.DAMAGED]
        yield from _lines("missing", missing, remote)
        yield from _lines("damaged", damaged, project.cache())
    if damaged:
        raise ArtifactError(
            f"damaged in DVC's cache, and perhaps pushed so: {_counted(damaged)}; run `thaw verify --delete` and "
            f"`thaw verify {_option(name)} --delete`, restore them, and run `dvc push`"
        )
    if missing:
        every = " --all-commits" if len(commits) > 1 else ""
        to = f" --remote {name}" if name else ""
        raise ArtifactError(f"not in {remote.name}: {_counted(missing)}; run `dvc push{every}{to}` first")
    yield f"{len(absent | states.keys())} objects that {len(commits)} commits name are in {remote.name}"


def _of_commits(project: Project, commits: Sequence[str], remote: Store) -> list[Named]:
    """Return what some commits name and `dvc push` takes to a remote, each object and path once."""
    found = {
        (named.oid, named.path): named
        for commit in commits
        for named in project.named(commit, remote)
        if named.pushed and named.remote in (None, remote.name)
    }
    return list(found.values())


def _delete_linked(damaged: Iterable[Named], cache: Store) -> None:
    """Delete the files of the workspace that are one file with a damaged object: DVC would not look at them again."""
    for named in damaged:
        path, place = Path(named.path), Path(cache.place(named))
        if path.is_file() and path.samefile(place):
            path.unlink()


def _lines(word: str, found: Sequence[Named], store: Store) -> Iterator[str]:
    """Yield a line for each object, with the paths that it stands for."""
    paths: dict[str, list[str]] = {}
    for named in found:
        paths.setdefault(named.oid, []).append(named.path)
    objects = {named.oid: named for named in found}
    for oid in list(paths)[:MOST]:
        yield f"{word}: {_some(paths[oid])} ({store.place(objects[oid])})"
    if len(paths) > MOST:
        yield f"{word}: {len(paths) - MOST} more"


def _some(paths: Sequence[str]) -> str:
    shown = ", ".join(map(shlex.quote, paths[:_MOST_PATHS]))
    return f"{shown} and {len(paths) - _MOST_PATHS} more" if len(paths) > _MOST_PATHS else shown


def _counted(found: Iterable[Named]) -> str:
    number = len({named.oid for named in found})
    return f"{number} object{'' if number == 1 else 's'}"


def _whole(states: dict[str, State], store: Store) -> str:
    return f"{sum(state is State.GOOD for state in states.values())} objects in {store.name} are what they are called"


def _option(name: str | None) -> str:
    return f"--remote {name}" if name else "--remote"
