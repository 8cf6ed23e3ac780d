"""Connections to the server that cost nothing while nobody asks: how long a request may take to be told, and how many.

uvicorn waits for ever for the rest of a header. Here a connection that has not told a whole one within a few seconds is
closed, and where too many are open, the one that has waited longest without a request makes room for the next.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 512
"""Open at once: half of the file handles that a process has by default."""
HEADER_S = 5.0
"""Longest wait for the header of a request, from the connection or from the first byte of a later request."""


class TimedProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, without connections that only wait."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._since = self.loop.time()
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._await_request()
        others = [one for one in self.connections if isinstance(one, TimedProtocol) and one.is_idle and one is not self]
        if len(self.connections) >= MOST and others:
            min(others, key=lambda one: one.waits_since).close()

    def data_received(self, data: bytes) -> None:
        """Take bytes; wait on, though not longer for it, if they do not end a header."""
        super().data_received(data)
        if self.is_idle:
            self._await_request()
        elif self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to wait."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        cycle: Any = self.cycle  # None before the first request, whatever its annotation says
        return cycle is None or bool(cycle.response_complete)

    @property
    def waits_since(self) -> float:
        """When it began to wait, by the clock of the loop."""
        return self._since

    def close(self) -> None:
        """End the connection."""
        self.connections.discard(self)
        self.transport.close()

    def _await_request(self) -> None:
        if self._deadline is None:
            self._since = self.loop.time()
            self._deadline = self.loop.call_later(HEADER_S, self._end_of_wait)

    def _end_of_wait(self) -> None:
        self._deadline = None
        if self.is_idle and not self.transport.is_closing():
            self.close()
