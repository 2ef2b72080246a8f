"""sppnet convert"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from sppnet.cli.options import Json

SHOWN_NOTES = 10


def convert(
    data: Annotated[
        Path, typer.Argument(help="Annotated images: a folder, a COCO .json or a YOLO .yaml file.")
    ],
    to: Annotated[Literal["voc", "coco", "yolo"], typer.Option(help="The layout to write.")],
    out: Annotated[Path, typer.Option(help="An empty or new folder, not inside DATA.")],
    split: Annotated[str | None, typer.Option(help="Convert this split alone.")] = None,
    link: Annotated[
        bool, typer.Option("--link/--copy", help="Link to the image files, or copy them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write annotated images (VOC, COCO or YOLO) in another of these layouts."""
    from sppnet.cli.output import Bars, notes, print_json
    from sppnet.data.convert import convert_annotated

    with Bars() as bars:
        result = convert_annotated(data, to, out, split, link, bars)
    if as_json:
        print_json({"out": str(out), **asdict(result)})
        return
    odd = [*result.skipped, *result.notes]
    for note in odd[:SHOWN_NOTES]:
        notes.print(note, soft_wrap=True, markup=False)
    if len(odd) > SHOWN_NOTES:
        notes.print(f"… and {len(odd) - SHOWN_NOTES} more; `sppnet check {data}` lists them", soft_wrap=True)
    for name, images in result.splits.items():
        typer.echo(f"{name or 'images'}: {images}")
    typer.echo(f"{result.objects} objects in {out}")
