"""sppnet trunk"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sppnet.cli.destinations import check_file

if TYPE_CHECKING:
    from sppnet.nn.onnx_trunk import OnnxTrunk

NAMED = 10
"""Classes that are listed."""


def trunk(
    file: Annotated[Path, typer.Argument(help="ONNX file of a detector like YOLOX.")],
    photo: Annotated[
        Path | None,
        typer.Option(help="Compare the network with the file's own output on this photograph."),
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(help="Draw what the network finds in the photograph by itself (PNG).")
    ] = None,
    min_score: Annotated[float, typer.Option(help="Probability from which on it is drawn.")] = 0.3,
) -> None:
    """Say what detect train --trunk FILE would find in a detector's ONNX file, and check it."""
    from sppnet.nn.onnx_trunk import OnnxTrunk

    if draw is not None:
        if photo is None:
            raise typer.BadParameter("--draw needs a photograph: give --photo")
        check_file(draw, "--draw", [photo, file])
    found = OnnxTrunk.from_file(file)
    for line in _described(found):
        typer.echo(line)
    if photo is not None:
        typer.echo(_compared(found, file, photo))
    if photo is not None and draw is not None:
        _draw(found, photo, draw, min_score)


def _described(trunk: "OnnxTrunk") -> list[str]:
    from sppnet.features.head_boxes import VectorLayout

    graph, layout, classes = trunk.graph, VectorLayout.of(trunk), trunk.known_classes
    more = f", … ({len(classes)})" if len(classes) > NAMED else f" ({len(classes)})"
    maps = ", ".join(f"{tap.channels} at stride {tap.grid.stride}" for tap in trunk.taps)
    order = "BGR" if trunk.convention.bgr else "RGB"
    others = "other sizes too" if graph.dynamic else "no other size"
    return [
        f"maps      {maps}",
        f"head      {layout.class_features} class features, {layout.box_features} box features a cell; "
        f"vectors of {layout.length} numbers",
        f"classes   {', '.join(classes[:NAMED])}{more}",
        f"input     {graph.size_px}×{graph.size_px}, {others}; "
        f"{order}, white is {trunk.convention.peak:g} ({trunk.convention_name})",
    ]


def _compared(trunk: "OnnxTrunk", file: Path, photo: Path) -> str:
    from sppnet.data.image import read_image
    from sppnet.data.transforms import resize_to
    from sppnet.features.onnx_extractor import longer_size
    from sppnet.nn.onnx_check import compare_with_file

    image = read_image(photo)
    size_hw = longer_size((image.shape[0], image.shape[1]), trunk.graph.size_px)
    difference = compare_with_file(trunk, file, resize_to(image, size_hw))
    if difference is None:
        return "compared  not possible: the file's own output is not that of YOLOX"
    return f"compared  differs from the file's own output by {difference:.1g} at most"


def _draw(trunk: "OnnxTrunk", photo: Path, out: Path, min_score: float) -> None:
    from sppnet.data.image import read_image
    from sppnet.detect.known_classes import detect_known
    from sppnet.features.onnx_extractor import OnnxExtractor

    image = read_image(photo)
    detect_known(OnnxExtractor(trunk)(image), trunk, min_score).draw(image).save(out, "PNG")
    typer.echo(out)
