"""A web service for comments, as GitHub and GitLab have one, on this machine. No test here."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Comments:
    """The comments of every change, by their number, and what was asked for."""

    url: str = ""
    status: int = 200
    """What every request is answered with; other than 200, nothing is done."""
    bodies: dict[int, str] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers of each request."""


@contextmanager
def answering() -> Iterator[Comments]:
    """Yield the comments of a service that answers while the block runs."""
    comments = Comments()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            comments.asked.append((self.command, self.path, dict(self.headers)))
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer: Any = {"message": "not allowed"}
            if comments.status == 200:
                answer = [{"id": number, "body": body} for number, body in comments.bodies.items()]
                if self.command != "GET":
                    last = self.path.rpartition("/")[2]
                    number = int(last) if last.isdigit() else len(comments.bodies) + 1
                    comments.bodies[number] = json.loads(sent)["body"]
            data = json.dumps(answer).encode()
            self.send_response(comments.status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_PUT = _answer  # noqa: N815 - the names are the library's

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    comments.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield comments
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
