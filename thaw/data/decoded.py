"""Decoded images by the content of their files, kept in the scratch folder, so that a file is decoded once.

A folder for each set of the settings, code and libraries that pixels depend on; in it

- `images.bin`: pixels and looks, one after the other, only ever added to;
- `images.jsonl`: a line for each file that was decoded or refused: its SHA-256, where its pixels lie, what was seen;
- `files.json`: the SHA-256 of each file by its path, size and time, as git's index has it, which saves reading it;
- `glance.npz`, `half.npz` and `full.npz`: what pairs of looks have in common (near_copies.py).

Deleting it costs time only. What is damaged is found by CRC-32 where it is read, and the folder is then made anew.
"""

import dataclasses
import importlib.metadata
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, TypeVar, get_type_hints

from pydantic import TypeAdapter, create_model

from thaw.config.schema import PrepareParams
from thaw.data.ingest import Ingested
from thaw.data.spool import DamagedError, Place, Spool
from thaw.pipeline import artifacts, scratch
from thaw.pipeline.artifacts import digest, sha256_of

Result = TypeVar("Result")

_LIBRARIES = ("imagecodecs", "numpy", "pillow", "pillow-heif", "pydicom", "scipy", "tifffile")
# What changes the split, and no pixel.
_NOT_OF_PIXELS = {"near_copies", "max_leaks", "max_rejected", "val_fraction", "test_fraction"}
_SETTLED_S = 2.0  # a file that was written later than so long ago may be written again at the same time and size
_UNUSED_S = 14 * 24 * 3600.0
_SPARE_BYTES = 2**30  # of images that are not used any more
_SEEN = create_model(
    "Seen",
    **{
        field.name: (get_type_hints(Ingested)[field.name], ...)
        for field in dataclasses.fields(Ingested)
        if field.name not in {"path", "number", "pixels", "look"}
    },  # type: ignore[call-overload]
)
_PLACE = TypeAdapter(Place | None)

FileState = tuple[int, int, int]
"""Size, time of the last change in ns, and inode."""
Known = tuple[FileState, str]
"""The state of a file, and the SHA-256 of its bytes."""


class Decoded(Spool):
    """Decoded images, of this run and of earlier ones."""

    def __init__(self, folder: Path, file: BinaryIO, index: BinaryIO, size_px: int) -> None:
        """Take the folder, and images.bin and images.jsonl in it, open to read and write."""
        super().__init__(file, size_px)
        self.folder = folder
        self._index = index
        self._by_content: dict[str, Ingested] = {}
        self._files: dict[str, Known] = {}
        self._asked: dict[str, FileState] = {}
        self._used: set[str] = set()
        self._load()

    @property
    def contents(self) -> frozenset[str]:
        """The SHA-256 of the files whose pixels, or the reason why there are none, are known."""
        return frozenset(self._by_content)

    def recall(self, root: Path, path: str) -> Ingested | None:
        """Return what became of a file that has not changed since; None if it must be read.

        Its state is noted now: a change while it is read is seen the next time.
        """
        full = str(root / path)
        if (state := _state(full)) is None:
            return None
        before, sha256 = self._files.get(full, (None, ""))
        if before == state and sha256 in self._by_content:
            return self._known(path, sha256)
        self._asked[full] = state
        return None

    def _known(self, path: str, sha256: str) -> Ingested:
        self._used.add(sha256)
        return dataclasses.replace(self._by_content[sha256], path=path)

    def keep(self, root: Path, item: Ingested) -> Ingested:
        """Return what became of a file with the number of its pixels, which are stored, in their place."""
        if not item.sha256:  # it could not be read, or not within the limits: this may be of this moment
            return item
        if item.sha256 not in self._by_content:
            number = None if item.pixels is None else self.append(item.pixels, item.look)
            found = dataclasses.replace(item, number=number, pixels=None, look=None)
            self._by_content[item.sha256] = found
            self._write_line(found)
        full = str(root / item.path)
        if (state := self._asked.pop(full, None)) is not None:
            self._files[full] = (state, item.sha256)
        return self._known(item.path, item.sha256)

    def write_files(self) -> None:
        """Write what is known of files, once the images that it tells of are written."""
        self._file.flush()
        self._index.flush()
        kept = {path: [*state, sha256] for path, (state, sha256) in self._files.items()}
        artifacts.write_text(self.folder / "files.json", json.dumps(kept))

    @property
    def is_mostly_unused(self) -> bool:
        """Whether most of what is kept is of images that this run has not seen."""
        return self._end > _SPARE_BYTES and len(self._used) < len(self._by_content) / 2

    def _write_line(self, found: Ingested) -> None:
        place = None if found.number is None else self._places[found.number]
        seen = _SEEN.model_validate(found, from_attributes=True).model_dump(mode="json")
        line = json.dumps({"place": _PLACE.dump_python(place), "seen": seen})
        self._index.write(f"{line}\n".encode())

    def _load(self) -> None:
        """Read what is known; a last line without an end was cut short by a kill, and its pixels are written over."""
        self._index.seek(0)
        length = 0
        for line in self._index:
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                place = _PLACE.validate_python(entry["place"])
                seen = _SEEN.model_validate_json(json.dumps(entry["seen"]))
            except (ValueError, KeyError, TypeError):
                raise DamagedError(f"{self.folder} is damaged; delete it, and run `dvc repro`") from None
            number = None if place is None else self.adopt(place)
            found = Ingested(path="", number=number, **{name: getattr(seen, name) for name in _SEEN.model_fields})
            self._by_content[found.sha256] = found
            length += len(line)
        self._index.truncate(length)
        with suppress(OSError, ValueError, TypeError):
            kept = json.loads((self.folder / "files.json").read_text(encoding="utf-8"))
            self._files = {path: ((size, at, inode), sha256) for path, (size, at, inode, sha256) in kept.items()}


def _state(path: str) -> FileState | None:
    """Return what tells that a file is as it was; None for a link, and for one that may still be written."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    settled = found.st_mtime < time.time() - _SETTLED_S
    return (found.st_size, found.st_mtime_ns, found.st_ino) if settled and stat.S_ISREG(found.st_mode) else None


def with_kept(settings: PrepareParams, work: Callable[[Decoded], Result]) -> Result:
    """Return what the work makes of the images that are kept; it is done again without any if those are damaged."""
    folder = scratch.folder() / "decoded" / _key(settings)
    with artifacts.one_at_a_time(folder):
        _forget_unused(folder)
        try:
            return _with(folder, settings.size_px, work)
        except DamagedError:
            artifacts.remove(folder)
            print(f"prepare: decoded images of an earlier run were damaged ({folder}); all images are read anew")
            return _with(folder, settings.size_px, work)


def _with(folder: Path, size_px: int, work: Callable[[Decoded], Result]) -> Result:
    folder.mkdir(parents=True, exist_ok=True)
    with _opened(folder, size_px) as kept:
        result = work(kept)
    if kept.is_mostly_unused:
        artifacts.remove(folder)
    else:
        os.utime(folder)
    return result


@contextmanager
def _opened(folder: Path, size_px: int) -> Iterator[Decoded]:
    pixels = folder / "images.bin"
    pixels.touch()
    with pixels.open("r+b") as file, (folder / "images.jsonl").open("a+b") as index:
        kept = Decoded(folder, file, index, size_px)
        try:
            yield kept
        finally:
            kept.write_files()


def _forget_unused(but: Path) -> None:
    for folder in but.parent.glob("*"):
        if folder != but:
            artifacts.forget(folder, unused_s=_UNUSED_S)


def _key(settings: PrepareParams) -> str:
    pixels = settings.model_dump(mode="json", exclude=_NOT_OF_PIXELS)
    return digest({"settings": pixels, "code": _code(), "libraries": _versions()})[:16]


@cache
def _code() -> list[str]:
    return [sha256_of(path) for path in sorted(Path(__file__).parent.glob("*.py"))]


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
