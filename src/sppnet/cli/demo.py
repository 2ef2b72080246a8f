"""sppnet demo"""

from pathlib import Path
from typing import Annotated

import typer

from sppnet.cli.reports import tell_report


def demo(
    out: Annotated[Path, typer.Option(help="Where images, the run and the pictures go.")] = Path("demo"),
    epochs: Annotated[int, typer.Option(help="Passes over the images.")] = 14,
    images: Annotated[int, typer.Option(help="Images of each class to train on.")] = 60,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
) -> None:
    """Draw images of many sizes, train on two, test at sizes never trained on, and find objects."""
    from sppnet.cli.output import Bars, print_table
    from sppnet.demo import run

    with Bars() as bars:
        result = run(out, epochs=epochs, images_per_class=images, seed=seed, progress=bars)
    rows = [[name, "yes" if trained else "no", f"{accuracy:.1%}"] for name, trained, accuracy in result.rows]
    print_table(
        f"one model, {result.test_images} images it never saw, in {result.seconds:.0f} s",
        ["tested at", "trained at", "top-1"],
        rows,
    )
    found = result.objects
    precision = [[name, "–" if value is None else f"{value:.1%}"] for name, value in found.per_class.items()]
    print_table(
        f"a detector on {result.trunk}, {found.images} images it never saw: mAP {found.map:.1%}",
        ["object", "average precision"],
        precision,
    )
    for page in result.reports:
        tell_report(page)
    for picture in [*result.pictures, *result.scenes]:
        typer.echo(picture)
