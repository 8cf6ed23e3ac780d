"""Progress of a long loop: a rich bar on a terminal, a plain line now and then anywhere else."""

import sys
import time
from collections.abc import Generator, Iterable
from typing import TypeVar

_QUIET_S = 1.0
_LINE_INTERVAL_S = 10.0

Item = TypeVar("Item")


def progress(items: Iterable[Item], *, total: int | None, label: str) -> Generator[Item, None, None]:
    """Yield the items and show on stderr how far it is; a loop of less than a second shows nothing.

    Without a total it shows how many there were so far.
    """
    return _bar(items, total, label) if sys.stderr.isatty() else _lines(items, total, label)


def _bar(items: Iterable[Item], total: int | None, label: str) -> Generator[Item, None, None]:
    # rich takes a fifth of a second to import, and only a terminal needs it.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(label, total=total)
    started, shown = time.monotonic(), False
    try:
        for item in items:
            yield item
            bar.advance(task)
            if not shown and time.monotonic() - started > _QUIET_S:
                bar.start()
                shown = True
    finally:
        if shown:
            bar.stop()


def _lines(items: Iterable[Item], total: int | None, label: str) -> Generator[Item, None, None]:
    started = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _LINE_INTERVAL_S:
            rate = done / (now - started)
            of_all = "" if total is None else f" of {total}"
            print(f"{label}: {done}{of_all} ({rate:.3g}/s)", file=sys.stderr, flush=True)
            last = now
