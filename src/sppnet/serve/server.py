"""A server that listens."""

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sppnet.classify.classifier import Classifier
from sppnet.detect.detector import Detector
from sppnet.errors import ConfigError, MissingExtraError
from sppnet.serve.limits import Limits

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI


def run_server(
    model: Classifier | Detector,
    host: str,
    port: int,
    limits: Limits,
    tell: Callable[[str], None],
    cors_origins: Sequence[str] = (),
) -> None:
    """Serve until interrupted. tell: called with the URL once it is open. cors_origins: see `create_app`.

    Raises ConfigError where the address cannot be had, MissingExtraError without the extra "serve".
    """
    server, place = open_server(model, host, port, limits, cors_origins)
    tell(shown_url(host, place))
    with place:
        server.run(sockets=[place])


def open_server(
    model: Classifier | Detector, host: str, port: int, limits: Limits, cors_origins: Sequence[str] = ()
) -> "tuple[uvicorn.Server, socket.socket]":
    """A server that does not run yet, and its open socket."""
    try:
        import python_multipart  # noqa: F401  what reads forms, needed late

        from sppnet.serve.app import create_app
    except ImportError as error:
        raise MissingExtraError(error.name or "FastAPI", "serve") from error
    return open_app(create_app(model, limits, cors_origins), host, port, limits)


def open_app(app: "FastAPI", host: str, port: int, limits: Limits) -> "tuple[uvicorn.Server, socket.socket]":
    """As `open_server`, for any application."""
    try:
        import uvicorn

        from sppnet.serve.connection import Connection
    except ImportError as error:
        raise MissingExtraError(error.name or "uvicorn", "serve") from error
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        place = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ConfigError(
            f"{host}:{port} cannot be listened at: {error.strerror}; choose another --port"
        ) from error
    # Little is kept open for slow clients: each holds memory.
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_level="warning",
        limit_concurrency=8 * limits.queue,
        timeout_keep_alive=limits.idle_seconds,
    )
    return uvicorn.Server(config), place


def shown_url(host: str, place: socket.socket) -> str:
    """Where a browser finds it."""
    return f"http://{f'[{host}]' if ':' in host else host}:{place.getsockname()[1]}/"
