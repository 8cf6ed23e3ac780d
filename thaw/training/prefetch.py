"""Have the next batch ready: made in a background thread while the one before it is used."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from thaw import timing

Item = TypeVar("Item")


def ahead(make: Callable[[int], Item], count: int) -> Generator[Item]:
    """Yield make(0) to make(count - 1), each made while the one before is in use; at most two are held at a time."""
    if count == 0:
        return
    with ThreadPoolExecutor(1, "thaw-prefetch") as pool:
        pending = pool.submit(make, 0)
        for number in range(1, count + 1):
            with timing.part("read"):
                item = pending.result()
            if number < count:
                pending = pool.submit(make, number)
            yield item
