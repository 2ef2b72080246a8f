"""What a client is told that cannot be answered, always in JSON."""

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from sppnet.data.image import IN_MEMORY
from sppnet.errors import ImageError
from sppnet.serve.limits import Refusal
from sppnet.serve.request_body import media_type

MAX_SHOWN = 200
"""Characters of an address that an answer repeats."""


async def refuse(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    headers = {} if error.retry_seconds is None else {"Retry-After": str(error.retry_seconds)}
    return JSONResponse({"error": error.message}, error.status, headers)


async def refuse_image(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ImageError)
    said, kind = in_senders_words(error), media_type(request)
    if kind == "application/json" or kind.startswith(("text/", "multipart/")):
        said += (
            f". It came as {kind}: send the bytes of the file, as curl --data-binary @photo.jpg, or a form "
            "with files (multipart/form-data), as curl -F images=@photo.jpg"
        )
    return JSONResponse({"error": said}, 400)


def in_senders_words(error: ImageError) -> str:
    """What is wrong with an image, in words of who sent it."""
    return str(error).replace(IN_MEMORY, "what was sent as an image")


async def refuse_value(request: Request, error: Exception) -> JSONResponse:
    """A field of the address that FastAPI has refused."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}; got {first['input']!r}"}, 422)


async def refuse_address(request: Request, error: Exception) -> JSONResponse:
    """An address that there is not, or that is asked in another way."""
    assert isinstance(error, HTTPException)
    path, taken = request.url.path[:MAX_SHOWN], (error.headers or {}).get("Allow")
    headers = {**(error.headers or {}), "Allow": "GET, HEAD"} if taken == "GET" else error.headers
    said = f"{path} takes {taken}; got {request.method}" if error.status_code == 405 else f"no {path} here"
    return JSONResponse({"error": f"{said}; /docs lists the addresses"}, error.status_code, headers)


async def own_fault(request: Request, error: Exception) -> JSONResponse:
    """In JSON as every answer; the log has the error itself."""
    said = f"the server failed ({type(error).__name__}); its log says where. Other requests are not concerned"
    return JSONResponse({"error": said}, 500)
