"""The HTTP API of the page that labels boxes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response

from sppnet.label.page_server import PageServer
from sppnet.label.requests import read_change
from sppnet.label.session import Session, describe_box
from sppnet.label.training import TrainingJob
from sppnet.serve.limits import Limits, Refusal

SCRIPTS = (
    "main.js", "actions.js", "api.js", "canvas.js", "drawing.js", "editing.js", "keys.js", "strip.js",
    "figures.js", "training.js", "lists.js", "pictures.js",
)  # fmt: skip

REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"


def create_label_app(session: Session, host: str = "127.0.0.1", limits: Limits | None = None) -> FastAPI:
    """The application. host: where it listens; requests for other hosts are refused (DNS rebinding)."""
    server = LabelServer(session, host, limits or Limits())
    app = server.make_app("page.html", SCRIPTS)
    app.put("/v1/photos/{photo}")(server.change)
    app.get("/v1/training")(server.training)
    app.post("/v1/training")(server.train)
    app.delete("/v1/training")(server.stop_training)
    app.get("/report.html", include_in_schema=False)(server.report)
    return app


class LabelServer(PageServer[Session]):
    """A session as the functions that answer requests."""

    def __init__(self, session: Session, host: str, limits: Limits) -> None:
        super().__init__(session, host, limits)
        self.job = TrainingJob(session.store)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        async with super().lifespan(app):
            yield
            await run_in_threadpool(self.job.stop)

    async def change(self, photo: int, request: Request) -> dict[str, Any]:
        """All boxes of a photograph. They are on the disk when this is answered."""
        self._check(photo)
        change = await read_change(request, self.limits)
        sheet = await run_in_threadpool(
            self.session.change, photo, change.boxes, change.done, change.revision, change.refused
        )
        described = [describe_box(box) for box in sheet.boxes]
        return {"revision": sheet.revision, "state": sheet.state, "boxes": described}

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
