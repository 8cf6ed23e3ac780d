"""The server answers as the model does, within its limits, and gives away nothing else: over a real connection."""

import base64
import http.client
import json
import os
import signal
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.exports import Twins
from thaw.data import decoding, square
from thaw.errors import RunError
from thaw.serving import connections, uploads
from thaw.serving.exported import Exported
from thaw.serving.serve import listener, server
from thaw.serving.uploads import Callers, Limits

LIMITS = Limits(max_bytes=200_000, seconds=10.0, waiting=1)


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@contextmanager
def running(model: Exported, limits: Limits = LIMITS) -> Iterator[tuple[str, int]]:
    """Give the address of a server that runs meanwhile."""
    with listener("127.0.0.1", 0) as ours:
        serving = server(model, limits, Callers("127.0.0.1", ["thaw.example"]))
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [ours]})
        thread.start()
        try:
            yield ours.getsockname()
        finally:
            serving.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module")
def exported(twins: Twins) -> Exported:
    """The tiny classifier."""
    return Exported.open(twins.exported)


@pytest.fixture(scope="module")
def address(exported: Exported) -> Iterator[tuple[str, int]]:
    with running(exported) as found:
        yield found


def ask(
    address: tuple[str, int],
    path: str,
    body: bytes | None = None,
    method: str | None = None,
    kind: str = "image/png",
    **headers: str,
) -> Answer:
    connection = http.client.HTTPConnection(*address, timeout=20)
    connection.putrequest(method or ("GET" if body is None else "POST"), path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
        connection.putheader("Content-Type", kind)
    connection.endheaders(body)
    response = connection.getresponse()
    answer = Answer(response.status, dict(response.getheaders()), response.read())
    connection.close()
    return answer


def png(index: int = 0) -> bytes:
    buffer = BytesIO()
    Image.fromarray(tiny.pixels(6)[index]).save(buffer, "PNG")
    return buffer.getvalue()


def test_it_answers_as_the_model_does_likeliest_first(address: tuple[str, int], exported: Exported) -> None:
    for index in range(3):
        answer = ask(address, "/predict", png(index))
        expected = exported.probabilities(exported.read(png(index))[None])[0]
        found = {entry["class"]: entry["probability"] for entry in answer.json["predictions"]}
        assert answer.status == 200
        assert list(found) == [exported.classes[place] for place in np.argsort(-expected, kind="stable")]
        assert [found[name] for name in exported.classes] == pytest.approx(expected, abs=1e-12)
        assert answer.json["explanation"] is None


def test_top_and_explain(address: tuple[str, int], exported: Exported) -> None:
    answer = ask(address, "/predict?top=1&explain=true", png()).json
    head, data = answer["explanation"]["image"].split(",")
    picture = np.asarray(Image.open(BytesIO(base64.b64decode(data))))
    square = exported.read(png())
    best = exported.classes.index(answer["predictions"][0]["class"])
    assert len(answer["predictions"]) == 1
    assert head == "data:image/png;base64"
    assert answer["explanation"]["method"] == exported.facts.explanation
    np.testing.assert_array_equal(picture, exported.explain(square, best))
    assert ask(address, "/predict?top=0", png()).status == 422


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"", 400, "the body is empty"),
        (b"no image at all", 422, "not an image of a format that is read"),
        (png()[:-40], 422, "damaged or cut short"),
        (b"\0" * 200_001, 413, "more than 0.2 MB"),
    ],
)
def test_a_body_that_cannot_be_used(address: tuple[str, int], body: bytes, status: int, text: str) -> None:
    answer = ask(address, "/predict", body)
    assert answer.status == status
    assert text in answer.json["detail"]
    assert ask(address, "/predict", png()).status == 200


def test_a_form_is_told_that_it_is_one(address: tuple[str, int]) -> None:
    answer = ask(address, "/predict", b"--x\r\n\r\n" + png() + b"\r\n--x--", kind="multipart/form-data; boundary=x")
    assert answer.status == 415
    assert "the body is a form; send the bytes of an image" in answer.json["detail"]


def test_a_body_over_the_limit_that_hides_its_size_is_not_taken_in(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"10000\r\n" + b"\0" * 0x10000 + b"\r\n"
        for _ in range(4):
            connection.sendall(piece)
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_an_image_that_claims_too_many_pixels_is_refused_unread(address: tuple[str, int]) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    claim = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    answer = ask(address, "/predict", claim + png()[33:])
    assert (answer.status, "million pixels" in answer.json["detail"]) == (422, True)


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/model.json", "/page/page.js",
        "/..%2fparams.yaml", "/docs", "/predict/../model.onnx", "/page.css/../serve.py",
    ],
)  # fmt: skip
def test_no_path_leads_to_a_file(address: tuple[str, int], path: str) -> None:
    answer = ask(address, path)
    assert answer.status == 404
    assert b"root:" not in answer.body


def test_the_page_loads_nothing_from_elsewhere_and_may_run_only_its_own_script(address: tuple[str, int]) -> None:
    kinds = {"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript"}
    for path, kind in kinds.items():
        answer = ask(address, path)
        assert answer.headers["content-type"].startswith(kind)
        assert "script-src 'self';" in answer.headers["content-security-policy"]
        assert b"http://" not in answer.body
        assert b"https://" not in answer.body
    assert ask(address, "/health").json == {"status": "ok"}


def test_it_says_what_answers(address: tuple[str, int], exported: Exported) -> None:
    found = ask(address, "/model").json
    assert found["classes"] == exported.classes
    assert found["fingerprint"] == exported.fingerprint
    assert found["version"] == ""
    assert found["max_bytes"] == LIMITS.max_bytes
    operations = ask(address, "/openapi.json").json["paths"]
    assert sorted(operations) == ["/health", "/model", "/predict"]


class Slow:
    """The exported model, answering only once it may."""

    def __init__(self, model: Exported) -> None:
        self.model, self.may = model, threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def probabilities(self, squares: Any) -> Any:
        self.may.wait(20)
        return self.model.probabilities(squares)


def test_a_slow_answer_ends_in_504_and_a_full_queue_in_503(exported: Exported) -> None:
    slow: Any = Slow(exported)
    with running(slow, Limits(seconds=0.6, waiting=1)) as address:
        answers: list[Answer] = []
        threads = [threading.Thread(target=lambda: answers.append(ask(address, "/predict", png()))) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        full = ask(address, "/predict", png())
        for thread in threads:
            thread.join()
        slow.may.set()
        assert (full.status, full.headers["retry-after"]) == (503, "1")
        assert [answer.status for answer in answers] == [504, 504]
        assert "no answer within 0.6 seconds" in answers[0].json["detail"]
        time.sleep(0.3)
        assert ask(address, "/predict", png()).status == 200  # the two that came too late gave their places back


def test_a_body_that_never_comes_ends_in_408(exported: Exported) -> None:
    with (
        running(exported, Limits(seconds=0.3)) as address,
        socket.create_connection(address, timeout=20) as connection,
    ):
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_a_port_that_is_taken_is_named() -> None:
    with listener("127.0.0.1", 0) as ours, pytest.raises(RunError, match=r"cannot be listened at \(.*--port"):
        listener("127.0.0.1", ours.getsockname()[1])


@contextmanager
def begun(address: tuple[str, int], request: bytes, count: int = 1) -> Iterator[list[socket.socket]]:
    """Give connections on each of which the same part of a request was sent."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(count)]
        for connection in found:
            connection.sendall(request)
        yield found


def is_closed(connection: socket.socket) -> bool:
    """Wait until the other side has closed a connection; tell whether it has."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "request_begun",
    [
        b"",
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-",
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\nsome",
    ],
    ids=["nothing", "half a header", "half a body"],
)
def test_requests_that_are_never_finished_do_not_keep_others_out(
    exported: Exported, request_begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_STALLED_S", 0.05)
    with running(exported) as address, begun(address, request_begun, 130):
        started = time.monotonic()
        while (answer := ask(address, "/predict", png())).status == 503:  # while the others are still being taken in
            time.sleep(0.1)
        assert answer.status == 200
        assert time.monotonic() - started < min(connections.HEADER_S, LIMITS.idle_seconds)


def test_the_connection_that_waited_longest_makes_room_where_too_many_are_open(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST", 4)
    with running(exported) as address, begun(address, b"GET / HT") as (first,), begun(address, b"GET / HT", 4):
        assert is_closed(first)
        assert ask(address, "/health").status == 200


def test_a_header_that_never_ends_is_given_up_also_where_its_bytes_drip_or_it_is_a_second_one(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADER_S", 0.4)
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with running(exported) as address, begun(address, b"") as (silent,), begun(address, whole) as (second,):
        assert second.recv(1000).startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() - started < 5:
                second.sendall(b"G")
                time.sleep(0.05)
        assert time.monotonic() - started < 3
        assert is_closed(silent)


def test_more_than_memory_is_set_aside_for_is_sent_away_and_answered_later(exported: Exported) -> None:
    body = png() + bytes(150_000)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    limits = replace(LIMITS, largest_at_once=1)
    with running(exported, limits) as address, begun(address, head + body[:-1]) as (slow,):
        time.sleep(0.2)
        full = ask(address, "/predict", body)
        assert (full.status, full.headers["retry-after"]) == (503, "1")
        assert "too many uploads" in full.json["detail"]
        slow.sendall(body[-1:])
        assert slow.recv(12) == b"HTTP/1.1 200"
        assert ask(address, "/predict", body).status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("10.0.0.7:8000", 200), ("THAW.example", 200),
        ("evil.example", 421), ("localhost.evil.example:80", 421), ("127.0.0.1.evil.example", 421),
    ],
)  # fmt: skip
def test_it_listens_to_requests_for_its_own_names(address: tuple[str, int], host: str, status: int) -> None:
    answer = ask(address, "/model", Host=host)
    assert answer.status == status
    assert (b"--allow-host" if status == 421 else b"classes") in answer.body


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:5", 200), ("https://localhost:5", 200), ("https://thaw.example", 200),
        ("http://localhost:6", 403), ("http://evil.example", 403), ("null", 403), ("", 403),
    ],
)  # fmt: skip
def test_it_answers_no_page_of_another_origin(address: tuple[str, int], origin: str, status: int) -> None:
    assert ask(address, "/predict", png(), Host="localhost:5", Origin=origin).status == status


def test_an_image_that_its_decoder_dies_of_is_refused_and_the_next_is_answered(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = decoding.decode

    def decode(data: bytes, **settings: Any) -> Any:
        if data == b"deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        return real(data, **settings)

    monkeypatch.setattr(square, "decode", decode)
    with running(exported) as address:
        answer = ask(address, "/predict", b"deadly")
        assert answer.status == 422
        assert answer.json["detail"].startswith("the image cannot be used: the process that read it was killed")
        assert ask(address, "/predict", png()).status == 200
