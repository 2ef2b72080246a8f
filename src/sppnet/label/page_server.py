"""What the label pages have in common: photographs, news, and who may ask.

They write files, so they take requests of their own page alone.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import urlsplit

from fastapi import FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from sppnet import __version__
from sppnet.errors import DataError, ImageError, SppnetError
from sppnet.label.base import LabelSession
from sppnet.label.pictures import Thumbs, picture
from sppnet.label.requests import read_name
from sppnet.label.sheets import ConflictError, Order, why_unwritable
from sppnet.serve.app import HEADERS, send_file
from sppnet.serve.limits import Limits, Refusal

PAGE = Path(__file__).parent / "page"

LOCAL = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("", "0.0.0.0", "::")

POLL_SECONDS = 4.0
"""A request for what is new is answered then, even if nothing is."""


S = TypeVar("S", bound=LabelSession[Any, Any])


class PageServer(Generic[S]):
    """A session as the functions that answer requests."""

    def __init__(self, session: S, host: str, limits: Limits) -> None:
        self.session, self.host, self.limits = session, host, limits
        self.thumbs = Thumbs()
        self._news: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def make_app(self, page: str, scripts: Iterable[str]) -> FastAPI:
        """The application. page, scripts: files of the folder PAGE; the style sheet is the same for all."""
        app = FastAPI(
            title="sppnet label", version=__version__, docs_url=None, redoc_url=None, lifespan=self.lifespan
        )
        app.state.server = self
        app.middleware("http")(self.guard)
        for kind, answer in ((Refusal, _refuse), (SppnetError, _refuse_ours), (OSError, _refuse_system)):
            app.exception_handler(kind)(answer)
        files = {"/": page, **{f"/{name}": name for name in ("page.css", *scripts)}}
        for path, name in files.items():
            app.get(path, include_in_schema=False)(partial(send_file, PAGE / name))
        app.get("/v1/session")(self.describe)
        app.get("/v1/photos")(self.photos)
        app.get("/v1/photos/{photo}")(self.photo)
        app.get("/v1/photos/{photo}/image")(self.image)
        app.get("/v1/photos/{photo}/thumb")(self.thumb)
        app.get("/v1/photos/{photo}/suggestions")(self.suggestions)
        app.post("/v1/photos/{photo}/show")(self.show)
        app.post("/v1/classes")(self.add_class)
        app.get("/v1/changes")(self.changes)
        return app

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self._news, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self.session.listeners.append(self._tell)
        self.session.start()
        yield
        self.session.listeners.remove(self._tell)
        self._news.set()
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
        names = self.session.store.names
        states = [self.session.state_of(photo) for photo in range(len(names))]
        return {"names": names, "states": states, "sequence": self.session.sequence}

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
        return {"name": added, "classes": self.session.describe()["classes"]}

    # --- photographs -----------------------------------------------------------------------------

    def photo(self, photo: int) -> dict[str, Any]:
        """What it is labelled, and what is suggested."""
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
        count = len(self.session.store)
        if not 0 <= photo < count:
            raise Refusal(404, f"photographs are 0 to {count - 1}; got {photo}")


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return JSONResponse({"error": error.message}, error.status)


async def _refuse_ours(request: Request, error: Exception) -> JSONResponse:
    status = 409 if isinstance(error, ConflictError) else 422 if isinstance(error, DataError) else 400
    status = 410 if isinstance(error, ImageError) else status
    return JSONResponse({"error": str(error)}, status)


async def _refuse_system(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": why_unwritable(error)}, 507)
