"""Work in other processes: in order, within limits, and what kills one of them costs that piece only."""

import faulthandler
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from thaw.pipeline.bounded import Bounded, Bounds, Lost

BOUNDS = Bounds(memory_bytes=100_000_000, seconds=1)
linux = pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is one of Linux")


def doubled(number: int) -> int:
    faulthandler.disable()  # what is killed here is killed on purpose
    if number == 13:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 19:
        os._exit(3)
    return 2 * number


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 16, 17, 100])
def test_results_come_in_order_whatever_the_number_of_processes(num: int, count: int) -> None:
    tasks = [number + 20 for number in range(count)]
    with Bounded(doubled, BOUNDS, num=num) as processes:
        assert [*processes.map(tasks)] == [2 * task for task in tasks]


def test_what_kills_a_process_is_lost_with_the_reason_and_nothing_else_is() -> None:
    with Bounded(doubled, BOUNDS, num=2) as processes:
        found = dict(enumerate(processes.map(range(40))))
    lost = {number: one.reason for number, one in found.items() if isinstance(one, Lost)}
    assert lost == {
        13: "crashes what reads it (SIGSEGV)",
        17: "the process that read it was killed, most likely for want of memory",
        19: "crashes what reads it (exit code 3)",
    }
    assert all(one == 2 * number for number, one in found.items() if number not in lost)


def killed_once(path: Path) -> str:
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return path.name


def test_a_process_that_is_killed_once_costs_nothing(tmp_path: Path) -> None:
    with Bounded(killed_once, BOUNDS) as processes:
        assert processes(tmp_path / "a") == "a"


def allocated(num_bytes: int) -> int:
    return len(np.ones(num_bytes, np.uint8))


@linux
def test_a_piece_that_takes_too_much_memory_is_lost_and_the_next_is_done() -> None:
    with Bounded(allocated, BOUNDS) as processes:
        assert processes(50_000_000) == 50_000_000
        # More than a process that has run many tests has in freed memory, which counts as what it holds.
        assert processes(4_000_000_000) == Lost("does not fit into memory")
        assert processes(50_000_000) == 50_000_000


def computed(seconds: float) -> str:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return "done"


def test_a_piece_that_computes_for_too_long_is_lost_and_one_that_only_waits_is_not() -> None:
    with Bounded(computed, replace(BOUNDS, seconds=0)) as processes:
        assert processes(20) == Lost("takes more than 0 seconds of processor time")
        assert processes(0.01) == "done"
    with Bounded(waited, replace(BOUNDS, seconds=0)) as processes:
        assert processes(1.2) == "waited"


def waited(seconds: float) -> str:
    time.sleep(seconds)
    return "waited"


def test_an_error_of_the_work_is_raised_here() -> None:
    with Bounded(int, BOUNDS) as processes, pytest.raises(ValueError, match="invalid literal"):
        processes("x")


@linux
def test_a_process_holds_no_connection_of_this_one_open() -> None:
    ours, theirs = socket.socketpair()
    with Bounded(doubled, BOUNDS) as processes:
        assert processes(1) == 2
        ours.close()
        theirs.settimeout(5)
        assert theirs.recv(1) == b""
    theirs.close()


def test_tasks_are_taken_a_few_chunks_ahead_only() -> None:
    taken = []

    def tasks() -> Iterator[int]:
        for number in range(20, 1000):
            taken.append(number)
            yield number

    with Bounded(doubled, BOUNDS) as processes:
        results = processes.map(tasks())
        assert next(results) == 40
        assert len(taken) <= 64
