"""The label page behind an open socket."""

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from sppnet.errors import MissingExtraError
from sppnet.serve.limits import Limits
from sppnet.serve.server import open_app, shown_url

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from sppnet.label.session import Session
    from sppnet.label.whole.class_session import ClassSession


def open_label_server(
    session: "Session | ClassSession", host: str, port: int, limits: Limits | None = None
) -> "tuple[uvicorn.Server, socket.socket]":
    """A server that does not run yet, and its open socket. Raises as `serve.server.open_server`."""
    limits = limits or Limits()
    return open_app(_create_app(session, host, limits), host, port, limits)


def _create_app(session: "Session | ClassSession", host: str, limits: Limits) -> "FastAPI":
    from sppnet.label.session import Session

    try:
        if isinstance(session, Session):
            from sppnet.label.app import create_label_app

            return create_label_app(session, host, limits)
        from sppnet.label.whole.class_app import create_class_app

        return create_class_app(session, host, limits)
    except ImportError as error:
        raise MissingExtraError(error.name or "FastAPI", "serve") from error


def run_label_server(
    session: "Session | ClassSession", host: str, port: int, tell: Callable[[str], None]
) -> None:
    """Serve until interrupted. tell: called with the URL once it is open."""
    server, place = open_label_server(session, host, port)
    tell(shown_url(host, place))
    with place:
        server.run(sockets=[place])
