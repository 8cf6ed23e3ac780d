"""Batches made ahead: in order, one ahead and no more, errors where they belong."""

import threading

import pytest

from thaw.training.batches import prefetch


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_items_come_in_order(count: int) -> None:
    assert list(prefetch(lambda number: number * 10, count)) == [number * 10 for number in range(count)]


def test_the_next_item_is_made_in_another_thread_while_one_is_used() -> None:
    made: dict[int, threading.Event] = {number: threading.Event() for number in range(3)}
    threads = []

    def make(number: int) -> int:
        threads.append(threading.current_thread())
        made[number].set()
        return number

    items = prefetch(make, 3)
    assert next(items) == 0
    assert made[1].wait(timeout=10)  # without anyone asking for it
    assert not made[2].is_set()
    assert next(items) == 1
    assert made[2].wait(timeout=10)
    items.close()
    assert threading.main_thread() not in threads


def test_an_error_comes_out_where_its_item_would_have() -> None:
    def make(number: int) -> int:
        if number == 1:
            raise ValueError("the second")
        return number

    items = prefetch(make, 3)
    assert next(items) == 0
    with pytest.raises(ValueError, match="the second"):
        next(items)
