"""Seconds by part: each counted once, nested parts taken out, only in the main thread."""

import threading
import time

import pytest

from thaw.pipeline import timings


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Start with nothing counted, and return a clock whose last entry is the time."""
    now = [0.0]
    monkeypatch.setattr(timings, "_spent", {})
    monkeypatch.setattr(time, "perf_counter", lambda: now[-1])
    return now


def test_a_part_inside_another_is_taken_out_of_it(clock: list[float]) -> None:
    with timings.part("train"):
        clock.append(1.0)
        with timings.part("read"):
            clock.append(3.0)
            with timings.part("prefix"):
                clock.append(7.0)
        clock.append(8.0)
        with timings.part("read"):
            clock.append(10.0)
    assert timings.spent() == {"prefix": 4.0, "read": 4.0, "train": 2.0}


def test_a_part_that_fails_counts_as_well(clock: list[float]) -> None:
    @timings.counted("read")
    def break_down() -> None:
        clock.append(2.0)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        break_down()
    with timings.part("read"):
        clock.append(3.0)
    assert timings.spent() == {"read": 3.0}


def test_the_calls_of_a_function_are_counted(clock: list[float]) -> None:
    @timings.counted("solve")
    def solve(seconds: float) -> float:
        clock.append(clock[-1] + seconds)
        return seconds * 2

    assert (solve(1.0), solve(2.0)) == (2.0, 4.0)
    timings.add("import", 5.0)
    assert timings.spent() == {"solve": 3.0, "import": 5.0}


def test_what_runs_beside_the_main_thread_costs_no_time_of_its_own(clock: list[float]) -> None:
    def work() -> None:
        with timings.part("read"):
            clock.append(9.0)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert timings.spent() == {}
