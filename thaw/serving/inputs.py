"""Which files are meant by names, folders, patterns and lists, found one after the other."""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from thaw.errors import DataError

STDIN = "-"


def find(named: Sequence[str]) -> Iterator[Path]:
    """Yield the files that are named, in order.

    A name is a file; a folder, of which all files at any depth are meant but those that are hidden; a pattern with `*`,
    `?` or `[…]`, `**` for any depth; or `-` for a list of names on standard input, one a line. Folders are walked in
    the order of names, and the names of one folder at a time are in memory.
    Raises: DataError if a name that was given is neither there nor a pattern that matches anything.
    """
    for name in named:
        if name == STDIN:
            for line in sys.stdin:
                if listed := line.rstrip("\r\n"):
                    yield Path(listed)  # what is not there becomes a row of its own among the broken
        elif Path(name).is_dir():
            yield from _inside(name)
        elif os.path.lexists(name):
            yield Path(name)
        else:
            yield from _matches(name)


def count(named: Sequence[str]) -> int | None:
    """Return how many files are named, None where standard input tells it only as it comes. Raises: as `find`."""
    return None if STDIN in named else sum(1 for _ in find(named))


def _inside(folder: str) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _matches(pattern: str) -> Iterator[Path]:
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207, Path.glob finds hidden files too
    if not found:
        raise DataError(
            f"{pattern} does not exist; give image files, folders, patterns in quotes, or - for a list on stdin"
        )
    yield from (Path(name) for name in found if not Path(name).is_dir())
