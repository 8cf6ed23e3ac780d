"""Write whole or not at all: atomic files, artifact folders, and the manifests that vouch for them.

An artifact folder is written under a temporary name, gets a `manifest.json` with the SHA-256 of each of its
files, and is renamed once it is complete. Whoever reads one calls `verify` first: a half-written folder, or a
file that a cache restored wrongly, is refused.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thaw.errors import ArtifactError
from thaw.pipeline import timings

MANIFEST = "manifest.json"


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
    temporary = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as JSON in one step. Raises: ValueError for NaN or infinity, which JSON has no word for."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises: ArtifactError if it is missing or not a JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; `dvc repro` writes it") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON ({error}); delete it and run `dvc repro`") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} holds a {type(value).__name__}, not an object; delete it and run `dvc repro`")
    return value


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes `path`, with a manifest, only if the block succeeds."""
    partial = path.with_name(f".{path.name}.partial")
    remove(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        with timings.part("write"):
            write_json(partial / MANIFEST, {"files": _describe(partial)})
            remove(path)
            partial.rename(path)
    finally:
        remove(partial)


@contextmanager
def one_at_a_time(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock beside a folder of the scratch space. Raises: BlockingIOError if it is held and `wait` is off."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


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
