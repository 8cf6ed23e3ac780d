"""Where the files of a data set lie: in a folder, or in archives and tables that are read in place.

All give the same: names below folders, and bytes by path. In an archive, what is no regular file is rejected when it
is read, as a broken link in a folder is.
"""

import os
import posixpath
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from thaw.data.needs import allowed
from thaw.data.pixel_values import UnusableError
from thaw.errors import DataError

_BEGINNING_BYTES = 4096
_LARGEST_TABLE = 2**30
_MOST_TIMES, _SMALL = 100, 2**26  # a table packed to less than a hundredth is none, unless it is small
_IGNORED = {"thumbs.db", "desktop.ini", "__macosx", "icon\r"}
# What stands beside images and is none: annotations, tables, notes.
_BESIDE_IMAGES = frozenset({
    ".xml", ".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".rst", ".html", ".yaml", ".yml", ".toml", ".cfg", ".ini",
    ".log", ".names", ".data", ".db", ".mat", ".npy", ".npz", ".py", ".ipynb", ".sh", ".pdf", ".xls", ".xlsx", ".docx",
})  # fmt: skip
_LOCAL_HEADER = 30  # bytes of a zip's header before the name (APPNOTE 6.3.10, 4.3.7)


class Entry(NamedTuple):
    """What stands in a folder."""

    name: str
    kind: Literal["file", "folder", "link"]
    """A link is a symbolic one to a folder, which is not followed; a file is all that is no folder."""


class Place(Protocol):
    """The files of a data set by their paths: relative, with forward slashes."""

    @property
    def root(self) -> Path:
        """The folder, or the archive, as messages name it; a path below it names a file."""

    def entries(self, folder: str = "") -> list[Entry]:
        """Return what stands in a folder ('' is the top) and is not hidden, by name."""

    def has(self, path: str) -> bool:
        """Tell whether there is something of that path."""

    @property
    def files(self) -> list[str]:
        """Paths of all files, sorted."""

    def content(self, path: str) -> bytes:
        """Return the bytes of a table or a list. Raises: DataError if they cannot be had."""

    def beginning(self, path: str) -> bytes:
        """Return the first bytes of a table. Raises: DataError if they cannot be had."""

    def below(self, folder: str) -> "Place":
        """Return the place that a folder is; '' is this one."""


def ignored(name: str) -> bool:
    """Tell whether a file or folder of that name is passed over: a hidden one, or one that a system leaves behind."""
    return name.startswith(".") or name.lower() in _IGNORED


def is_beside(path: str) -> bool:
    """Tell by the extension whether a file is no image: annotations, tables, notes."""
    return posixpath.splitext(path)[1].lower() in _BESIDE_IMAGES


@dataclass(frozen=True)
class Folder:
    """A folder of the file system."""

    root: Path

    def entries(self, folder: str = "") -> list[Entry]:
        """Return what stands in a folder and is not hidden, by name."""
        with os.scandir(self.root / folder) as found:
            return sorted(Entry(entry.name, _kind(entry)) for entry in found if not ignored(entry.name))

    def has(self, path: str) -> bool:
        """Tell whether there is something of that path, a broken link included."""
        return "\0" not in path and os.path.lexists(self.root / path)

    @cached_property
    def files(self) -> list[str]:
        """Paths of all files, sorted."""
        found = []
        for folder, _, names in os.walk(self.root):
            above = Path(folder).relative_to(self.root)
            found += [(above / name).as_posix() for name in names]
        return sorted(found)

    def content(self, path: str) -> bytes:
        """Return the bytes of a file. Raises: DataError if it cannot be read."""
        try:
            return (self.root / path).read_bytes()
        except OSError as error:
            raise DataError(f"{self.root / path} cannot be read: {error.strerror}") from None

    def beginning(self, path: str) -> bytes:
        """Return the first bytes of a file. Raises: DataError if it cannot be read."""
        try:
            with (self.root / path).open("rb") as file:
                return file.read(_BEGINNING_BYTES)
        except OSError as error:
            raise DataError(f"{self.root / path} cannot be read: {error.strerror}") from None

    def below(self, folder: str) -> "Folder":
        """Return the place that a folder is."""
        return Folder(self.root / folder) if folder else self


def _kind(entry: os.DirEntry[str]) -> Literal["file", "folder", "link"]:
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    try:
        return "link" if entry.is_symlink() and entry.is_dir() else "file"
    except OSError:  # a link that leads to itself; reading the file will say so
        return "file"


class Part(NamedTuple):
    """Where the bytes of a file of an archive lie."""

    source: int = 0
    """Which of the archive's files holds them."""
    offset: int = 0
    """Of its bytes, or of its header in a zip."""
    size: int = 0
    packed: int | None = None
    """Bytes that it takes in a zip; None where it lies as it is, without a header."""
    deflated: bool = False
    crc: int | None = None
    refused: str = ""
    """Why it cannot be read."""


class Archive:
    """Files that lie in other files: in a zip, in tars, or in one into which they were unpacked."""

    def __init__(self, root: Path, sources: Sequence[Path], parts: Mapping[str, Part], unpacked: object = None) -> None:
        """Take the bytes of `parts`, by path, from `sources`; `unpacked` lives as long as this object does."""
        self._root, self._sources, self._parts, self._kept = root, [*sources], dict(parts), unpacked

    def __getstate__(self) -> dict[str, object]:
        """Return what another process needs: it must not delete what was unpacked."""
        return {"_root": self._root, "_sources": self._sources, "_parts": self._parts, "_kept": None}

    @property
    def root(self) -> Path:
        """The archive's path."""
        return self._root

    @property
    def sources(self) -> list[Path]:
        """The files that hold the bytes."""
        return self._sources

    @property
    def parts(self) -> Mapping[str, Part]:
        """Where each file's bytes lie."""
        return self._parts

    @cached_property
    def files(self) -> list[str]:
        """Paths of all files, sorted."""
        return sorted(self._parts)

    @cached_property
    def _folders(self) -> dict[str, dict[str, Entry]]:
        """What stands in each folder, by name."""
        found: dict[str, dict[str, Entry]] = {"": {}}
        for path in self.files:
            above, _, name = path.rpartition("/")
            found.setdefault(above, {})[name] = Entry(name, "file")
            while above:
                folder = above
                above, _, name = folder.rpartition("/")
                found.setdefault(above, {}).setdefault(name, Entry(name, "folder"))
        return found

    def entries(self, folder: str = "") -> list[Entry]:
        """Return what stands in a folder and is not hidden, by name."""
        return sorted(entry for name, entry in self._folders.get(folder, {}).items() if not ignored(name))

    def has(self, path: str) -> bool:
        """Tell whether there is a file or a folder of that path."""
        return path in self._parts or path in self._folders

    def below(self, folder: str) -> "Archive":
        """Return the place that a folder is."""
        if not folder:
            return self
        start = f"{folder}/"
        parts = {path.removeprefix(start): part for path, part in self._parts.items() if path.startswith(start)}
        return Archive(self._root / folder, self._sources, parts, self._kept)

    def only(self, path: str) -> "Archive":
        """Return the archive with one of its files, which is sent to another process at little cost."""
        return Archive(self._root, self._sources, {path: self._parts[path]}, self._kept)

    def with_root(self, root: Path) -> "Archive":
        """Return the same files, which messages name by another path."""
        return Archive(root, self._sources, self._parts, self._kept)

    def content(self, path: str) -> bytes:
        """Return the bytes of a table or a list. Raises: DataError if they cannot be had."""
        part = self._parts.get(path)
        if part is not None and part.packed is not None and part.size > max(_SMALL, _MOST_TIMES * part.packed):
            raise DataError(f"{self._root / path} unpacks to {part.size} bytes from {part.packed}, as no table does")
        try:
            return self._read(path, _LARGEST_TABLE, "tables")
        except UnusableError as error:
            raise DataError(f"{self._root / path} cannot be read: {error}") from None

    def beginning(self, path: str) -> bytes:
        """Return the first bytes of a table. Raises: DataError if they cannot be had."""
        return self.content(path)[:_BEGINNING_BYTES]

    def read(self, path: str, max_megapixels: float) -> bytes:
        """Return the bytes of an image that claims no more than an image of that many pixels can have.

        Raises: UnusableError with the reason.
        """
        return self._read(path, allowed(max_megapixels), "prepare.max_megapixels")

    def _read(self, path: str, most_bytes: int, limit: str) -> bytes:
        part = self._parts.get(path)
        if part is None:
            raise UnusableError("no such file")
        if part.refused:
            raise UnusableError(part.refused)
        if max(part.size, part.packed or 0) > most_bytes:
            raise UnusableError(f"larger than {most_bytes} bytes, which {limit} cannot need")
        source = self._sources[part.source]
        try:
            with source.open("rb", buffering=0) as file:
                stored = _stored(file.fileno(), part)
        except OSError as error:
            raise UnusableError(f"cannot be read: {source}: {error.strerror}") from None
        return _unpacked(stored, part)


@dataclass(frozen=True)
class Member:
    """A file of an archive or a table, by itself."""

    path: Path
    """The archive's path and the file's within it, as messages name it."""
    source: Archive | bytes | str
    """The archive that it is in, its bytes, or the reason, a whole line, why there are none."""
    name: str = ""
    """Its path within the archive."""

    def read(self, max_megapixels: float) -> bytes:
        """Return the bytes. Raises: UnusableError with the reason, DataError with the whole line."""
        if isinstance(self.source, str):
            raise DataError(self.source)
        return self.source.read(self.name, max_megapixels) if isinstance(self.source, Archive) else self.source


def _stored(descriptor: int, part: Part) -> bytes:
    """Return the bytes of a part as they lie in its file; fewer if that ends before."""
    if part.packed is None:
        return _all(descriptor, part.size, part.offset)
    header = _all(descriptor, _LOCAL_HEADER, part.offset)
    if len(header) < _LOCAL_HEADER or not header.startswith(b"PK\3\4"):
        raise UnusableError("damaged in the archive: its header is none")
    beyond = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return _all(descriptor, part.packed, part.offset + _LOCAL_HEADER + beyond)


def _all(descriptor: int, size: int, offset: int) -> bytes:
    """Return so many bytes from there; a call to the system gives 2 GiB at most."""
    pieces, left = [], size
    while left and (piece := os.pread(descriptor, left, offset + size - left)):
        pieces.append(piece)
        left -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _unpacked(stored: bytes, part: Part) -> bytes:
    """Return the bytes of a part, of which no more than it declares are ever unpacked."""
    data = stored
    if part.deflated:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stored, part.size + 1)
        except zlib.error as error:
            raise UnusableError(f"damaged in the archive ({error})") from None
    if len(data) != part.size:
        raise UnusableError("damaged in the archive: it is longer or shorter than the archive says")
    if part.crc is not None and zlib.crc32(data) != part.crc:
        raise UnusableError("damaged in the archive: its checksum is another one")
    return data
