"""sppnet benchmark …"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sppnet.cli.options import Json, parse_integers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sppnet.benchmark.results import Row

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)


Rounds = Annotated[int, typer.Option(help="Timed repetitions of each side.")]
Images = Annotated[
    Path | None, typer.Option(help="A folder of photographs, with objects marked or not; drawn by default.")
]
Model = Annotated[Path | None, typer.Option(help="A detector; by default one with random weights.")]

EVERY = ("pool", "map", "svm", "rcnn", "proposals", "detect", "train", "gpu")
"""Modules of sppnet.benchmark, in the order of `all`."""


@app.command()
def pool(
    windows: Annotated[int, typer.Option(help="How many proposals to pool.")] = 2000,
    channels: Annotated[int, typer.Option(help="Of the feature map.")] = 256,
    boxes: Annotated[
        Path | None,
        typer.Option(help="Boxes x0,y0,x1,y1 in a 500×375 image, a line each, instead of drawn ones."),
    ] = None,
    rounds: Rounds = 15,
    as_json: Json = False,
) -> None:
    """Pool windows of a feature map: us against torchvision's roi_pool and against adaptive_max_pool2d."""
    from sppnet.benchmark import pool as bench
    from sppnet.cli.output import Bars

    given = None if boxes is None else _read_boxes(boxes)
    with Bars() as bars:
        rows = bench.run(windows=windows, channels=channels, rounds=rounds, boxes=given, progress=bars)
    _print("pool", rows, as_json)


@app.command()
def svm(
    vectors: Annotated[int, typer.Option(help="How many to learn from.")] = 20_000,
    length: Annotated[int, typer.Option(help="Of each vector.")] = 12_800,
    classes: Annotated[int, typer.Option(help="Each against the rest.")] = 20,
    rounds: Rounds = 1,
    as_json: Json = False,
) -> None:
    """Fit linear SVMs: us against scikit-learn's LinearSVC. By default it needs 8 GB, and minutes."""
    from sppnet.benchmark import svm as bench
    from sppnet.cli.output import Bars

    with Bars() as bars:
        rows = bench.run(vectors=vectors, length=length, classes=classes, rounds=rounds, progress=bars)
    _print("svm", rows, as_json)


@app.command("map")
def whole_map(
    batch: Annotated[int, typer.Option(help="Maps in a batch.")] = 32,
    channels: Annotated[int, typer.Option(help="Of each map.")] = 256,
    rounds: Rounds = 15,
    compiled: Annotated[bool, typer.Option(help="Also both sides under torch.compile.")] = True,
    as_json: Json = False,
) -> None:
    """Pool whole maps: our layer against adaptive_max_pool2d of every level, eager and compiled."""
    from sppnet.benchmark import map as bench
    from sppnet.cli.output import Bars

    with Bars() as bars:
        rows = bench.run(batch=batch, channels=channels, rounds=rounds, compiled=compiled, progress=bars)
    _print("map", rows, as_json)


@app.command()
def rcnn(
    trunk: Annotated[str, typer.Option(help="The network of both sides.")] = "zf5",
    stride: Annotated[int | None, typer.Option(help="Image pixels a cell of its map.")] = None,
    image: Annotated[
        Path | None, typer.Option(help="With selective search's boxes, instead of noise and drawn ones.")
    ] = None,
    windows: Annotated[int, typer.Option(help="How many boxes, at most.")] = 2000,
    crops: Annotated[int, typer.Option(help="R-CNN crops to time; the rest is extrapolated.")] = 64,
    ranks: Annotated[str, typer.Option(help="What truncated SVD leaves of fc6 and fc7.")] = "1024,256",
    rounds: Rounds = 3,
    as_json: Json = False,
) -> None:
    """Boxes to vectors and to class scores: SPP-net against R-CNN, on the same trunk."""
    from sppnet.benchmark import rcnn as bench
    from sppnet.cli.output import Bars

    first, second = parse_integers("--ranks", ranks, "two whole numbers, as 1024,256", 2)
    with Bars() as bars:
        rows = bench.run(
            trunk, stride=stride, image=image, windows=windows, crops=crops, ranks=(first, second),
            rounds=rounds, progress=bars,
        )  # fmt: skip
    _print("rcnn", rows, as_json)


@app.command()
def proposals(
    images: Images = None,
    model: Model = None,
    photographs: Annotated[int, typer.Option(help="How many of them.")] = 5,
    rounds: Rounds = 3,
    as_json: Json = False,
) -> None:
    """Propose boxes: our selective search and learned windows against OpenCV's selective search."""
    from sppnet.benchmark import proposals as bench
    from sppnet.cli.output import Bars

    with Bars() as bars:
        rows = bench.run(images, model, photographs, rounds, progress=bars)
    _print("proposals", rows, as_json)


@app.command()
def detect(
    model: Model = None,
    images: Images = None,
    photographs: Annotated[int, typer.Option(help="How many in the folder.")] = 8,
    peers: Annotated[str | None, typer.Option(help="Of torchvision, with commas. Default: four.")] = None,
    rounds: Rounds = 3,
    as_json: Json = False,
) -> None:
    """Find objects, from file to boxes: our detector against four of torchvision's."""
    from sppnet.benchmark import detect as bench
    from sppnet.cli.output import Bars

    against = bench.PEERS if peers is None else tuple(peers.split(","))
    with Bars() as bars:
        rows = bench.run(model, images, photographs, against, rounds, progress=bars)
    _print("detect", rows, as_json)


@app.command()
def train(
    data: Annotated[Path | None, typer.Argument(help="A folder for each class; drawn by default.")] = None,
    trunk: Annotated[str, typer.Option(help="The network of both sides.")] = "zf5",
    width: Annotated[float, typer.Option(help="Times its channels.")] = 0.25,
    sizes: Annotated[str, typer.Option(help="Pixels, one or several in turn.")] = "224,180",
    batch_size: Annotated[int, typer.Option(help="Images of a step.")] = 32,
    workers: Annotated[int, typer.Option(help="Our threads, and the peer's processes.")] = 2,
    rounds: Rounds = 3,
    as_json: Json = False,
) -> None:
    """Train a classifier on several sizes: our loop against torchvision's reference one."""
    from sppnet.benchmark import train as bench
    from sppnet.cli.output import Bars

    with Bars() as bars:
        rows = bench.run(
            data, trunk, width, sizes, batch_size=batch_size, workers=workers, rounds=rounds, progress=bars
        )
    _print("train", rows, as_json)


@app.command()
def gpu(rounds: Rounds = 15, as_json: Json = False) -> None:
    """Pool windows on a CUDA device, and image to vectors; says "no GPU" where there is none."""
    from sppnet.benchmark import gpu as bench
    from sppnet.cli.output import Bars

    with Bars() as bars:
        rows = bench.run(rounds=rounds, progress=bars)
    _print("gpu", rows, as_json)


@app.command("all")
def everything(as_json: Json = False) -> None:
    """Every benchmark with its defaults, a table each: a quarter of an hour, and 8 GB."""
    from importlib import import_module

    from sppnet.benchmark.results import to_json
    from sppnet.cli.output import Bars, notes, print_json
    from sppnet.errors import MissingExtraError, SppnetError

    results, failed = [], False
    for name in EVERY:
        try:
            with Bars() as bars:
                rows = import_module(f"sppnet.benchmark.{name}").run(progress=bars)
        except SppnetError as error:  # the others are worth their minutes all the same
            missing = isinstance(error, MissingExtraError)
            notes.print(f"{name} {'is left out' if missing else 'failed'}: {error}")
            failed |= not missing
            continue
        if as_json:
            results.append(to_json(name, rows))
        else:
            _print(name, rows, as_json=False)
    if as_json:
        print_json(results)
    if failed:
        raise typer.Exit(1)


def _print(name: str, rows: "Sequence[Row]", as_json: bool) -> None:
    from sppnet.benchmark.results import to_json
    from sppnet.cli.output import notes, print_json, print_table

    if as_json:
        print_json(to_json(name, rows))
        return
    if not rows:  # of gpu alone
        notes.print("no GPU")
        return
    columns = ["case", "ours ms", "peer ms", "ratio", "quartiles", "floor ms"]
    table = [
        [row.case, f"{row.ours_s * 1e3:,.2f}", f"{row.peer_s * 1e3:,.1f}", f"{row.ratio:.1f}×",
         "–".join(f"{end:.1f}" for end in row.ratio_spread), f"{row.floor_s * 1e3:,.2f}"]
        for row in rows
    ]  # fmt: skip
    if any(row.ours_bytes is not None for row in rows):
        columns += ["ours GB", "peer GB"]
        for cells, row in zip(table, rows, strict=True):
            cells += [_gigabytes(row.ours_bytes), _gigabytes(row.peer_bytes)]
    for cells, row in zip(table, rows, strict=True):
        cells.append(row.peer)
    title = f"{name}: medians, both sides timed in turn in this run"
    print_table(title, [*columns, "peer"], table, words=("peer",))
    for note in dict.fromkeys(row.note for row in rows if row.note):
        typer.echo(note)


def _gigabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e9:.2f}"


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
