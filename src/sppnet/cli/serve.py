"""sppnet serve"""

from pathlib import Path
from typing import Annotated

import typer

from sppnet.cli.options import Device


def serve(
    model: Annotated[Path, typer.Option("--model", help="Classifier or detector made by training.")],
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.", min=0, max=65535)] = 8000,
    device: Device = "auto",
    queue: Annotated[int, typer.Option(help="Requests that may wait; more are told to come back.")] = 8,
    max_mb: Annotated[int, typer.Option("--max-mb", help="Of a request's body.")] = 20,
    max_pixels: Annotated[int, typer.Option(help="Of an image, known before it is decoded.")] = 40_000_000,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origin",
            help="Site whose pages may ask this server, as https://example.org; repeat it, or * for all. "
            "[default: none]",
        ),
    ] = None,
) -> None:
    """A page and an HTTP API for a model. Ends with Ctrl-C."""
    from sppnet.cli.models import open_model
    from sppnet.cli.output import notes
    from sppnet.serve.limits import Limits
    from sppnet.serve.server import run_server

    limits = Limits(queue=queue, max_bytes=max_mb << 20, max_pixels=max_pixels)
    run_server(
        open_model(model, device),
        host,
        port,
        limits,
        lambda url: notes.print(f"listening at {url}"),
        cors_origin or (),
    )
