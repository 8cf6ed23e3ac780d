"""Every listed file read, hashed and decoded exactly once, on all cores, with results in the order of the list.

A file that its decoder takes too much memory or time for, or dies of, is rejected as one that is damaged.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from thaw.config.schema import PrepareParams
from thaw.data import decoding, looks, needs
from thaw.data.decoding import read_regular
from thaw.data.links import Followed
from thaw.data.looks import Look
from thaw.data.pixel_values import Measured, Pixels
from thaw.data.places import Archive
from thaw.pipeline.bounded import Bounded, Lost
from thaw.pipeline.machine import usable_cores

if TYPE_CHECKING:
    from thaw.data.decoded import Decoded

_NO_LINKS = Followed()
_FILES_A_PROCESS = 16  # with fewer, another process costs more than it saves


@dataclass(frozen=True)
class Ingested:
    """What became of one file: pixels, or the reason why not."""

    path: str
    reason: str = ""
    sha256: str = ""
    width: int = 0
    height: int = 0
    planes: int = 1
    notes: tuple[str, ...] = ()
    measured: Measured | None = None
    pixels: Pixels | None = None
    look: Look | None = None
    number: int | None = None
    """In the spool, of pixels that are there."""


def ingest(
    source: Path | Archive,
    paths: list[str],
    settings: PrepareParams,
    *,
    workers: int | None,
    links: Followed = _NO_LINKS,
    kept: "Decoded | None" = None,
) -> Iterator[Ingested]:
    """Yield what became of each path, in order; never more than a few dozen images are in memory.

    `source` is the folder or the archive of the images. Symbolic links are followed within the folder, and where
    `links` says. `workers` is the number of processes: None is one per core, 0 decodes in this process; results do not
    depend on it. With `kept`, files that have not changed since an earlier run are not read, known content is not
    decoded, and pixels are put there.
    """
    root, read_from = (source, os.path.realpath(source)) if isinstance(source, Path) else (source.root, source)
    of_files = kept if isinstance(source, Path) else None  # the state of a file says nothing of one in an archive
    recalled = [None if of_files is None else of_files.recall(root, path) for path in paths]
    unknown = [path for path, found in zip(paths, recalled, strict=True) if found is None]
    contents = frozenset() if kept is None else kept.contents
    work = partial(_ingest_one, read_from, settings, links, contents)
    found_anew = _read_all(work, unknown, settings, workers)
    for found in recalled:
        item = next(found_anew) if found is None else found
        yield item if kept is None or found is not None else kept.keep(root, item)


def _read_all(
    work: Callable[[str], Ingested], paths: list[str], settings: PrepareParams, workers: int | None
) -> Iterator[Ingested]:
    if workers == 0:
        yield from map(work, paths)
        return
    count = min(workers or usable_cores(), -(-len(paths) // _FILES_A_PROCESS))
    with Bounded(work, needs.bounds(settings.max_megapixels), num=count) as processes:
        for path, found in zip(paths, processes.map(paths), strict=True):
            yield Ingested(path, reason=found.reason) if isinstance(found, Lost) else found


def _ingest_one(
    source: str | Archive, settings: PrepareParams, links: Followed, contents: frozenset[str], path: str
) -> Ingested:
    """Return what became of a file; of one whose content is known, that content alone."""
    sha256 = ""
    try:
        data = read(source, path, settings.max_megapixels, links)
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 in contents:
            return Ingested(path, sha256=sha256)
        picture = decoding.decode(
            data,
            size_px=settings.size_px,
            fit=settings.fit,
            background=settings.background,
            max_megapixels=settings.max_megapixels,
            value_range=settings.value_range,
            plane=settings.plane,
            compare_planes=True,
        )
    except decoding.UnusableError as error:
        sha256 = "" if isinstance(error.__context__, MemoryError) else sha256  # want of memory is of this moment
        return Ingested(path, reason=str(error), sha256=sha256, measured=getattr(error, "measured", None))
    return Ingested(
        path,
        sha256=sha256,
        width=picture.width,
        height=picture.height,
        planes=picture.planes,
        notes=picture.notes,
        measured=picture.measured,
        pixels=picture.pixels,
        look=looks.look(picture.pixels),
    )


def read(source: str | Archive, path: str, max_megapixels: float, links: Followed = _NO_LINKS) -> bytes:
    """Return the bytes of an image below a folder (a real path) or in an archive. Raises: UnusableError."""
    if isinstance(source, Archive):
        return source.read(path, max_megapixels)
    return read_inside(source, path, max_megapixels, links)


def read_inside(root: str, path: str, max_megapixels: float, links: Followed = _NO_LINKS) -> bytes:
    """Return the bytes of a regular file below root (a real path), or where `links` leads.

    Raises: UnusableError for anything else.
    """
    full = Path(root, path)
    try:
        real = full.resolve(strict=True)
        if not real.is_relative_to(root) and not links.leads_in(real):
            raise decoding.UnusableError(
                "symbolic link to outside of the data folder; name the folder that it leads to in data.allow_links, or "
                "bring the file"
            )
        return read_regular(real, max_megapixels)
    except FileNotFoundError:
        raise decoding.UnusableError(_why_missing(full, links)) from None
    except RuntimeError:  # what pathlib makes of it in Python 3.11
        raise decoding.UnusableError("symbolic link that leads to itself") from None
    except OSError as error:  # unreadable, a name too long, an input/output error
        raise decoding.UnusableError(f"cannot be read: {error.strerror}") from None


def _why_missing(full: Path, links: Followed) -> str:
    if not full.is_symlink():
        return "no such file"
    if links.is_object(Path(os.path.realpath(full))):
        return "symbolic link to an object that DVC's cache lacks; bring it: `dvc pull`"
    return "symbolic link to nothing"
