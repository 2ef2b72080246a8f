"""What the page sends, checked."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import Request

from sppnet.arrays import Floats
from sppnet.boxes import check_boxes
from sppnet.errors import DataError
from sppnet.label.sheets import LabelledBox
from sppnet.serve.limits import Limits, Refusal
from sppnet.serve.request_body import bounded, in_time, media_type

MAX_BODY_BYTES = 2 << 20

EXPECTED = (
    '{"boxes": [{"label": …, "box": [x0, y0, x1, y1], "origin": number or null}, …], "done": true or false, '
    '"revision": number or null, "refused": [[x0, y0, x1, y1], …]}'
)


@dataclass(frozen=True)
class Change:
    """The boxes of a photograph as a page has them."""

    boxes: tuple[LabelledBox, ...]
    done: bool
    revision: int | None
    refused: Floats
    """(n, 4) suggestions that are no objects."""


async def read_change(request: Request, limits: Limits) -> Change:
    """Raises Refusal."""
    body = await _read_json(request, limits)
    try:
        boxes = tuple(_box(one) for one in body["boxes"])
        revision = body.get("revision")
        refused = check_boxes(np.asarray(body.get("refused", []), np.float64).reshape(-1, 4))
        return Change(
            boxes, bool(body.get("done", False)), None if revision is None else int(revision), refused
        )
    except (KeyError, TypeError, ValueError, AttributeError, DataError) as error:
        raise Refusal(422, f"expected {EXPECTED}; got something else: {error}") from error


async def read_class(request: Request, limits: Limits) -> tuple[str | None, int | None]:
    """The class of a photograph, None for none, and the revision that was changed. Raises Refusal."""
    body = await _read_json(request, limits)
    name, revision = (body.get("label"), body.get("revision")) if isinstance(body, dict) else (0, 0)
    if not isinstance(name, str | None) or not isinstance(revision, int | None):
        raise Refusal(
            422, 'expected {"label": a text or null, "revision": a number or null}; got something else'
        )
    return name, revision


async def read_name(request: Request, limits: Limits) -> str:
    """Raises Refusal."""
    body = await _read_json(request, limits)
    if not isinstance(body, dict) or not isinstance(body.get("name"), str):
        raise Refusal(422, 'expected {"name": …}, a text; got something else')
    return str(body["name"])


def _box(one: dict[str, Any]) -> LabelledBox:
    x0, y0, x1, y1 = map(float, one["box"])
    origin = one.get("origin")
    flags = bool(one.get("difficult", False)), bool(one.get("crowd", False))
    key = str(one.get("key", ""))[:40]
    return LabelledBox(
        str(one["label"]), (x0, y0, x1, y1), None if origin is None else int(origin), *flags, key
    )


async def _read_json(request: Request, limits: Limits) -> Any:
    if media_type(request) != "application/json":
        raise Refusal(415, "expected a body of application/json; send that content type")
    if int(request.headers.get("content-length", "0") or 0) > MAX_BODY_BYTES:
        raise Refusal(413, f"a body has {MAX_BODY_BYTES >> 10:,} KiB at most; send fewer boxes")
    try:
        async with in_time(limits):
            return await bounded(request, limits).json()
    except (ValueError, RecursionError) as error:
        raise Refusal(422, f"the body is not JSON: {error}") from error
