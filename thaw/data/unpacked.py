"""A file of its own for what cannot be read in place: unpacked once, one after the other, then read at random."""

import contextlib
import os
import tempfile
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self

from thaw.data.places import Archive, Part
from thaw.errors import DataError
from thaw.pipeline import scratch

_PREFIX = "unpacked-"
LARGEST_FILE = 2**30
"""Bytes of a file beyond which it is no image that Thaw reads from an archive."""
_FREE_BYTES = 2**30
"""What may be unpacked of any archive, however small it is."""
_MOST_TIMES = 100
"""Bytes unpacked for each byte of the archive: photographs give about 1, drawings of one colour up to 50."""


class Unpacked:
    """A temporary file that files are appended to; it is deleted with the archive that reads it."""

    def __init__(self, source: Path) -> None:
        """Begin the file for what a file or a folder of files holds. Raises: DataError if there is no room."""
        self._source, self._size, self._unpacked = source, 0, 0
        folder = _folder()
        _remove_leavings(folder)
        try:
            descriptor, name = tempfile.mkstemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=folder)
        except OSError as error:
            raise DataError(f"{folder} cannot be written: {error.strerror}; {source} is unpacked there") from None
        self.path = Path(name)
        self._file = os.fdopen(descriptor, "wb")
        weakref.finalize(self, _delete, self.path, os.getpid())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.close()

    def count(self, num_bytes: int, packed_bytes: int) -> None:
        """Take note that so many bytes come out of an archive of `packed_bytes`. Raises: DataError if it is a bomb."""
        self._unpacked += num_bytes
        check(self._source, self._unpacked, packed_bytes)

    def append(self, data: bytes) -> Part:
        """Append a file's bytes, and return where they lie. Raises: DataError if the disk is full."""
        part = Part(offset=self._size, size=len(data))
        self.extend(data)
        return part

    def extend(self, data: bytes) -> None:
        """Append more bytes of the file that was begun last. Raises: DataError if the disk is full."""
        try:
            self._file.write(data)
        except OSError as error:
            raise DataError(
                f"{self._source} cannot be unpacked into {self.path.parent}: {error.strerror}; make room there"
            ) from None
        self._size += len(data)

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        return self._size

    def archive(self, root: Path, parts: dict[str, Part]) -> Archive:
        """Return the files that were appended, by their paths, as what is at `root`."""
        self._file.close()
        return Archive(root, [self.path], parts, self)


def check(source: Path, unpacked_bytes: int, packed_bytes: int) -> None:
    """Raises: DataError if a file or a folder of files of `packed_bytes` that holds so much is a bomb."""
    if unpacked_bytes > _FREE_BYTES and unpacked_bytes > _MOST_TIMES * packed_bytes:
        raise DataError(
            f"{source} unpacks to more than {_MOST_TIMES} times its {packed_bytes} bytes, as no images do; if you "
            "trust it, unpack it into a folder and set data.raw to that"
        )


def _folder() -> Path:
    """Return the project's scratch folder, or the system's where no project is."""
    if not Path("params.yaml").is_file() and "THAW_SCRATCH" not in os.environ:
        return Path(tempfile.gettempdir())
    folder = scratch.folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _delete(path: Path, process: int) -> None:
    if os.getpid() == process:  # a child that was forked has a copy of the object, and not the file
        path.unlink(missing_ok=True)


def _remove_leavings(folder: Path) -> None:
    """Remove what processes have left that were killed."""
    for path in folder.glob(f"{_PREFIX}*"):
        number = path.name.removeprefix(_PREFIX).partition("-")[0]
        if number.isdigit() and not _is_running(int(number)):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's, or no number of a process
        pass
    return True
