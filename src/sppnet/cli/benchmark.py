"""sppnet benchmark …"""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def benchmark() -> None:
    """Keeps `pool` a subcommand while it is the only one."""


@app.command()
def pool(
    windows: Annotated[int, typer.Option(help="How many proposals to pool.")] = 2000,
    channels: Annotated[int, typer.Option(help="Of the feature map.")] = 256,
    boxes: Annotated[
        Path | None,
        typer.Option(help="Boxes x0,y0,x1,y1 in a 500×375 image, a line each, instead of drawn ones."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Timed repetitions of each side.")] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Pool windows of a feature map: us against torchvision's roi_pool and against adaptive_max_pool2d."""
    from sppnet.benchmark import pool as bench
    from sppnet.benchmark.rows import to_json
    from sppnet.cli.output import Bars, print_json, print_table

    given = None if boxes is None else _read_boxes(boxes)
    with Bars() as bars:
        rows = bench.run(windows=windows, channels=channels, rounds=rounds, boxes=given, progress=bars)
    if as_json:
        print_json(to_json("pool", rows))
        return
    columns = ["case", "ours ms", "peer ms", "ratio", "floor ms", "peer"]
    cells = [
        [row.case, f"{row.ours_s * 1e3:.2f}", f"{row.peer_s * 1e3:.1f}", f"{row.ratio:.1f}×",
         f"{row.floor_s * 1e3:.2f}", row.peer]
        for row in rows
    ]  # fmt: skip
    print_table("pool: medians, both sides timed in turn in this run", columns, cells)


def _read_boxes(path: Path):  # type: ignore[no-untyped-def]
    import numpy as np

    from sppnet.errors import DataError

    try:
        boxes = np.loadtxt(path, delimiter=",", ndmin=2)
    except ValueError as error:
        raise DataError(f"{path} does not hold boxes, x0,y0,x1,y1 a line: {error}") from error
    if boxes.shape[1] != 4:
        raise DataError(f"{path} must have 4 numbers a line; got {boxes.shape[1]}")
    return boxes
