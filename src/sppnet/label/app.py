"""The HTTP API of the label page. It writes files, so it takes requests of its own page alone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response

from sppnet import __version__
from sppnet.errors import DataError, ImageError, SppnetError
from sppnet.label.pictures import Thumbs, picture
from sppnet.label.requests import read_change, read_name
from sppnet.label.session import Order, Session, describe_box
from sppnet.label.store import ConflictError, why_unwritable
from sppnet.label.training import TrainingJob
from sppnet.serve.app import HEADERS
from sppnet.serve.limits import Limits, Refusal

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": "page.html",
    **{f"/{name}": name for name in (
        "page.css", "main.js", "actions.js", "api.js", "canvas.js", "drawing.js", "editing.js", "keys.js",
        "strip.js", "figures.js", "training.js", "lists.js", "pictures.js",
    )},
}  # fmt: skip

LOCAL = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("", "0.0.0.0", "::")

POLL_SECONDS = 4.0
"""A request for what is new is answered then, even if nothing is."""

REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"


def create_label_app(session: Session, host: str = "127.0.0.1", limits: Limits | None = None) -> FastAPI:
    """The application. host: where it listens; requests for other hosts are refused (DNS rebinding)."""
    server = LabelServer(session, host, limits or Limits())
    app = FastAPI(
        title="sppnet label", version=__version__, docs_url=None, redoc_url=None, lifespan=server.lifespan
    )
    app.state.server = server
    app.middleware("http")(server.guard)
    for kind, answer in ((Refusal, _refuse), (SppnetError, _refuse_ours), (OSError, _refuse_system)):
        app.exception_handler(kind)(answer)
    for path, name in FILES.items():
        app.get(path, include_in_schema=False)(partial(_send_file, PAGE / name))
    app.get("/v1/session")(server.describe)
    app.get("/v1/photos")(server.photos)
    app.get("/v1/photos/{photo}")(server.photo)
    app.put("/v1/photos/{photo}")(server.change)
    app.get("/v1/photos/{photo}/image")(server.image)
    app.get("/v1/photos/{photo}/thumb")(server.thumb)
    app.get("/v1/photos/{photo}/suggestions")(server.suggestions)
    app.post("/v1/photos/{photo}/show")(server.show)
    app.post("/v1/classes")(server.add_class)
    app.get("/v1/changes")(server.changes)
    app.get("/v1/training")(server.training)
    app.post("/v1/training")(server.train)
    app.delete("/v1/training")(server.stop_training)
    app.get("/report.html", include_in_schema=False)(server.report)
    return app


class LabelServer:
    """A session as the functions that answer requests."""

    def __init__(self, session: Session, host: str, limits: Limits) -> None:
        self.session, self.host, self.limits = session, host, limits
        self.thumbs, self.job = Thumbs(), TrainingJob(session.store)
        self._news: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self._news, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self.session.listeners.append(self._tell)
        self.session.start()
        yield
        self.session.listeners.remove(self._tell)
        self._news.set()
        await run_in_threadpool(self.job.stop)
        await run_in_threadpool(self.session.close)

    async def guard(self, request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        """Refuses what another site sends through the user's browser."""
        reason = self._why_foreign(request)
        response = JSONResponse({"error": reason}, 403) if reason else await proceed(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def _why_foreign(self, request: Request) -> str | None:
        asked = request.headers.get("host", "")
        name = urlsplit(f"//{asked}").hostname or ""
        if self.host not in EVERYWHERE and name not in (*LOCAL, self.host):
            return f"this server is {self.host}; got a request for {name}"
        origin = request.headers.get("origin")
        if request.method not in ("GET", "HEAD") and origin is not None and urlsplit(origin).netloc != asked:
            return f"changes are taken from this server's own page; got one from {origin}"
        return None

    # --- the session -----------------------------------------------------------------------------

    async def describe(self) -> dict[str, Any]:
        """The folder, its classes and counts, what was learned and how well it does."""
        return self.session.describe()

    async def photos(self) -> dict[str, Any]:
        """Names and states of all photographs, by number."""
        count = range(len(self.session.store))
        return {
            "names": [self.session.store.name(photo) for photo in count],
            "states": [self.session.state_of(photo) for photo in count],
            "sequence": self.session.sequence,
        }

    async def changes(self, since: Annotated[int, Query(ge=0)] = 0) -> dict[str, Any]:
        """Waits until something is newer than `since`: which photographs changed, and the session."""
        assert self._news is not None
        if self.session.sequence <= since:
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    while self.session.sequence <= since and self.session.listeners:
                        await self._news.wait()
                        self._news.clear()
            except TimeoutError:
                pass
        changed = self.session.changes_since(since)
        return {
            "changed": [
                {
                    "id": photo, "state": self.session.state_of(photo),
                    "revision": self.session.store.sheet(photo).revision,
                }
                for photo in changed
            ],
            **self.session.describe(),
        }  # fmt: skip

    def _tell(self) -> None:
        """From any thread."""
        if self._loop is not None and self._news is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.set)

    async def add_class(self, request: Request) -> dict[str, Any]:
        """{"name": …}: a class at the end of the list."""
        name = await read_name(request, self.limits)
        added = await run_in_threadpool(self.session.add_class, name)
        return {"name": added, "classes": list(self.session.store.classes)}

    # --- photographs -----------------------------------------------------------------------------

    def photo(self, photo: int) -> dict[str, Any]:
        """Boxes and suggestions."""
        self._check(photo)
        return self.session.describe_photo(photo)

    def suggestions(self, photo: int) -> dict[str, Any]:
        """What is suggested now."""
        self._check(photo)
        return self.session.describe_suggestions(photo)

    def show(self, photo: int, order: Order = "name") -> dict[str, Any]:
        """The photograph is on the screen: the next ones are prepared. Gives the next that is open."""
        self._check(photo)
        return {"next": self.session.show(photo, order)}

    async def change(self, photo: int, request: Request) -> dict[str, Any]:
        """All boxes of a photograph. They are on the disk when this is answered."""
        self._check(photo)
        change = await read_change(request, self.limits)
        sheet = await run_in_threadpool(
            self.session.change, photo, change.boxes, change.done, change.revision, change.refused
        )
        described = [describe_box(box) for box in sheet.boxes]
        return {"revision": sheet.revision, "state": sheet.state, "boxes": described}

    def image(self, photo: int) -> Response:
        """The photograph, upright."""
        self._check(photo)
        content, kind = picture(self.session.store.paths[photo])
        return Response(content, media_type=kind)

    def thumb(self, photo: int) -> Response:
        """The photograph, small."""
        self._check(photo)
        content = self.thumbs.get(self.session.store.paths[photo])
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    def _check(self, photo: int) -> None:
        if not 0 <= photo < len(self.session.store):
            raise Refusal(404, f"photographs are 0 to {len(self.session.store) - 1}; got {photo}")

    # --- the detector ----------------------------------------------------------------------------

    async def training(self) -> dict[str, Any]:
        """How the training goes."""
        return self.job.describe()

    def train(self) -> dict[str, Any]:
        """Train a detector on the confirmed photographs."""
        self.job.start()
        return self.job.describe()

    def stop_training(self) -> dict[str, Any]:
        """End the training."""
        self.job.stop()
        return self.job.describe()

    async def report(self) -> Response:
        described = self.job.describe()
        if not described["report"] or self.job.out is None:
            raise Refusal(404, "there is no report yet; it is written at the end of a training")
        policy = {"Content-Security-Policy": REPORT_POLICY}
        return FileResponse(self.job.out / "report.html", headers=policy)


async def _send_file(path: Path) -> FileResponse:
    return FileResponse(path)


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return JSONResponse({"error": error.message}, error.status)


async def _refuse_ours(request: Request, error: Exception) -> JSONResponse:
    status = 409 if isinstance(error, ConflictError) else 422 if isinstance(error, DataError) else 400
    status = 410 if isinstance(error, ImageError) else status
    return JSONResponse({"error": str(error)}, status)


async def _refuse_system(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": why_unwritable(error)}, 507)
