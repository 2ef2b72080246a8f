"""sppnet label"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sppnet.cli.downloads import check_detector_downloads
from sppnet.cli.options import Device


def label(
    photos: Annotated[Path, typer.Argument(help="Folder of photographs, annotated or not.")],
    classes: Annotated[
        str | None, typer.Option(help="Names of classes between commas; more can be added on the page.")
    ] = None,
    format: Annotated[
        Literal["voc", "coco", "yolo"] | None,
        typer.Option(help="Layout of the annotations of a folder that has none. [default: voc]"),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="A trained detector, whose proposals and features are used."),
    ] = None,
    trunk: Annotated[str, typer.Option(help="Trunk, as for detect train.")] = "auto",
    weights: Annotated[str | None, typer.Option(help="Weights of the trunk, as for detect train.")] = None,
    host: Annotated[
        str,
        typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in, who can change the files."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.", min=0, max=65535)] = 8001,
    device: Device = "auto",
) -> None:
    """A page to draw boxes that learns from each photograph what to suggest next. Ends with Ctrl-C."""
    if model is None:
        check_detector_downloads(trunk, weights)
    from sppnet.cli.output import notes
    from sppnet.destination import check_destination
    from sppnet.label.server import run_label_server
    from sppnet.label.session import Session
    from sppnet.label.store import open_store
    from sppnet.label.trunk import open_trunk, trunk_of_detector

    names = [name for name in (classes or "").split(",") if name.strip()]
    store = open_store(photos, format, names)
    check_destination(store.root, "annotations beside the photographs")
    for reason in store.omitted:
        notes.print(reason)
    if model is None:
        taken = open_trunk(trunk, weights, device, photos=store.paths)
    else:
        taken = trunk_of_detector(model, device, photos=store.paths)
    run_label_server(Session(store, taken), host, port, lambda url: notes.print(f"listening at {url}"))
