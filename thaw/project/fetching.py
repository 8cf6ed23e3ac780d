"""`thaw data fetch`: an archive or a folder at an address, brought into the project once, where DVC tracks it.

What DVC's stages read are paths. So an address is no `data.raw`: its files are copied below the project's folder, and
the address stands beside them in NAME.source.json, which git keeps, with what tells whether they have changed.
"""

import hashlib
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict

from thaw import extras
from thaw.errors import DataError, ThawError, first_line
from thaw.pipeline import facts
from thaw.pipeline.artifacts import remove, write_text
from thaw.progress import progress
from thaw.project import files, ignoring
from thaw.project.layout import track
from thaw.project.params_text import value_at, with_value

PROTOCOLS = ("file", "memory", "http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "sftp", "ssh", "hf")
"""Where files are brought from; fsspec has more, some of which run what an address says."""
SUFFIX = ".source.json"
_CHUNK = 2**20
# What a file system says of a file that changes with its content, the surest first.
_MARKS = ("ETag", "etag", "Content-MD5", "content_md5", "md5Hash", "LastModified", "Last-Modified", "last_modified",
          "updated", "mtime", "created")  # fmt: skip


class Origin(BaseModel):
    """NAME.source.json."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    address: str
    """Without a query, which may hold a key."""
    files: int
    num_bytes: int
    etag: str | None
    """What the address says of a single file that changes with its content; null for a folder, or if it is silent."""
    state: str
    """SHA-256 of the names, sizes and such marks of all files."""


@dataclass(frozen=True)
class _Remote:
    """What is at an address."""

    system: Any
    """fsspec's file system."""
    path: str
    sizes: dict[str, int | None]
    """Bytes of each file by its path below `path`; a single file is ''."""
    origin: Origin


def fetch(root: Path, address: str, to: str | None) -> Iterator[str]:
    """Bring what is at an address into the project, track it, set data.raw; yield what was done, a line each.

    What was brought before and has not changed since is left. Raises: DataError if the address cannot be read, or if
    other files are in the place.
    """
    target = root / _place(address, to)
    name = target.relative_to(root).as_posix()
    record = _record(target)
    known = facts.read(record, Origin) if record.is_file() else None
    if target.exists() and (known is None or known.address != _plain(address)):
        raise DataError(f"{name} is there, and does not come from {_plain(address)}; give another place with --to")
    remote = _look(address)
    if target.exists() and known == remote.origin:
        yield f"{name}: as it was, {_in_words(remote.origin)}"
        return
    _copy(remote, target)
    write_text(record, remote.origin.model_dump_json(indent=2) + "\n")
    track(root, name)
    yield f"{name}: {_in_words(remote.origin)} from {remote.origin.address}; {record.name} keeps the address"
    yield from _named_in_params(root, name)


def check(root: Path) -> Iterator[str]:
    """Yield a line for each address that was fetched and has not changed. Raises: DataError if one has."""
    records = sorted(path for path in (root / "data").rglob(f"*{SUFFIX}") if path.is_file())
    if not records:
        raise DataError("nothing here was fetched from an address; `thaw data fetch ADDRESS` does that")
    changed = []
    for record in records:
        known, name = facts.read(record, Origin), record.name.removesuffix(SUFFIX)
        now = _look(known.address).origin
        if now.state == known.state:
            yield f"{name}: as at {known.address}"
        else:
            changed.append(f"{known.address} has changed ({_in_words(known)} before, {_in_words(now)} now)")
    if changed:
        raise DataError(
            f"{'; '.join(changed)}; `thaw data fetch ADDRESS` brings it again, and `thaw repro` trains on it"
        )


def _record(target: Path) -> Path:
    return target.with_name(f"{target.name}{SUFFIX}")


def _plain(address: str) -> str:
    return address.partition("?")[0].rstrip("/")


def _in_words(origin: Origin) -> str:
    return f"{origin.files} file{'s' if origin.files != 1 else ''} of {origin.num_bytes} bytes"


def _place(address: str, to: str | None) -> PurePosixPath:
    """Return where in the project an address goes. Raises: DataError if that is no place below data/."""
    protocol, separator, rest = address.partition("://")
    if not separator or protocol not in PROTOCOLS or "::" in address:
        raise DataError(f"{address!r} is no address that is fetched; it begins with {'://, '.join(PROTOCOLS)}://")
    if ":" in rest.partition("/")[0].rpartition("@")[0]:
        raise DataError("the address has a password in it, which would be recorded; give it as the library wants it")
    name = to or f"data/{_plain(rest).rpartition('/')[2]}"
    place = PurePosixPath(posixpath.normpath(name))
    if len(place.parts) < 2 or place.parts[0] != "data" or place.name.startswith("."):
        raise DataError(f"{name} is no place for images; give one below data/ with --to, such as data/pets.zip")
    return place


def _look(address: str) -> _Remote:
    """Return what is at an address, without its content. Raises: DataError if it cannot be had."""
    with extras.named():
        import fsspec
    try:
        system, path = fsspec.core.url_to_fs(address)
        top = system.info(path)
        if top["type"] == "directory":
            found = system.find(path, detail=True)
            infos = {posixpath.relpath(name, path): info for name, info in sorted(found.items())}
        else:
            infos = {"": top}
    except ImportError as error:
        raise DataError(f"{_plain(address)} needs a package that is not installed: {first_line(error)}") from None
    except ThawError:
        raise
    except Exception as error:  # noqa: BLE001, the library of each kind of address has errors of its own
        raise DataError(f"{_plain(address)} cannot be read ({type(error).__name__}: {first_line(error)})") from None
    if not infos:
        raise DataError(f"{_plain(address)} holds no files; give the address of an archive or of a folder of images")
    for name, info in infos.items():
        _check_entry(name, info, address)
    sizes = {name: _size(info) for name, info in infos.items()}
    marks = {name: next((str(info[mark]) for mark in _MARKS if info.get(mark)), None) for name, info in infos.items()}
    lines = [f"{name}\0{sizes[name]}\0{marks[name]}\n" for name in infos]
    origin = Origin(
        address=_plain(address),
        files=len(infos),
        num_bytes=sum(size or 0 for size in sizes.values()),
        etag=marks.get(""),
        state=hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest(),
    )
    return _Remote(system, path, sizes, origin)


def _check_entry(name: str, info: Any, address: str) -> None:
    """Raises: DataError for what is no file, and for a name that leads out of the folder."""
    if info.get("type") != "file":
        raise DataError(f"{_plain(address)}: {name or 'it'} is no regular file; leave it out there")
    if name.startswith("/") or ".." in name.split("/") or re.search(r"[\\\0\r\n]", name):
        raise DataError(f"{_plain(address)} holds {name!r}, a name that leads out of it; rename it there")


def _size(info: Any) -> int | None:
    size = info.get("size")
    return int(size) if size is not None else None


def _copy(remote: _Remote, target: Path) -> None:
    """Copy all files beside the target, then put them in its place. Raises: DataError if one ends too early."""
    partial = target.with_name(f".{target.name}.partial")
    remove(partial)
    try:
        for name in progress(remote.sizes, total=len(remote.sizes), label="fetch"):
            copy = partial / name if name else partial
            copy.parent.mkdir(parents=True, exist_ok=True)
            _copy_file(remote, name, copy)
        remove(target)
        partial.rename(target)
    finally:
        remove(partial)


def _copy_file(remote: _Remote, name: str, copy: Path) -> None:
    shown = f"{remote.origin.address}/{name}" if name else remote.origin.address
    try:
        with remote.system.open(f"{remote.path}/{name}" if name else remote.path, "rb") as file, copy.open("wb") as out:
            while data := file.read(_CHUNK):
                out.write(data)
    except Exception as error:  # noqa: BLE001, as above
        raise DataError(f"{shown} cannot be fetched ({type(error).__name__}: {first_line(error)})") from None
    wanted, size = remote.sizes[name], copy.stat().st_size
    if wanted is not None and size != wanted:
        raise DataError(f"{shown} has {wanted} bytes, and {size} came; run this again")


def _named_in_params(root: Path, name: str) -> Iterator[str]:
    """Set data.raw and data.labels to a path, and add the lines of .dvcignore that it asks for."""
    text = (root / files.PARAMS).read_text(encoding="utf-8")
    if value_at(text, "data.raw") == name:
        return
    for key in ("data.raw", "data.labels"):
        text = with_value(text, key, name)
    write_text(root / files.PARAMS, text)
    yield f"{files.PARAMS}: data.raw and data.labels are {name}"
    yield from ignoring.add(root)
    yield f"next: `git add {name}{SUFFIX} {name}.dvc data/.gitignore {files.PARAMS}`, and `thaw repro`"
