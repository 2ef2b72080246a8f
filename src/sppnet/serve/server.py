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
    shown = f"[{host}]" if ":" in host else host
    tell(f"http://{shown}:{place.getsockname()[1]}/")
    with place:
        server.run(sockets=[place])


def open_server(
    model: Classifier | Detector, host: str, port: int, limits: Limits, cors_origins: Sequence[str] = ()
) -> "tuple[uvicorn.Server, socket.socket]":
    """A server that does not run yet, and its open socket."""
    try:
        import python_multipart  # noqa: F401  what reads forms, needed late
        import uvicorn

        from sppnet.serve.app import create_app
        from sppnet.serve.connection import Connection
    except ImportError as error:
        raise MissingExtraError(error.name or "FastAPI", "serve") from error
    app = create_app(model, limits, cors_origins)
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
