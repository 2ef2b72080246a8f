"""sppnet label"""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sppnet.cli.models import check_detector_downloads, detector_classes
from sppnet.cli.options import Device

CLASS_FORMATS = "csv", "folders"


def label(
    photos: Annotated[Path, typer.Argument(help="Folder of photographs, annotated or not.")],
    classes: Annotated[
        str | None, typer.Option(help="Names of classes between commas; more can be added on the page.")
    ] = None,
    kind: Annotated[
        Literal["detect", "classify"],
        typer.Option(help="detect: boxes around objects. classify: one class for each photograph."),
    ] = "detect",
    format: Annotated[
        Literal["voc", "coco", "yolo", "csv", "folders"] | None,
        typer.Option(
            help="Layout of the annotations of a folder that has none. Of boxes voc, the default, coco or "
            "yolo; of classes csv, a table labels.csv, the default, or folders, into which photographs are "
            "moved."
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="A trained detector, which suggests its classes from the start."),
    ] = None,
    trunk: Annotated[str, typer.Option(help="Trunk, as for detect train.")] = "auto",
    weights: Annotated[str | None, typer.Option(help="Weights of the trunk, as for detect train.")] = None,
    trunk_input: Annotated[
        str | None, typer.Option(help="What an ONNX file expects of its pixels, as for detect train.")
    ] = None,
    host: Annotated[
        str,
        typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in, who can change the files."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.", min=0, max=65535)] = 8001,
    device: Device = "auto",
) -> None:
    """A page to label photographs that learns from each what to suggest next. Ends with Ctrl-C."""
    names = [name for name in (classes or "").split(",") if name.strip()]
    if kind == "detect" and format in CLASS_FORMATS:
        raise typer.BadParameter(f"--format {format} is of --kind classify; boxes have voc, coco or yolo")
    if kind == "classify" and format not in (None, *CLASS_FORMATS):
        raise typer.BadParameter(f"--format {format} is of boxes; classes have {' or '.join(CLASS_FORMATS)}")
    if kind == "detect" and model is None:
        check_detector_downloads(trunk, weights)
    if kind == "detect" and model is not None and not names:
        names = list(detector_classes(model))
    from sppnet.cli.output import notes
    from sppnet.destination import check_destination
    from sppnet.label.server import run_label_server
    from sppnet.label.session import Session
    from sppnet.label.store import open_store
    from sppnet.label.trunk import open_trunk, trunk_of_detector
    from sppnet.label.whole.class_session import ClassSession
    from sppnet.label.whole.class_store import open_class_store
    from sppnet.label.whole.photo_vectors import open_vectors

    open_folder: Any = open_store if kind == "detect" else open_class_store  # of its own formats, see above
    store = open_folder(photos, format, names)
    check_destination(
        store.root, f"{'annotations' if kind == 'detect' else 'classes'} beside the photographs"
    )
    for reason in store.omitted:
        notes.print(reason, markup=False)
    session: Session | ClassSession
    if kind == "classify":
        session = ClassSession(store, open_vectors(trunk, weights, model, device))
    elif model is None:
        taken = open_trunk(trunk, weights, device, photos=store.paths, trunk_input=trunk_input)
        session = Session(store, taken)
    else:
        session = Session(store, trunk_of_detector(model, device, photos=store.paths))
    run_label_server(session, host, port, lambda url: notes.print(f"listening at {url}"))
