"""Which images are meant by names, folders, patterns, lists and archives, found one after the other."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from thaw.data import archives, unpacked
from thaw.data.places import Archive, Member, is_beside
from thaw.errors import DataError

STDIN = "-"
_PARQUET = ".parquet"
_MAGIC = b"PAR1"
_OF_SAMPLES = (".cls", ".label")  # of WebDataset, beside its images

Image = Path | Member


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


def images(named: Sequence[str], say: Callable[[str], None]) -> Iterator[Image]:
    """Yield the files that are named, and in the place of a zip, a tar or a Parquet file the images that it holds.

    What is called as one, or was given by its name, is looked into. `say` gets a line on files in archives that are no
    images by their extensions and are passed over. Raises: as `find`.
    """
    given = {*named}
    for path in find(named):
        try:
            kind = _kind(path, given=str(path) in given)
            if kind == "parquet":
                yield from _rows(path)
            elif kind is not None:
                yield from _members(archives.open_archive(path, kind), say)
            else:
                yield path
        except DataError as error:
            yield Member(path, str(error))


def count(named: Sequence[str]) -> int | None:
    """Return how many images are named; None where standard input or archives tell it only as they come.

    Raises: as `find`.
    """
    if STDIN in named:
        return None
    number, given = 0, {*named}
    for path in find(named):
        if _is_packed(path, given=str(path) in given):
            return None
        number += 1
    return number


def _is_packed(path: Path, *, given: bool) -> bool:
    try:
        return _kind(path, given=given) is not None
    except DataError:
        return False


def _kind(path: Path, *, given: bool) -> archives.Kind | Literal["parquet"] | None:
    """Return what archive a file is, None if none. Raises: DataError for one that is not read."""
    if not (given or path.name.lower().endswith((*archives.SUFFIXES, _PARQUET))) or not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            return "parquet" if file.read(len(_MAGIC)) == _MAGIC else archives.kind_of(path)
    except OSError:  # reading it as an image will say so
        return None


def _members(archive: Archive, say: Callable[[str], None]) -> Iterator[Member]:
    beside = [path for path in archive.files if is_beside(path) or path.lower().endswith(_OF_SAMPLES)]
    if beside:
        kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(PurePosixPath(path).suffix for path in beside).items())
        say(f"{archive.root}: {len(beside)} files beside the images are not used ({kinds})")
    passed_over = {*beside}
    for path in archive.files:
        if path not in passed_over:
            yield Member(archive.root / path, archive.only(path), path)


def _rows(path: Path) -> Iterator[Member]:
    """Yield the images of a Parquet file; a path that is missing or comes again has the number of its row before it.

    Raises: DataError if it is damaged or a bomb, or if it is unclear which column holds them.
    """
    from thaw.data import parquet_rows  # and pyarrow, which other images do without

    with parquet_rows.Rows() as rows:
        schema = rows.schema(path)
        found = parquet_rows.images_in(schema)
        if len(found) != 1:
            what = f"images in one of the columns {', '.join(map(repr, found))}" if found else "no column of images"
            raise DataError(f"{path} cannot be used: it has {what}; write it with one column of bytes called image")
        seen, num_bytes = set[str](), 0
        for number, (inside, data) in enumerate(rows.images(path, parquet_rows.columns_of(schema, found[0]))):
            name = inside if inside and inside not in seen else f"{number:08d}-{inside}".rstrip("-")
            seen.add(name)
            num_bytes += len(data or b"")
            unpacked.check(path, num_bytes, path.stat().st_size)
            without = f"{path / name} cannot be used: a row without bytes"
            yield Member(path / name, without if data is None else data, name)


def _inside(folder: str) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _matches(pattern: str) -> Iterator[Path]:
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207, Path.glob finds hidden files too
    if not found:
        raise DataError(
            f"{pattern} does not exist; give image files, folders, archives, patterns in quotes, or - for a list on "
            "stdin"
        )
    yield from (Path(name) for name in found if not Path(name).is_dir())
