"""A zip or a tar of a data set, read in place: what it holds, and where the bytes of each file lie.

Nothing is written by the names that an archive gives. A zip and a plain tar are read where they lie; a compressed tar,
in which nothing can be found without all that is before it, is unpacked once.
"""

import bz2
import gzip
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, cast

from thaw.data.places import Archive, Part, ignored
from thaw.data.unpacked import LARGEST_FILE, Unpacked
from thaw.errors import DataError

Kind = Literal["zip", "tar"]

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""How people call such archives."""
_POINTER = b"version https://git-lfs.github.com/spec/"
_BLOCK = 512
_BEGINNING = 2**10
_CHUNK = 2**20
_COMPRESSED = {b"\x1f\x8b": gzip.GzipFile, b"BZh": bz2.BZ2File, b"\xfd7zXZ\0": lzma.LZMAFile}
_OTHERS = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "RAR", b"\x28\xb5\x2f\xfd": "Zstandard"}
_ENCRYPTED, _STORED, _DEFLATED, _FROM_DOS = 1, 0, 8, 0
_TO_NOTHING = Part(refused="hard link to nothing in the archive")
_DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, struct.error, OverflowError,
    NotImplementedError, OSError, ValueError,
)  # fmt: skip


def kind_of(path: Path) -> Kind | None:
    """Return what archive a file is by its first bytes; None for what is none, such as a table.

    Raises: DataError for an archive of a kind that is not read, and for a file that is called as one and is none.
    """
    with path.open("rb") as file:
        start = file.read(_BEGINNING)
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return "zip" if not _is_spreadsheet(path) else None
    if other := next((name for magic, name in _OTHERS.items() if start.startswith(magic)), None):
        raise DataError(
            f"{path} is an archive of {other}, which is not read; unpack it into a folder, or make it a zip"
        )
    if start[257:262] == b"ustar" or any(start.startswith(magic) for magic in _COMPRESSED):
        return "tar"
    if path.name.lower().endswith(SUFFIXES):
        if path.name.lower().endswith(".tar") and tarfile.is_tarfile(path):  # one of before 1988 has no mark
            return "tar"
        way_out = "run `git lfs pull`, which brings it" if is_pointer(path) else "bring it again from its source"
        raise DataError(f"{path} is called an archive and is none (it begins with {start[:8]!r}); {way_out}")
    return None


def open_archive(path: Path, kind: Kind) -> Archive:
    """Return the files of an archive, hidden ones apart.

    Raises: DataError if it is damaged, encrypted or a bomb, or if a name in it leads out or is there twice.
    """
    try:
        return _zip(path) if kind == "zip" else _tar(path)
    except DataError:
        raise
    except UnicodeDecodeError:
        raise DataError(
            f"{path} has names in another encoding than UTF-8, and does not say which; pack it again (`zip -r`)"
        ) from None
    except _DAMAGED as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is damaged or cut short ({said}); bring it again from its source") from None


def is_pointer(path: Path) -> bool:
    """Tell whether a file is what Git LFS leaves in the place of one that it has not brought."""
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def _is_spreadsheet(path: Path) -> bool:
    """Tell whether a zip is one of a spreadsheet's files; nobody calls that .zip."""
    if path.suffix.lower() == ".zip":  # the entries of which are read once only then
        return False
    try:
        with zipfile.ZipFile(path) as file:
            return "[Content_Types].xml" in file.namelist()
    except _DAMAGED:
        return False


def _zip(path: Path) -> Archive:
    parts: dict[str, Part] = {}
    with zipfile.ZipFile(path, metadata_encoding="utf-8") as file:
        for info in file.infolist():
            name = info.filename
            if info.create_system == _FROM_DOS:
                name = name.replace("\\", "/")
            if not name.endswith("/"):
                _add(parts, name, _zipped(info, path), path)
    return Archive(path, [path], _checked(parts, path))


def _zipped(info: zipfile.ZipInfo, path: Path) -> Part:
    """Return where a file of a zip lies. Raises: DataError if it is encrypted, or packed by another method."""
    if info.flag_bits & _ENCRYPTED:
        raise DataError(
            f"{path}: {info.filename} is encrypted; unpack it with its password, and set data.raw to the folder"
        )
    if info.compress_type not in (_STORED, _DEFLATED):
        raise DataError(
            f"{path}: {info.filename} is packed by method {info.compress_type}, and only deflate (8) is read; pack it "
            "again (`zip -r`)"
        )
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return Part(refused=_special(stat.S_ISLNK(mode)))
    return Part(
        offset=info.header_offset,
        size=info.file_size,
        packed=info.compress_size,
        deflated=info.compress_type == _DEFLATED,
        crc=info.CRC,
    )


def _special(is_link: bool) -> str:
    return f"{'symbolic link' if is_link else 'no regular file'} in an archive; not followed"


def _tar(path: Path) -> Archive:
    with path.open("rb") as beginning:
        start = beginning.read(8)
    opener = next((opener for magic, opener in _COMPRESSED.items() if start.startswith(magic)), None)
    parts: dict[str, Part] = {}
    if opener is None:
        with path.open("rb") as plain:
            for name, part, target in _members(plain, path):
                parts[name] = part if target is None else parts.get(target, _TO_NOTHING)
        return Archive(path, [path], _checked(parts, path))
    packed_bytes = path.stat().st_size
    with opener(path) as opened, Unpacked(path) as unpacked:
        file = cast("IO[bytes]", opened)
        for name, part, target in _members(file, path):
            unpacked.count(part.size, packed_bytes)
            copied = part if part.refused or target is not None else _copied(file, part, unpacked)
            parts[name] = copied if target is None else parts.get(target, _TO_NOTHING)
        return unpacked.archive(path, _checked(parts, path))


def _copied(file: IO[bytes], part: Part, unpacked: Unpacked) -> Part:
    """Copy a file of a tar into what is unpacked, and return where it lies there."""
    if part.size > LARGEST_FILE:
        return Part(refused=f"larger than {LARGEST_FILE} bytes, in a compressed tar; unpack that into a folder")
    start, left = unpacked.size, part.size
    file.seek(part.offset)
    while left:
        data = file.read(min(left, _CHUNK))
        if not data:
            raise EOFError("unexpected end of data")
        unpacked.extend(data)
        left -= len(data)
    return Part(offset=start, size=part.size)


class _Careful:
    """A file of which no header can ask for more than a header needs."""

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read
        self.last = b""
        """What was read last."""

    def read(self, size: int) -> bytes:
        """Return so many bytes. Raises: ValueError for more than a name can be long."""
        if size > _CHUNK:
            raise ValueError(f"a header of {size} bytes")
        self.last = self._read(size)
        return self.last


def _members(file: IO[bytes], path: Path) -> Iterator[tuple[str, Part, str | None]]:
    """Yield the files of a tar in their order: the path, where the bytes lie in the tar, or of what it is a hard link.

    Raises: DataError if a name leads out or is there twice, or if the end is missing.
    """
    careful, seen = _Careful(file), dict[str, Part]()
    with tarfile.open(fileobj=cast("IO[bytes]", careful), mode="r:", encoding="utf-8") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
            if member.isdir():
                continue
            part = Part(offset=member.offset_data, size=member.size)
            if not member.islnk() and (not member.isreg() or member.issparse()):
                part = Part(refused=_special(member.issym()))
            name = _add(seen, member.name, part, path)
            yield name, part, "/".join(_names(member.linkname, path)) if member.islnk() else None
    if careful.last != bytes(_BLOCK):
        raise DataError(f"{path} is cut short or damaged: the mark of its end is missing; bring it again")
    while data := file.read(_CHUNK):
        if data.strip(b"\0"):
            raise DataError(
                f"{path} goes on after its end, as tars that were joined do; put each into a file of its own"
            )


def _add(parts: dict[str, Part], name: str, part: Part, path: Path) -> str:
    """Take in a file, and return its path. Raises: DataError if its name leads out, or is there already."""
    inside = "/".join(_names(name, path))
    if inside in parts:
        raise DataError(f"{path} holds {inside} twice; pack it again from a folder")
    parts[inside] = part
    return inside


def _names(name: str, path: Path) -> list[str]:
    """Return the names that a path in an archive is made of. Raises: DataError if it leads out of it."""
    names = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in names or not names or re.match(r"[A-Za-z]:[\\/]", name):
        raise DataError(
            f"{path} holds {name!r}, a name that leads out of it; pack it again from within the folder of the images"
        )
    return names


def _checked(parts: dict[str, Part], path: Path) -> dict[str, Part]:
    """Return the files that are not hidden. Raises: DataError if none is left, or if one is a folder as well."""
    shown = {name: part for name, part in parts.items() if not any(map(ignored, name.split("/")))}
    if not shown:
        raise DataError(f"{path} holds no files; pack the images into it")
    above = {name.rpartition("/")[0] for name in shown}
    while above:
        if both := above & shown.keys():
            raise DataError(f"{path} holds {min(both)} as a file and as a folder; pack it again from a folder")
        above = {name.rpartition("/")[0] for name in above} - {""}
    return shown
