"""The HTTP API of the page that gives photographs a class each."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from sppnet.label.page_server import PageServer
from sppnet.label.requests import read_class
from sppnet.label.whole.class_session import ClassSession
from sppnet.serve.limits import Limits

SCRIPTS = "classify.js", "api.js", "drawing.js", "strip.js", "lists.js", "figures.js", "pictures.js"


def create_class_app(session: ClassSession, host: str = "127.0.0.1", limits: Limits | None = None) -> FastAPI:
    """The application. host: where it listens; requests for other hosts are refused (DNS rebinding)."""
    server = ClassServer(session, host, limits or Limits())
    app = server.make_app("classify.html", SCRIPTS)
    app.put("/v1/photos/{photo}")(server.change)
    return app


class ClassServer(PageServer[ClassSession]):
    """A session as the functions that answer requests."""

    async def change(self, photo: int, request: Request) -> dict[str, Any]:
        """The class of a photograph. It is on the disk when this is answered."""
        self._check(photo)
        name, revision = await read_class(request, self.limits)
        sheet = await run_in_threadpool(self.session.change, photo, name, revision)
        return {"label": sheet.name, "revision": sheet.revision, "state": self.session.state_of(photo)}
