"""A web page and an HTTP endpoint for an exported model, on FastAPI: `thaw serve`.

    POST /predict    the bytes of an image as the body; ?top=K classes (all without it), ?explain=true for an overlay
    GET  /model      what answers: architecture, classes, version, fingerprint, limits
    GET  /health     {"status": "ok"}
    GET  /           the page

No request names a file: what is served is a fixed table, and an image exists in memory only. One image is answered at a
time, since ONNX Runtime takes all cores for it; `waiting` further ones queue, and the rest are sent away with 503. An
image is decoded in a process of its own, which may die of it (422). uploads.py has the limits of bodies, and who may
send them, connections.py those of connections.
"""

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image as Pictures
from pydantic import BaseModel, ConfigDict, Field

from thaw.data.square import Image, square_of
from thaw.errors import DataError, MissingLibraryError, RunError
from thaw.pipeline.bounded import Bounded
from thaw.serving.connections import MOST, TimedProtocol
from thaw.serving.exported import Exported, Squares
from thaw.serving.uploads import Callers, Limits, Upload, Uploads

_PAGE = Path(__file__).parent / "page"
_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_BODY = {"requestBody": {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}}


class About(BaseModel):
    """What GET /model says."""

    architecture: str
    classes: list[str]
    fingerprint: str
    """SHA-256 of the manifest of the model's folder."""
    version: str
    """What the registry calls the model; empty where that is not known."""
    max_bytes: int
    max_seconds: float


class Prediction(BaseModel):
    """A class and its calibrated probability."""

    model_config = ConfigDict(validate_by_name=True)

    name: str = Field(alias="class")
    probability: float


class Explanation(BaseModel):
    """A picture of the places that speak for the likeliest class."""

    method: str
    image: str
    """A data URI."""


class Reply(BaseModel):
    """What POST /predict answers."""

    predictions: list[Prediction]
    """Likeliest first."""
    model: str
    """The version of the model that answered, or else the start of its fingerprint."""
    explanation: Explanation | None


def create_app(model: Exported, limits: Limits, callers: Callers) -> FastAPI:
    """Return the application that answers with a model, within limits, to whom it listens."""
    desk, uploads = PredictionQueue(model, limits), Uploads(limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with desk.open():
            yield

    app = FastAPI(title="Thaw", docs_url=None, redoc_url=None, description="Classifies images.", lifespan=lifespan)

    @app.middleware("http")
    async def guard(request: Request, call_next: Any) -> Response:
        try:
            callers.check(request)
            response: Response = await call_next(request)
        except HTTPException as error:
            response = JSONResponse({"detail": error.detail}, error.status_code)
        response.headers.update(_HEADERS)
        return response

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/model")
    async def about() -> About:
        return desk.about()

    @app.post("/predict", openapi_extra=_BODY)
    async def predict(
        request: Request,
        top: Annotated[
            int | None, Query(ge=1, description="How many classes, likeliest first; all without it.")
        ] = None,
        explain: Annotated[bool, Query(description="Also return a picture of what the answer rests on.")] = False,
    ) -> Reply:
        return await desk.ask(await uploads.receive(request), top, explain)

    for path, (name, media_type) in _FILES.items():
        app.get(path, include_in_schema=False)(_page(name, media_type))
    return app


class PredictionQueue:
    """One image at a time, the others in a queue of bounded length."""

    def __init__(self, model: Exported, limits: Limits) -> None:
        self._model, self._limits = model, limits
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="answer")
        self._inside = 0
        self._reading: Bounded[Image, Squares | str]

    @contextmanager
    def open(self) -> Iterator[None]:
        """Have the process that reads images, which may die of one, for a context."""
        with self._model.reading() as self._reading:
            yield
            self._worker.shutdown(cancel_futures=True)

    def about(self) -> About:
        """Return what GET /model says."""
        return About(
            architecture=_name(self._model),
            classes=self._model.classes,
            fingerprint=self._model.fingerprint,
            version=self._model.version,
            max_bytes=self._limits.max_bytes,
            max_seconds=self._limits.seconds,
        )

    async def ask(self, upload: Upload, top: int | None, explain: bool) -> Reply:
        """Return the answer to an image, which is released then. Raises: HTTPException 422, 503 or 504."""
        if self._inside > self._limits.waiting:
            upload.release()
            raise HTTPException(503, "too many images are waiting; try again in a moment", {"Retry-After": "1"})
        self._inside += 1
        work = asyncio.get_running_loop().run_in_executor(self._worker, self._answer, upload.data, top, explain)
        work.add_done_callback(lambda done: self._leave(done, upload))  # late or not: it holds its place until then
        try:
            return await asyncio.wait_for(asyncio.shield(work), self._limits.seconds)
        except (DataError, MissingLibraryError) as error:
            raise HTTPException(422, str(error)) from None
        except TimeoutError:
            raise HTTPException(504, f"no answer within {self._limits.seconds:g} seconds") from None

    def _leave(self, work: asyncio.Future[Reply], upload: Upload) -> None:
        self._inside -= 1
        upload.release()
        if not work.cancelled():
            work.exception()  # read, or asyncio reports it a second time

    def _answer(self, data: bytes, top: int | None, explain: bool) -> Reply:
        square = square_of(data, self._reading(data))
        shares = self._model.probabilities(square[None])[0]
        order = shares.argsort(kind="stable")[::-1]
        best = [Prediction(name=self._model.classes[index], probability=float(shares[index])) for index in order[:top]]
        overlay = self._explanation(square, int(order[0])) if explain else None
        return Reply(predictions=best, model=self._model.name, explanation=overlay)

    def _explanation(self, square: Squares, index: int) -> Explanation:
        buffer = BytesIO()
        Pictures.fromarray(self._model.explain(square, index)).save(buffer, "PNG")
        picture = base64.b64encode(buffer.getvalue()).decode()
        return Explanation(method=self._model.facts.explanation, image=f"data:image/png;base64,{picture}")


def _page(name: str, media_type: str) -> Any:
    content = (_PAGE / name).read_bytes()

    async def serve() -> Response:
        return Response(content, media_type=media_type)

    return serve


def serve(model: Exported, limits: Limits, host: str, port: int, names: Collection[str] = ()) -> None:
    """Answer requests until interrupted; port 0 takes a free one, `names` are what hosts may call this server.

    Raises: RunError if the port cannot be had.
    """
    with listener(host, port) as ours:
        print(f"thaw: {_name(model)} answers at {url_of(ours)} (Ctrl+C stops it)", flush=True)
        with suppress(KeyboardInterrupt):  # uvicorn finishes what is under way, then passes the signal on
            server(model, limits, Callers(host, names)).run(sockets=[ours])


def server(model: Exported, limits: Limits, callers: Callers) -> uvicorn.Server:
    """Return the server of an application, which is run with a listener."""
    config = uvicorn.Config(
        create_app(model, limits, callers),
        http=TimedProtocol,
        ws="none",
        log_level="error",  # it would print a line for every request that is none
        limit_concurrency=MOST,
        server_header=False,
    )
    return uvicorn.Server(config)


def listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address. Raises: RunError with the reason if it cannot be had."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise RunError(
            f"{host}:{port} cannot be listened at ({error.strerror}); give another with --host or --port"
        ) from None


def url_of(ours: socket.socket) -> str:
    """Return the address of a listener as a browser takes it."""
    host, port = ours.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _name(model: Exported) -> str:
    return model.facts.backbone.name
