"""What a client sends, read no further than the limits go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from sppnet.arrays import Floats
from sppnet.boxes import check_boxes
from sppnet.errors import DataError, GeometryError
from sppnet.serve.limits import Limits, Refusal

MAX_WINDOWS = 1000
"""Of one request."""

MAX_FIELDS = 8
"""Of one form, beside its files."""

MAX_PX = 1e6
"""Corners further away than this are moved here; no image is as large."""


Fields = dict[str, str]
"""Fields of a form that are no files."""


async def read_images(request: Request, limits: Limits) -> tuple[list[bytes] | bytes, Fields]:
    """One image file as the body itself, or several as the parts of a form; its fields. Raises Refusal."""
    kind = media_type(request)
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise Refusal(415, f"a body is taken as it is; got one with Content-Encoding: {coding}")
    limited = bounded(request, limits)
    sent: tuple[list[bytes] | bytes, Fields]
    async with in_time(limits):
        if kind == "multipart/form-data":
            sent = await _read_form(limited, limits)
        else:
            sent = _not_empty(await limited.body()), {}
    return sent


@asynccontextmanager
async def in_time(limits: Limits) -> AsyncIterator[None]:
    """For a body to arrive. Raises Refusal where it does not."""
    try:
        async with asyncio.timeout(limits.upload_seconds):
            yield
    except TimeoutError as error:
        raise Refusal(408, f"the body did not arrive within {limits.upload_seconds:g} seconds") from error


def media_type(request: Request) -> str:
    """What the body is said to be; "" where nothing is said."""
    return str(request.headers.get("content-type", "")).partition(";")[0].strip().lower()


async def read_windows(request: Request, limits: Limits) -> tuple[str, Floats]:
    """{"id": …, "boxes": [[x0, y0, x1, y1], …]}. Raises Refusal."""
    limited = bounded(request, limits)
    try:
        async with in_time(limits):
            asked: Any = await limited.json()
        key, corners = asked["id"], np.asarray(asked["boxes"], np.float64)
        boxes = check_boxes(corners.clip(-MAX_PX, MAX_PX))
    except (KeyError, TypeError, ValueError, DataError, GeometryError, RecursionError) as error:
        reason = str(error).splitlines()[0] if isinstance(error, DataError) else type(error).__name__
        raise Refusal(
            422, f'the body must be {{"id": …, "boxes": [[x0, y0, x1, y1], …]}}, boxes in pixels: {reason}'
        ) from error
    if not 1 <= len(boxes) <= MAX_WINDOWS or not isinstance(key, str):
        raise Refusal(
            422, f"1 to {MAX_WINDOWS} boxes are scored at once, in pixels of the image; got {len(boxes)}"
        )
    return key, boxes


async def _read_form(request: Request, limits: Limits) -> tuple[list[bytes], Fields]:
    try:
        async with request.form(max_files=limits.images, max_fields=MAX_FIELDS) as form:
            items = form.multi_items()
            parts = [await part.read() for _, part in items if isinstance(part, UploadFile)]
    except HTTPException as error:
        raise Refusal(
            400,
            f"the form cannot be read: {error.detail} A form of at most {limits.images} files and "
            f"{MAX_FIELDS} fields was expected",
        ) from error
    fields = {name: value for name, value in items if isinstance(value, str)}
    if not parts:
        text = f"; {', '.join(fields)} came as text" if fields else ""
        raise Refusal(
            400,
            f"the form holds no files{text}. Send each image as a file part, as curl -F images=@photo.jpg",
        )
    return parts, fields


def _not_empty(content: bytes) -> bytes:
    if not content:
        raise Refusal(400, "the body is empty; send the bytes of an image file")
    return content


def bounded(request: Request, limits: Limits) -> Request:
    """The request, whose body raises Refusal beyond the limit; raises it at once if it says it is longer.

    The same where the client goes away, which is no failure of ours.
    """
    message = f"a body of at most {limits.max_bytes >> 10:,} KiB is taken; send a smaller image"
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > limits.max_bytes:
        raise Refusal(413, message)
    seen = 0

    async def receive_counted() -> Any:
        nonlocal seen
        event = await request.receive()
        if event["type"] == "http.disconnect":
            raise Refusal(400, "the client went away before its body had arrived")
        seen += len(event.get("body", b""))
        if seen > limits.max_bytes:
            raise Refusal(413, message)
        return event

    return Request(request.scope, receive_counted)
