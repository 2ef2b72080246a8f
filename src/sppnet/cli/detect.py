"""sppnet detect …"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sppnet.cli.destinations import check_file
from sppnet.cli.images import skipped_in_words, tell_left_out, tell_problems, tell_skipped
from sppnet.cli.models import check_detector_downloads
from sppnet.cli.options import (
    ExecutorOption,
    FormerEngine,
    Json,
    NoReport,
    Report,
    options_of,
    parse_integers,
    read_fields,
)
from sppnet.cli.reports import command, report_evaluation, tell_report
from sppnet.cli.training_notes import tell_joint, tell_times, tell_trials, tell_vectors
from sppnet.progress import Timed

if TYPE_CHECKING:
    from sppnet.detect.detector import Detector
    from sppnet.detect.ensemble import Ensemble
    from sppnet.detect.train import DetectorTraining
    from sppnet.metrics.coco import CocoResult
    from sppnet.metrics.detection import DetectionResult
    from sppnet.structures import Detections

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)

NAMED_IN_LINES = 5
"""Detections that a line of text names before it counts the rest."""


Metric = Literal["voc07", "voc", "coco"]

Data = Annotated[Path, typer.Argument(help="Annotated images: a VOC, COCO or YOLO folder or file.")]
Models = Annotated[
    list[Path], typer.Option("--model", help="Model file made by training; twice: two detectors as one.")
]
Proposals = Annotated[
    str | None,
    typer.Option(
        help="selective-search, opencv or a file of boxes, in place of the detector's own proposals."
    ),
]
Mirror = Annotated[
    bool,
    typer.Option("--mirror", help="Look at the mirror image too: slightly more is found, in twice the time."),
]
TrainingSplit = Annotated[str | None, typer.Option(help="Default: trainval or train, if there.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, at its stage.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, … Default: auto.")]


@app.command()
@options_of(read_fields("sppnet.detect.config", "DetectorConfig"))
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Run folder: model, configuration, times, stages.")],
    given: dict[str, Any],
    split: TrainingSplit = None,
    resume: Resume = False,
    no_report: NoReport = False,
) -> None:
    """Train a detector on annotated images."""
    check_detector_downloads(given.get("trunk", "auto"), given.get("weights"))
    from sppnet.cli.output import Bars
    from sppnet.detect.config import DetectorConfig
    from sppnet.training import train_detector

    with Bars() as bars:
        result = train_detector(
            data, out, DetectorConfig(**given), split=split, resume=resume, progress=bars,
            report=not no_report, command=command(),
        )  # fmt: skip
    _tell_training(result)


@app.command()
def add(
    model: Annotated[Path, typer.Argument(help="Detector made by training; its file is not changed.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Run folder: the new model, configuration, times, stages.")],
    classes: Annotated[
        str | None,
        typer.Option(help="Classes to add: a,b. Default: all of the data set that the model does not know."),
    ] = None,
    split: TrainingSplit = None,
    resume: Resume = False,
    no_report: NoReport = False,
) -> None:
    """Add classes to a detector, in seconds; those that it knows stay as they are, bit for bit."""
    from sppnet.cli.output import Bars
    from sppnet.training import add_classes

    chosen = classes.split(",") if classes else None
    with Bars() as bars:
        result = add_classes(
            model, data, out, chosen, split=split, resume=resume, progress=bars,
            report=not no_report, command=command(),
        )  # fmt: skip
    _tell_training(result)


@app.command()
def evaluate(
    data: Data,
    model: Models,
    split: Annotated[str | None, typer.Option(help="Default: test or val, if there.")] = None,
    metric: Annotated[
        Metric, typer.Option(help="voc07: 11 points. voc: area, 2010 on. coco: ten overlaps.")
    ] = "voc07",
    proposals: Proposals = None,
    mirror: Mirror = False,
    device: Device = None,
    as_json: Json = False,
    report: Report = None,
    no_report: NoReport = False,
) -> None:
    """Measure a detector, or two as one, on annotated images."""
    from sppnet.cli.output import Bars, print_json
    from sppnet.data.detection_dataset import default_split, open_annotated
    from sppnet.detect.evaluate import evaluate_detector, match_classes
    from sppnet.report.detection import evaluation_page

    check_file(report, "--report", [*model, data])
    detector = _open(model, device, proposals, mirror)
    split = split or default_split(data, ("test", "val"))
    opened = open_annotated(data, split)
    images = match_classes(opened, detector.classes)
    with Bars() as bars:
        watch = Timed(bars)
        result = evaluate_detector(detector, images, metric, watch)
        seconds = watch.seconds
    tell_problems(opened.problems)  # what the classes leave out is logged
    tell_left_out(result.images, result.skipped)
    if as_json:
        print_json(result.to_json())
    else:
        _print_result(result, metric)
    if not no_report:
        report_evaluation(
            report, model,
            lambda name, said, shown: evaluation_page(name, said, shown, result, seconds, images.problems),
            {"data": data, "split": split or "all", "metric": metric} | ({"mirror": True} if mirror else {}),
        )  # fmt: skip


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(help="Files, folders, or patterns such as 'photos/*.jpg'.")],
    model: Models,
    out: Annotated[Path | None, typer.Option(help="Folder for drawings: name.png of each image.")] = None,
    min_score: Annotated[
        float, typer.Option(help="Minimum score; training sets 0 at each class's max-F1 threshold.")
    ] = 0.0,
    proposals: Proposals = None,
    mirror: Mirror = False,
    device: Device = None,
    as_json: Json = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write CSV to this file.")] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="Write Parquet to this file; with --executor ray, to this folder.")
    ] = None,
    executor: ExecutorOption = "local",
    engine: FormerEngine = None,
) -> None:
    """Find objects in images. Exits with 1 if an image could not be read, after all others."""
    from sppnet.cli import predictions
    from sppnet.data.files import list_images

    predictions.check_executor(executor, parquet, out, proposals, mirror)
    listed = list_images(images)
    predictions.check_places(csv_file, out, parquet if executor == "local" else None, [*listed.paths, *model])
    if parquet and executor == "ray":
        read_back = bool(csv_file or as_json)
        found, reasons = predictions.find_on_ray(model, device, listed.paths, min_score, parquet, read_back)
    else:
        detector = _open(model, device, proposals, mirror)
        found, reasons = predictions.find_here(detector, listed.paths, min_score, out, parquet)
    skipped = tell_skipped(listed, reasons)
    if csv_file:
        predictions.write_found(csv_file, found)
    if as_json:
        predictions.print_found(found, skipped)
    elif parquet:
        typer.echo(parquet)
    elif not csv_file:
        for image, each in found.items():
            typer.echo(f"{image}  {_in_words(each)}")
    if skipped:
        raise typer.Exit(1)


@app.command()
def compress(
    model: Annotated[Path, typer.Option("--model", help="Detector made by training.")],
    out: Annotated[Path, typer.Option(help="The smaller detector file to write.")],
    ranks: Annotated[
        str, typer.Option(help="What truncated SVD leaves of fc6 and fc7; 0 leaves a layer whole.")
    ] = "128,0",
) -> None:
    """Make a detector faster: fc layers of low rank. Evaluate it again; --ranks trades precision for time."""
    from sppnet.cli.output import notes
    from sppnet.detect.detector import Detector

    check_file(out, "--out", [model])
    whole = Detector.load(model)
    small = whole.compress(parse_integers("--ranks", ranks))
    small.save(out, {"compressed": str(model)})
    before, after = (
        sum(weight.numel() for weight in each.parts.head.parameters()) if each.parts.head else 0
        for each in (whole, small)
    )
    notes.print(f"fc layers: {before:,} weights before, {after:,} now", markup=False)
    typer.echo(out)


# --- telling -------------------------------------------------------------------------------------


def _open(
    models: list[Path], device: str | None, proposals: str | None, mirror: bool
) -> "Detector | Ensemble":
    from sppnet.engine.work import load_detector

    return load_detector(tuple(map(str, models)), device or "auto", proposals, mirror)


def _in_words(found: "Detections") -> str:
    named = found.in_words()
    more = len(named) - NAMED_IN_LINES
    return ", ".join(named[:NAMED_IN_LINES]) + (f" and {more} more" if more > 0 else "") or "nothing"


def _tell_training(result: "DetectorTraining") -> None:
    tell_problems(result.problems)
    tell_left_out(result.images, result.skipped)
    tell_trials(result)
    tell_vectors(result)
    tell_joint(result)
    tell_times(result.seconds, result.images)
    tell_report(result.report)
    typer.echo(result.model)


def _print_result(result: "DetectionResult | CocoResult", metric: Metric) -> None:
    from sppnet.cli.output import percent, print_table
    from sppnet.metrics.coco import CocoResult

    columns: dict[str, Any] = {"AP": result.per_class}
    if isinstance(result, CocoResult):
        columns["AP50"] = result.per_class50
    else:
        columns["F1"] = result.f1()
        if any(value is not None for value in result.f1_at_half().values()):
            columns["F1 at 50%"] = result.f1_at_half()
        columns["best F1"] = result.best_f1()
    skipped = skipped_in_words(result.skipped)
    print_table(
        f"mAP {result.map:.1%} ({metric}) of {result.images} images; {skipped}",
        ["class", *columns],
        [[name, *(percent(values[name]) for values in columns.values())] for name in result.per_class],
    )
