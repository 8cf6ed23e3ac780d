"""The server answers as the model does, within its limits, and gives away nothing else: over a real connection."""

import base64
import http.client
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.exports import Twins
from thaw.errors import RunError
from thaw.serving.exported import Exported
from thaw.serving.serve import Limits, listener, server

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
        serving = server(model, limits)
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
    address: tuple[str, int], path: str, body: bytes | None = None, method: str | None = None, kind: str = "image/png"
) -> Answer:
    connection = http.client.HTTPConnection(*address, timeout=20)
    connection.putrequest(method or ("GET" if body is None else "POST"), path)
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
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: thaw\r\nTransfer-Encoding: chunked\r\n\r\n")
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
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: thaw\r\nContent-Length: 100\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_a_port_that_is_taken_is_named() -> None:
    with listener("127.0.0.1", 0) as ours, pytest.raises(RunError, match=r"cannot be listened at \(.*--port"):
        listener("127.0.0.1", ours.getsockname()[1])
