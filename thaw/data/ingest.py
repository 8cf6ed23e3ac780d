"""Every listed file read, hashed and decoded exactly once, on all cores, with results in the order of the list."""

import hashlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from thaw.config.schema import PrepareParams
from thaw.data import decoding, looks
from thaw.data.decoding import read_regular
from thaw.data.looks import Look
from thaw.data.pixel_values import Measured, Pixels
from thaw.errors import DataError
from thaw.pipeline.machine import process_context, usable_cores

_CHUNK = 16  # files a task: large enough to hide the queue's cost, small enough to keep memory low


@dataclass(frozen=True)
class Ingested:
    """What became of one file: pixels, or the reason why not."""

    path: str
    reason: str = ""
    sha256: str = ""
    width: int = 0
    height: int = 0
    animated: bool = False
    measured: Measured | None = None
    pixels: Pixels | None = None
    look: Look | None = None


def ingest(root: Path, paths: list[str], settings: PrepareParams, *, workers: int | None) -> Iterator[Ingested]:
    """Yield what became of each path, in order; never more than a few dozen images are in memory.

    `workers` is the number of processes: None is one per core, 0 decodes in this process; results do not depend on it.
    """
    work = partial(_ingest_all, os.path.realpath(root), settings)
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    count = min(usable_cores() if workers is None else workers, len(chunks))
    if count <= (1 if workers is None else 0):
        for chunk in chunks:
            yield from work(chunk)
        return
    pool = ProcessPoolExecutor(count, mp_context=process_context(), initializer=_become_worker, initargs=(os.getpid(),))
    waiting: deque[Future[list[Ingested]]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(work, chunk))
            if len(waiting) > 2 * count:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool:
        raise DataError(
            "a decoding process was killed, most likely for want of memory; "
            "lower compute.workers or prepare.max_megapixels in params.yaml"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _become_worker(parent: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C, and ends its workers
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _ingest_all(root: str, settings: PrepareParams, paths: list[str]) -> list[Ingested]:
    return [_ingest_one(root, settings, path) for path in paths]


def _ingest_one(root: str, settings: PrepareParams, path: str) -> Ingested:
    try:
        data = read_inside(root, path, settings.max_megapixels)
        picture = decoding.decode(
            data,
            size_px=settings.size_px,
            fit=settings.fit,
            background=settings.background,
            max_megapixels=settings.max_megapixels,
            value_range=settings.value_range,
        )
    except decoding.UnusableError as error:
        return Ingested(path, reason=str(error))
    return Ingested(
        path,
        sha256=hashlib.sha256(data).hexdigest(),
        width=picture.width,
        height=picture.height,
        animated=picture.animated,
        measured=picture.measured,
        pixels=picture.pixels,
        look=looks.look(picture.pixels),
    )


def read_inside(root: str, path: str, max_megapixels: float) -> bytes:
    """Return the bytes of a regular file below root (a real path). Raises: UnusableError for anything else."""
    full = Path(root, path)
    try:
        real = full.resolve(strict=True)
        if not real.is_relative_to(root):
            raise decoding.UnusableError("symbolic link to outside of the data folder")
        return read_regular(real, max_megapixels)
    except FileNotFoundError:
        raise decoding.UnusableError("symbolic link to nothing" if full.is_symlink() else "no such file") from None
    except RuntimeError:  # what pathlib makes of it in Python 3.11
        raise decoding.UnusableError("symbolic link that leads to itself") from None
    except OSError as error:  # unreadable, a name too long, an input/output error
        raise decoding.UnusableError(f"cannot be read: {error.strerror}") from None
