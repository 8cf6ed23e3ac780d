"""Where the time of a stage goes: seconds by part, each second counted once.

A part inside another takes its time out of it: reading images while training counts as reading. Only the main thread is
timed, since what runs beside it costs no time of its own.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")

_spent: dict[str, float] = {}
_inner: list[float] = []  # for each open part, the seconds spent in parts inside it


@contextmanager
def part(name: str) -> Iterator[None]:
    """Count the time of a block under a name."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _inner.append(0.0)
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - started
        _spent[name] = _spent.get(name, 0.0) + seconds - _inner.pop()
        if _inner:
            _inner[-1] += seconds


def counted(name: str) -> Callable[[Callable[Arguments, Returned]], Callable[Arguments, Returned]]:
    """Count the time of a function's calls under a name."""

    def decorate(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
        @wraps(function)
        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
            with part(name):
                return function(*args, **kwargs)

        return call

    return decorate


def add(name: str, seconds: float) -> None:
    """Count time that was measured elsewhere."""
    _spent[name] = _spent.get(name, 0.0) + seconds


def spent() -> dict[str, float]:
    """Return the seconds of each part so far, in the order in which the parts were first left."""
    return dict(_spent)
