"""Bodies of requests in memory: how many bytes at once, how long each may take to arrive, and who may send them.

A body counts with what it says that it has, from its first byte until its answer is there. Where that would be too
much, uploads that stand still make room; if there are none, the request is sent away with 503 before its body is read.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import HTTPException, Request

_STALLED_S = 1.0
_WILDCARDS = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not listened at
_BYTES_ALONE = "send the bytes of an image: curl --data-binary @image.png URL"
_ANY_HOST = "*"


@dataclass(frozen=True)
class Limits:
    """What requests may cost."""

    max_bytes: int = 20_000_000
    """Size of the largest body."""
    seconds: float = 30.0
    """Longest wait for a body to arrive, and then for its answer."""
    waiting: int = 16
    """Images that may wait for the one that is being answered."""
    idle_seconds: float = 5.0
    """Longest wait for the next bytes of a body."""
    largest_at_once: int = 6
    """Bodies of the largest size that may be in memory together; more of smaller ones."""


class Upload:
    """One body, which takes memory until it is released."""

    def __init__(self, size: int, release: Callable[["Upload"], None]) -> None:
        self.data = b""
        self.size = size
        self.moved_at = asyncio.get_running_loop().time()
        self.timeout: asyncio.Timeout | None = None
        """What ends its arrival, while it arrives."""
        self._release, self._given_up = release, False

    def release(self) -> None:
        """Give its memory back; a second time changes nothing."""
        self._release(self)
        self.data = b""

    def give_up(self) -> None:
        """End its arrival as if its time were over."""
        self._given_up = True
        self.release()
        if self.timeout is not None and not self.timeout.expired():
            self.timeout.reschedule(self.moved_at)

    def moves(self, until: float) -> None:
        """Note that bytes have come, and wait for more until then. Raises: TimeoutError if it was given up."""
        if self.timeout is None or self._given_up or self.timeout.expired():
            raise TimeoutError
        self.moved_at = asyncio.get_running_loop().time()
        self.timeout.reschedule(until)


class Uploads:
    """The bodies that are in memory."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held: set[Upload] = set()

    async def receive(self, request: Request) -> Upload:
        """Return the body of a request, which must be released. Raises: HTTPException 400, 408, 413, 415 or 503."""
        limits = self._limits
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise HTTPException(415, f"the body is a form; {_BYTES_ALONE}")
        size = int(request.headers.get("content-length", limits.max_bytes))
        if size > limits.max_bytes:
            raise self._too_large()
        upload = self._admitted(size)
        try:
            upload.data = await self._arrived(request, upload)
            if not upload.data:
                raise HTTPException(400, f"the body is empty; {_BYTES_ALONE}")
        except BaseException:
            upload.release()
            raise
        return upload

    def _admitted(self, size: int) -> Upload:
        now, most = asyncio.get_running_loop().time(), self._limits.largest_at_once * self._limits.max_bytes
        stalled = [one for one in self._held if one.timeout is not None and now - one.moved_at > _STALLED_S]
        for one in sorted(stalled, key=lambda one: one.moved_at):
            if size + self._num_bytes() <= most:
                break
            one.give_up()
        if size + self._num_bytes() > most:
            raise HTTPException(503, "too many uploads at once; try again in a moment", {"Retry-After": "1"})
        upload = Upload(size, self._held.discard)
        self._held.add(upload)
        return upload

    def _num_bytes(self) -> int:
        return sum(one.size for one in self._held)

    async def _arrived(self, request: Request, upload: Upload) -> bytes:
        """Return a body once all of it is there, before more than the limit is in memory."""
        data, limits, loop = bytearray(), self._limits, asyncio.get_running_loop()
        end = loop.time() + limits.seconds
        try:
            async with asyncio.timeout(min(limits.seconds, limits.idle_seconds)) as upload.timeout:
                async for part in request.stream():
                    upload.moves(until=min(end, loop.time() + limits.idle_seconds))
                    data += part
                    if len(data) > limits.max_bytes:
                        raise self._too_large()
        except TimeoutError:
            raise HTTPException(408, f"the image did not arrive within {limits.seconds:g} seconds") from None
        finally:
            upload.timeout = None
        return bytes(data)

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"more than {self._limits.max_bytes / 1e6:g} MB; send a smaller image")


class Callers:
    """Whom the server listens to: requests for one of its names, and of no page but its own.

    A page of somebody else can make a browser send requests here, and a name that its owner points at this machine
    makes that page's origin look like ours (DNS rebinding). Addresses in numbers cannot be such a name.
    """

    def __init__(self, listens_at: str, names: Collection[str] = ()) -> None:
        own = [] if listens_at in _WILDCARDS else [listens_at]
        self._named = {name.lower() for name in names}
        self._names = {"localhost", *(name.lower() for name in own), *self._named}

    def check(self, request: Request) -> None:
        """Raise HTTPException 421 for another host's name, 403 for a request that another page makes."""
        host = request.headers.get("host", "")
        if not self._is_ours(_host_of(host)):
            name = _host_of(host)[:100]
            raise HTTPException(421, f"this server is not known as {name!r}; start it with --allow-host {name!r}")
        origin = request.headers.get("origin")
        if origin is None or request.method in ("GET", "HEAD", "OPTIONS"):
            return
        place = urlsplit(origin).netloc.lower()
        if place != host.lower() and _ANY_HOST not in self._named and _host_of(place) not in self._named:
            raise HTTPException(403, "a page of another site may not ask; open the page of this server")

    def _is_ours(self, name: str) -> bool:
        if not name or name in self._names or _ANY_HOST in self._names:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


def _host_of(place: str) -> str:
    """Return the host of HOST:PORT, or of [ADDRESS]:PORT."""
    if place.startswith("["):
        return place.partition("]")[0].lower() + "]"
    return place.partition(":")[0].lower()
