"""Work in processes of its own, each within a limit of memory and of time, that may die without harm to this one.

A decoder that is fed a hostile file may take any memory, loop, or crash. Its process is then gone, and the piece of
work has a reason instead of a result. RLIMIT_DATA holds memory down to what the process has when it starts and
`memory_bytes` more: Linux counts every private mapping, macOS has no such limit. RLIMIT_CPU ends a piece that computes
for longer than `seconds`. It counts processor time, since a wait for a busy machine must not decide a result.
"""

import os
import signal
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from thaw.pipeline.machine import process_context

Task = TypeVar("Task")
Result = TypeVar("Result")

_CHUNK = 16  # pieces sent at once: large enough to hide the cost of a message, small enough to keep memory low
_TRIES = 2
_KILLED = "the process that read it was killed, most likely for want of memory"
_STATUS, _DESCRIPTORS = Path("/proc/self/status"), Path("/proc/self/fd")


@dataclass(frozen=True)
class Bounds:
    """What one piece of work may take."""

    memory_bytes: int
    """Beyond what its process holds when it starts."""
    seconds: int
    """Of processor time."""


@dataclass(frozen=True)
class Lost:
    """What stands in the place of a result that there is none of."""

    reason: str


@dataclass
class _Chunk(Generic[Task, Result]):
    """Pieces that were sent together."""

    tasks: Sequence[Task]
    results: deque[Result | Lost] = field(default_factory=deque)
    num_done: int = 0
    num_deaths: int = 0
    """Of the piece that is under way."""


class Bounded(Generic[Task, Result]):
    """A number of processes that each do one piece of work after the other; used as a context manager."""

    def __init__(self, work: Callable[[Task], Result], bounds: Bounds, *, num: int = 1) -> None:
        self._work, self._bounds = work, bounds
        self._workers = [_Worker[Task, Result](work, bounds) for _ in range(num)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.stop()

    def __call__(self, task: Task) -> Result | Lost:
        """Return the result of one piece. Raises: what the work raises."""
        return next(self.map([task]))

    def map(self, tasks: Iterable[Task]) -> Iterator[Result | Lost]:
        """Yield the result of each piece, in order; a few chunks are in memory. Raises: what the work raises."""
        source = iter(tasks)
        pending: deque[_Chunk[Task, Result]] = deque()
        while True:
            for worker in self._workers:
                free = worker.chunk is None and len(pending) <= 2 * len(self._workers)
                if free and (chunk := list(islice(source, _CHUNK))):
                    pending.append(_Chunk(chunk))
                    worker.give(pending[-1])
            while pending and pending[0].results:
                yield pending[0].results.popleft()
            if pending and pending[0].num_done == len(pending[0].tasks):
                pending.popleft()
            elif pending:
                busy = {worker.connection: worker for worker in self._workers if worker.chunk is not None}
                for ready in wait(list(busy)):
                    busy[ready].take()  # type: ignore[index]  # a Connection, as all that were given
            else:
                return


class _Worker(Generic[Task, Result]):
    """One process, started again when it has died."""

    def __init__(self, work: Callable[[Task], Result], bounds: Bounds) -> None:
        self._work, self._bounds = work, bounds
        self.chunk: _Chunk[Task, Result] | None = None
        """What it is at."""
        self._start()

    def _start(self) -> None:
        context = process_context()
        self.connection, theirs = context.Pipe()
        arguments = (theirs, self._work, self._bounds, os.getpid())
        self._process: Any = context.Process(target=_work_until_told, args=arguments, daemon=True)
        self._process.start()
        theirs.close()  # or its end would never be seen

    def give(self, chunk: _Chunk[Task, Result]) -> None:
        """Send it what is left of a chunk."""
        self.chunk = chunk
        with suppress(BrokenPipeError):  # it has died: `take` sees that
            self.connection.send(chunk.tasks[chunk.num_done :])

    def take(self) -> None:
        """Take over one result, or see that it has died. Raises: what the work raised."""
        chunk = self.chunk
        assert chunk is not None
        try:
            result, error = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._mourn(chunk)
            return
        if error is not None:
            raise error
        self._done(chunk, result)

    def _done(self, chunk: _Chunk[Task, Result], result: Result | Lost) -> None:
        chunk.results.append(result)
        chunk.num_done, chunk.num_deaths = chunk.num_done + 1, 0
        if chunk.num_done == len(chunk.tasks):
            self.chunk = None

    def _mourn(self, chunk: _Chunk[Task, Result]) -> None:
        """Start again. What it died of twice is lost; once may have been for want of the machine's memory."""
        self._process.join()
        code = self._process.exitcode
        self.connection.close()
        self._start()
        chunk.num_deaths += 1
        if code == -signal.SIGXCPU:
            self._done(chunk, Lost(f"takes more than {self._bounds.seconds} seconds of processor time"))
        elif chunk.num_deaths == _TRIES:
            self._done(chunk, Lost(_KILLED if code == -signal.SIGKILL else f"crashes what reads it ({_named(code)})"))
        if self.chunk is not None:
            self.give(chunk)

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()
        self.connection.close()


def _named(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _work_until_told(connection: Connection, work: Callable[[Any], Any], bounds: Bounds, parent: int) -> None:
    """Do the pieces that come, within bounds, and send what becomes of each."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C, and ends its workers
    _let_go_of_sockets(connection.fileno())
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _limit_memory(bounds.memory_bytes)
    while True:
        try:
            tasks = connection.recv()
        except EOFError:
            return
        for task in tasks:
            _limit_time(bounds.seconds)
            connection.send(_outcome(work, task))


def _outcome(work: Callable[[Any], Any], task: object) -> tuple[object, Exception | None]:
    try:
        return work(task), None
    except MemoryError:
        return Lost("does not fit into memory"), None
    except Exception as error:  # noqa: BLE001 - the parent raises it
        return None, error


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _let_go_of_sockets(but: int) -> None:
    """Close the copies of the parent's sockets that a fork has: a connection ends only once nobody has it open.

    Their numbers stay in use, since objects of the parent's, which this process has too, would close what took them.
    """
    if not _DESCRIPTORS.exists():
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in [int(path.name) for path in _DESCRIPTORS.iterdir()]:
        with suppress(OSError):  # the one of the listing itself
            if number not in (but, 0, 1, 2) and stat.S_ISSOCK(os.fstat(number).st_mode):
                os.dup2(nothing, number)


def _limit_memory(more_bytes: int) -> None:
    """Let this process take so much more private memory than it has; where the system cannot tell (macOS), any."""
    import resource

    if not _STATUS.exists():
        return
    now = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmData:"))
    soft = int(now.split()[1]) * 1024 + more_bytes
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _limit_time(seconds: int) -> None:
    """Let this process compute for so many seconds from now on; then SIGXCPU ends it."""
    import resource

    spent = resource.getrusage(resource.RUSAGE_SELF)
    soft, hard = int(spent.ru_utime + spent.ru_stime) + 1 + seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
