"""sppnet label"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sppnet.cli.models import check_detector_downloads
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
        typer.Option("--model", help="A trained detector, whose proposals and features are used."),
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
    if kind == "classify":
        _label_classes(photos, format, names, model, trunk, weights, host, port, device)
        return
    if format in CLASS_FORMATS:
        raise typer.BadParameter(f"--format {format} is of --kind classify; boxes have voc, coco or yolo")
    if model is None:
        check_detector_downloads(trunk, weights)
    from sppnet.cli.output import notes
    from sppnet.destination import check_destination
    from sppnet.label.server import run_label_server
    from sppnet.label.session import Session
    from sppnet.label.store import open_store
    from sppnet.label.trunk import open_trunk, trunk_of_detector

    store = open_store(photos, format, names)  # type: ignore[arg-type]  # others are refused above
    check_destination(store.root, "annotations beside the photographs")
    for reason in store.omitted:
        notes.print(reason, markup=False)
    if model is None:
        taken = open_trunk(trunk, weights, device, photos=store.paths, trunk_input=trunk_input)
    else:
        taken = trunk_of_detector(model, device, photos=store.paths)
    run_label_server(Session(store, taken), host, port, lambda url: notes.print(f"listening at {url}"))


def _label_classes(
    photos: Path,
    format: str | None,
    names: list[str],
    model: Path | None,
    trunk: str,
    weights: str | None,
    host: str,
    port: int,
    device: str,
) -> None:
    """A class for each photograph."""
    if format is not None and format not in CLASS_FORMATS:
        raise typer.BadParameter(f"--format {format} is of boxes; classes have {' or '.join(CLASS_FORMATS)}")
    from sppnet.cli.output import notes
    from sppnet.destination import check_destination
    from sppnet.label.server import run_label_server
    from sppnet.label.whole.class_session import ClassSession
    from sppnet.label.whole.class_store import open_class_store
    from sppnet.label.whole.photo_vectors import open_vectors

    store = open_class_store(photos, format, names)  # type: ignore[arg-type]  # one of CLASS_FORMATS
    check_destination(store.root, "classes beside the photographs")
    for reason in store.omitted:
        notes.print(reason, markup=False)
    session = ClassSession(store, open_vectors(trunk, weights, model, device))
    run_label_server(session, host, port, lambda url: notes.print(f"listening at {url}"))
