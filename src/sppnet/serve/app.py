"""The HTTP API around one model."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from jinja2 import Template
from starlette.exceptions import HTTPException

from sppnet import __version__
from sppnet.classify.classifier import Classifier
from sppnet.detect.detector import Detector
from sppnet.errors import ConfigError, ImageError
from sppnet.serve.error_answers import (
    in_senders_words,
    own_fault,
    refuse,
    refuse_address,
    refuse_image,
    refuse_value,
)
from sppnet.serve.feature_cache import FeatureCache
from sppnet.serve.limits import Limits, Refusal
from sppnet.serve.metrics import Counts
from sppnet.serve.predictor import Predictor, Question, ServedClassifier, ServedDetector, read_fields
from sppnet.serve.request_body import read_images, read_windows
from sppnet.serve.worker import Worker

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": "page.html",
    "/page.css": "page.css",
    "/page.js": "page.js",
    "/drawing.js": "drawing.js",
    "/camera.js": "camera.js",
}

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Nothing from elsewhere is loaded, nothing is kept, and no other page may show this one."""

IMAGES_IN = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "images": {"type": "array", "items": {"type": "string", "format": "binary"}}
                    },
                }
            },
        },
    }
}
WINDOWS_IN = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["id", "boxes"],
                    "properties": {
                        "id": {
                            "type": "string",
                            "description": "What an answer about the image gave as its id.",
                        },
                        "boxes": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
                    },
                }
            }
        },
    }
}


def create_app(
    model: Classifier | Detector, limits: Limits | None = None, cors_origins: Sequence[str] = ()
) -> FastAPI:
    """The application, with a thread of its own for the model.

    cors_origins: other sites whose pages may ask this server, as "https://example.org"; "*" is all.
    Raises ConfigError for R-CNN, and for what is no origin.
    """
    server = Server(model, limits or Limits())
    app = FastAPI(
        title="sppnet",
        version=__version__,
        description=f"A {server.predictor.model.kind} of {len(server.predictor.model.classes)} classes.",
        docs_url=None,  # FastAPI's own page loads scripts from elsewhere
        redoc_url=None,
        lifespan=server.lifespan,
    )
    app.state.server = server
    reference = Template((PAGE / "reference.html").read_text("utf-8"), autoescape=True)
    app.middleware("http")(server.watch)
    app.exception_handler(Refusal)(refuse)
    app.exception_handler(ImageError)(refuse_image)
    app.exception_handler(RequestValidationError)(refuse_value)
    app.exception_handler(HTTPException)(refuse_address)
    app.exception_handler(Exception)(own_fault)
    for path, name in FILES.items():
        _get(app, path, partial(send_file, PAGE / name), include_in_schema=False)
    _get(app, "/docs", lambda: HTMLResponse(reference.render(app.openapi())), include_in_schema=False)
    _get(app, "/health", server.health)
    _get(app, "/metrics", server.metrics, response_class=PlainTextResponse)
    _get(app, "/v1/model", server.describe)
    app.post("/v1/windows", openapi_extra=WINDOWS_IN)(server.windows)
    answer = server.classify if isinstance(model, Classifier) else server.detect
    other = "detect" if isinstance(model, Classifier) else "classify"
    app.post(f"/v1/{server.predictor.model.kind_of_work}", openapi_extra=IMAGES_IN)(answer)
    app.post(f"/v1/{other}", include_in_schema=False)(server.refuse_kind)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=check_origins(cors_origins),
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["Content-Type"],
        )
    return app


def _get(app: FastAPI, path: str, answer: Callable[..., Any], **options: Any) -> None:
    """A route for GET, and for HEAD, by which load balancers and monitors ask."""
    app.get(path, **options)(answer)
    app.head(path, **{**options, "include_in_schema": False})(answer)


def check_origins(origins: Sequence[str]) -> list[str]:
    """Raises ConfigError for what no browser would send as its origin."""
    for origin in origins:
        parts = urlsplit(origin)
        whole = f"{parts.scheme}://{parts.netloc}"
        if origin != "*" and (parts.scheme not in ("http", "https") or not parts.netloc or origin != whole):
            raise ConfigError(
                "an origin is a scheme and a host, as https://example.org or http://localhost:3000, without "
                f"a path or an ending slash, or * for all; got {origin!r}"
            )
    return list(origins)


class Server:
    """A model, its queue and its counts, as the functions that answer requests."""

    def __init__(self, model: Classifier | Detector, limits: Limits) -> None:
        seeing = ServedClassifier(model) if isinstance(model, Classifier) else ServedDetector(model)
        self.limits, self.worker, self.counts = limits, Worker(limits), Counts()
        self.predictor = Predictor(seeing, FeatureCache(limits), limits.max_pixels)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        await self.worker.run(self.predictor.warm_up)
        yield
        self.worker.close()

    async def watch(self, request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        """Counts a request, and gives its answer the headers that all have."""
        try:
            response = await proceed(request)
        except Exception:
            self.counts.add_request(_path_of(request), 500)
            raise  # to `own_fault`, and to the log
        self.counts.add_request(_path_of(request), response.status_code)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    async def health(self) -> dict[str, Any]:
        """Whether the server takes requests, and how many wait."""
        model = self.predictor.model
        return {"status": "ok", "version": __version__, "kind": model.kind, "queue": self.worker.length}

    async def metrics(self) -> PlainTextResponse:
        """Counts and times for Prometheus."""
        cache = self.predictor.cache
        gauges = {"queue": self.worker.length, "kept_images": len(cache), "kept_bytes": cache.size_bytes}
        return PlainTextResponse(self.counts.text(gauges))

    async def describe(self) -> dict[str, Any]:
        """What the model is, and how much is taken at once."""
        model, limits = self.predictor.model, self.limits
        bounds = {"bytes": limits.max_bytes, "pixels": limits.max_pixels, "images": limits.images}
        return {"kind": model.kind, "classes": list(model.classes), **model.describe(), "limits": bounds}

    async def classify(
        self, request: Request, top: Annotated[int, Query(ge=1, le=1000)] = 5
    ) -> dict[str, Any]:
        """The likeliest classes of an image: its file is the body. Several go as file parts of a form."""
        return await self._answer(request, Question(top=top))

    async def detect(
        self,
        request: Request,
        min_score: Annotated[float, Query(ge=-1e6, le=1e6)] = 0.0,
        overlap: Annotated[float | None, Query(ge=0, le=1)] = None,
    ) -> dict[str, Any]:
        """Objects in an image: its file is the body. Several go as file parts of a form.

        min_score: of this score and above; training sets 0 at the max-F1 threshold.
        overlap: of two boxes of a class that overlap more, the surer stays; by default the model's.
        """
        return await self._answer(request, Question(min_score=min_score, overlap=overlap))

    async def windows(self, request: Request) -> dict[str, Any]:
        """What the model says of windows of an image it has seen lately: they are pooled from its map."""
        with self.worker.place(_client(request)) as place:
            async with place.arrival():
                key, boxes = await read_windows(request, self.limits)
            return await self.worker.run(lambda: self.predictor.score_windows(key, boxes))

    async def refuse_kind(self) -> dict[str, Any]:
        model = self.predictor.model
        raise Refusal(404, f"this server has a {model.kind}; ask /v1/{model.kind_of_work}")

    async def _answer(self, request: Request, question: Question) -> dict[str, Any]:
        with self.worker.place(_client(request)) as place:
            async with place.arrival():
                sent, fields = await read_images(request, self.limits)
            work = self.predictor.model.kind_of_work
            question = read_fields(question, request.query_params, work, "address")
            question = read_fields(question, fields, work)
            if isinstance(sent, bytes):
                return await self._look(sent, question)
            return {"results": [await self._look_or_tell(content, question) for content in sent]}

    async def _look(self, content: bytes, question: Question) -> dict[str, Any]:
        found = await self.worker.run(lambda: self.predictor.look(content, question))
        self.counts.add_image(found["ms"])
        return found

    async def _look_or_tell(self, content: bytes, question: Question) -> dict[str, Any]:
        """A damaged image is no reason to lose the others."""
        try:
            return await self._look(content, question)
        except ImageError as error:
            return {"error": in_senders_words(error)}
        except Refusal as error:
            return {"error": str(error)}


def _path_of(request: Request) -> str:
    """As it is counted: addresses that there are not are one."""
    return str(getattr(request.scope.get("route"), "path", "other"))


def _client(request: Request) -> str:
    return request.client.host if request.client else ""


async def send_file(path: Path) -> FileResponse:
    return FileResponse(path)
