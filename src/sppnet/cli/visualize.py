"""sppnet visualize …"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sppnet.cli.destinations import check_folder, check_picture, write_picture
from sppnet.cli.images import tell_left_out
from sppnet.cli.options import Device, parse_integers, parse_numbers

if TYPE_CHECKING:
    from PIL import Image

    from sppnet.features.detector_extractor import AnyExtractor
    from sppnet.geometry.grid import BoxMapping, ScaleRule

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)

Model = Annotated[Path, typer.Option("--model", help="Model file of a classifier or a detector.")]
Scale = Annotated[
    int | None, typer.Option(min=32, help="Shorter side of images, pixels. Default: the model's.")
]


@app.command()
def filters(
    data: Annotated[list[str], typer.Argument(help="Folders, files, or patterns such as 'photos/*.jpg'.")],
    model: Model,
    numbers: Annotated[
        str | None,
        typer.Option("--filters", help="Such as 55,66,118, from 0. Default: four that stand out most."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for filter-55.png, ….")] = Path("filters"),
    scale: Scale = None,
    device: Device = "auto",
) -> None:
    """Draw what excites filters of the last convolution: the paper's Figure 2."""
    from sppnet.cli.output import Bars
    from sppnet.data.files import list_images
    from sppnet.report.filters import check_filters, choose_filters, draw_filter, find_peaks

    extractor, *_ = _open(model, scale, device)
    chosen = None
    if numbers:
        chosen = list(dict.fromkeys(parse_integers("--filters", numbers, "integers such as 55,66,118")))
    if chosen is not None:
        check_filters(chosen, extractor.trunk.taps[-1].channels)
    listed = list_images(data)
    paths = list(listed.paths)
    check_folder(out, "--out")  # before the work, not after it
    with Bars() as bars:
        peaks = find_peaks(paths, extractor, bars)
        chosen = chosen or choose_filters(peaks)
        bars.begin("drawing", len(chosen))
        for channel in chosen:
            draw_filter(channel, peaks, extractor).save(out / f"filter-{channel}.png")
            bars.advance()
    tell_left_out(len(paths) - len(peaks.skipped), peaks.skipped, listed.omitted)
    for channel in chosen:
        typer.echo(out / f"filter-{channel}.png")


@app.command()
def pyramid(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    model: Model,
    box: Annotated[
        str | None, typer.Option(help="A window, x0,y0,x1,y1 in pixels. Default: the whole image.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("pyramid.png"),
    scale: Scale = None,
    device: Device = "auto",
) -> None:
    """Draw the feature cells of a window, the bins of each level, and which cells won them."""
    from sppnet.data.image import read_image
    from sppnet.report.pyramid import draw_pyramid

    check_picture(out, "--out", [image, model])
    corners = None
    if box is not None:
        corners = parse_numbers("--box", box, "four numbers such as 100,50,300,200", 4)
    extractor, levels, rule, scale_rule = _open(model, scale, device)
    pixels = read_image(image)
    picture = draw_pyramid(pixels, extractor(pixels), corners, levels, rule, scale_rule)
    _save(picture, out)


@app.command()
def bins(
    size: Annotated[int, typer.Option(min=1, max=64, help="Cells of a side.")] = 10,
    level: Annotated[int, typer.Option(min=1, max=64, help="Bins of a side.")] = 4,
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("bins.png"),
) -> None:
    """Draw the bins of the paper's training rule beside the exact ones."""
    from sppnet.report.bins import draw_bins

    check_picture(out, "--out")
    _save(draw_bins(size, level), out)


def _open(
    path: Path, scale: int | None, device: str
) -> "tuple[AnyExtractor, tuple[int, ...], BoxMapping, ScaleRule]":
    """The trunk at the model's own scales or another one, its levels, and how it maps windows and scales."""
    from sppnet.cli.models import open_model
    from sppnet.detect.detector import Detector
    from sppnet.features.detector_extractor import make_extractor
    from sppnet.features.extractor import FeatureExtractor

    model = open_model(path, device)
    if isinstance(model, Detector):
        config = model.config
        scales = config.scales if scale is None else (scale,)
        extractor = make_extractor(model.parts.trunk, scales)
        return extractor, config.levels, config.box_mapping, config.scale_rule
    network = model.network
    return (
        FeatureExtractor(network.trunk, (scale or model.testing.whole_px,)),
        network.pyramid.levels,
        "paper",
        "paper",
    )


def _save(picture: "Image.Image", out: Path) -> None:
    write_picture(picture, out)
    typer.echo(out)
