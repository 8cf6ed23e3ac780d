"""Write whole or not at all: atomic files, artifact folders, and the manifests that vouch for them.

An artifact folder is written under a temporary name, gets a `manifest.json` with the SHA-256 of each of its
files, and is renamed once it is complete. Every reader calls `verify` first: a half-written folder, or a
file that a cache restored wrongly, is refused.
"""

import errno
import glob
import hashlib
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from thaw.errors import ArtifactError
from thaw.pipeline import scratch, timings

MANIFEST = "manifest.json"
_PARTIAL = ".partial"  # how the name of what is still being written ends; .gitignore and .dvcignore know it
_LEFT_BEHIND_S = 3600.0  # a file takes seconds to write: one that is older was left by a killed process


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes, as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON-like value; equal values give equal digests whatever their key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8) in one step; a reader sees the old file or the new one, never a part."""
    with new_file(path) as partial, partial.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as JSON in one step. Raises: ValueError for NaN or infinity, which JSON has no word for."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises: ArtifactError if it is missing or not a JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; `dvc repro` writes it") from None
    except RecursionError:
        raise ArtifactError(
            f"{path} cannot be read as JSON (it is nested too deeply); delete it and run `dvc repro`"
        ) from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON ({error}); delete it and run `dvc repro`") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} holds a {type(value).__name__}, not an object; delete it and run `dvc repro`")
    return value


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` to write to; what is there becomes `path` only if the block succeeds.

    No other process gets the same name: of two that write one file at once, the last one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*{_PARTIAL}"):
        with suppress(FileNotFoundError):
            if leftover.stat().st_mtime < time.time() - _LEFT_BEHIND_S:
                leftover.unlink()
    partial = path.with_name(f".{path.name}.{os.urandom(6).hex()}{_PARTIAL}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes `path`, with a manifest, only if the block succeeds.

    Two processes that write one folder take turns, so that a folder under the temporary name was left by a killed one.
    The folder before is put aside and deleted last: a kill at any moment leaves one of the two, which `put_back` finds.
    """
    partial, aside = path.with_name(f".{path.name}{_PARTIAL}"), _aside(path)
    with one_at_a_time(path):
        put_back(path)
        remove(partial)
        partial.mkdir(parents=True)
        try:
            yield partial
            with timings.part("write"):
                write_json(partial / MANIFEST, {"files": _describe(partial)})
                remove(aside)
                with suppress(FileNotFoundError):
                    path.rename(aside)
                partial.rename(path)
                remove(aside)
        finally:
            remove(partial)
            put_back(path)


def put_back(path: Path) -> None:
    """Give a folder its name again that `new_folder` had put aside when it was killed; a newer one stays."""
    with one_at_a_time(path):
        if not path.exists() and (aside := _aside(path)).exists():
            aside.rename(path)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old{_PARTIAL}")


@contextmanager
def one_at_a_time(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file or folder, which need not exist; the thread that holds it need not wait for itself.

    The lock is a file in the scratch folder while it is held. The system frees it when its process ends, however it
    ends. Raises: BlockingIOError if it is held, be it by this thread, and `wait` is off.
    """
    from filelock import FileLock, Timeout  # here: commands that take no lock need not wait for it

    lock = FileLock(_lock_file(path), is_singleton=True)
    try:
        if lock.is_locked and not wait:
            raise Timeout(lock.lock_file)
        lock.acquire(blocking=wait)
    except Timeout:
        raise BlockingIOError(errno.EWOULDBLOCK, "its lock is held", str(path)) from None
    try:
        yield
    finally:
        if lock.lock_counter == 1:  # those that wait see that their file is gone, and open the next one
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _lock_file(path: Path) -> Path:
    """Return where the lock of a path lies: the same file wherever the folder that both are in is mounted."""
    folder = scratch.folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    place = os.path.relpath(Path(os.path.realpath(path.parent), path.name), os.path.realpath(folder))
    return folder / f"{path.name[:40]}-{sha256_of_bytes(os.fsencode(place))[:16]}.lock"


def forget(path: Path, *, unused_s: float = 0.0) -> None:
    """Delete a file or folder of the scratch space, unless a process holds its lock or it was used in that time.

    One that is gone meanwhile is no error. What a killed run left is deleted under the lock of what it was to be.
    """
    whole = path.with_name(path.name.removeprefix(".").removesuffix(_PARTIAL)) if path.suffix == _PARTIAL else path
    with suppress(BlockingIOError, FileNotFoundError), one_at_a_time(whole, wait=False):
        if path.stat().st_mtime <= time.time() - unused_s:
            remove(path)


@timings.counted("read")
def verify(folder: Path, only: Collection[str] = ()) -> str:
    """Check every file of an artifact folder, or `only` some, against its manifest; return the manifest's own SHA-256.

    Raises: ArtifactError naming the first file that is missing, altered or not listed.
    """
    listed = read_json(folder / MANIFEST).get("files")
    if not isinstance(listed, dict):
        raise ArtifactError(f"{folder / MANIFEST} lists no files; delete {folder} and run `dvc repro`")
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    if only:
        present, listed = present & set(only), {name: listed.get(name) for name in only}
    for name in sorted(present ^ set(listed)):
        state = "is not in its manifest" if name in present else "is missing"
        raise ArtifactError(f"{folder / name} {state}; {_mend(folder)}")
    for name, entry in sorted(listed.items()):
        path = folder / name
        said = entry if isinstance(entry, dict) else {}
        if path.stat().st_size != said.get("bytes") or sha256_of(path) != said.get("sha256"):
            raise ArtifactError(f"{path} is not what its manifest says (altered or cut short); {_mend(folder)}")
    return sha256_of(folder / MANIFEST)


def _mend(folder: Path) -> str:
    # DVC 3.67 trusts an object of its cache that is read-only, and checks one that is not.
    return f"run `chmod -R u+w .dvc/cache` to have DVC check its copies, delete {folder}, then run `dvc repro`"


def _describe(folder: Path) -> dict[str, dict[str, int | str]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths
    }


def remove(path: Path) -> None:
    """Delete a file or a folder with all that is in it; nothing to delete is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
