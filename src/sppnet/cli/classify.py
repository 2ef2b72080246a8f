"""sppnet classify …"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sppnet.cli.destinations import check_file, write_csv
from sppnet.cli.images import skipped_in_words, tell_left_out, tell_skipped, work_on
from sppnet.cli.options import Device, Json, NoReport, Report, options_of, parse_integers, read_fields
from sppnet.cli.reports import command, report_evaluation, tell_report
from sppnet.errors import ConfigError
from sppnet.nn.published_url import check_reachable
from sppnet.progress import Timed

if TYPE_CHECKING:
    from sppnet.classify.classifier import Prediction

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)

Model = Annotated[Path, typer.Option("--model", help="Model file made by training.")]
ViewsOption = Annotated[str | None, typer.Option(help="crop, full, warp, 10 or 96. Default: the model's.")]
Scale = Annotated[
    str | None,
    typer.Option(
        help="Shorter side of images, pixels, or for full several, 288,224, whose scores are averaged. "
        "Default: the model's."
    ),
]
Size = Annotated[int | None, typer.Option(help="Side of a view, pixels; not of full. Default: the model's.")]


@app.command()
@options_of(
    read_fields("sppnet.classify.config", "TrainingConfig"), {"view": "--views", "scale_px": "--scale"}
)
def train(
    data: Annotated[
        Path,
        typer.Argument(help="Folder of class folders, of train/ and val/ with those, or a CSV of labels."),
    ],
    out: Annotated[Path, typer.Option(help="Run folder: models, metrics, configuration.")],
    given: dict[str, Any],
    size: Annotated[int | None, typer.Option(help="Short for --sizes with one size.")] = None,
    size_range: Annotated[
        str | None, typer.Option(help="Short for --sizes with a range: a size drawn for each epoch.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    no_report: NoReport = False,
) -> None:
    """Train a classifier on a folder of class folders."""
    check_reachable(given.get("trunk", "zf5"), given.get("weights"))
    from sppnet.classify.config import TrainingConfig
    from sppnet.cli.output import Bars, notes
    from sppnet.training import train as train_classifier

    config = TrainingConfig(**_with_one_size(given, size, size_range))
    with Bars() as bars:
        result = train_classifier(
            data, out, config, resume=resume, progress=bars, report=not no_report, command=command()
        )
    if result is None:  # another process of torchrun reports
        return
    validation = result.validation
    damaged = (*result.skipped, *validation.skipped) if result.held_out else result.skipped
    held_out = validation.images if result.held_out else 0
    tell_left_out(result.images + held_out, damaged, result.omitted)
    notes.print(f"trained on {result.images} images", markup=False)
    shown = "" if result.held_out else "on the images that were trained on, "
    notes.print(
        f"validation: {shown}top-1 {validation.top1:.1%}, top-5 {validation.top5:.1%} "
        f"of {validation.images} images; {skipped_in_words(damaged, result.omitted)}",
        soft_wrap=True,
    )
    tell_report(result.report)
    typer.echo(result.model)


@app.command()
def evaluate(
    data: Annotated[
        Path, typer.Argument(help="Folder of class folders, its val/ if it has one, or a CSV of labels.")
    ],
    model: Model,
    split: Annotated[
        str | None, typer.Option(help="train, val or test. Default: val or test, if there.")
    ] = None,
    views: ViewsOption = None,
    scale: Scale = None,
    size: Size = None,
    device: Device = "auto",
    as_json: Json = False,
    report: Report = None,
    no_report: NoReport = False,
) -> None:
    """Measure a classifier on a folder of class folders."""
    from sppnet.classify.classifier import Classifier
    from sppnet.classify.evaluate import evaluate as evaluate_classifier
    from sppnet.cli.output import Bars, percent, print_json, print_table
    from sppnet.data.folder import find_splits, open_folder
    from sppnet.nn.device import find_device
    from sppnet.report.classification import evaluation_page

    check_file(report, "--report", [model, data])
    classifier = Classifier.load(model, find_device(device))
    split = split or next((name for name in ("val", "test") if name in find_splits(data)), None)
    with Bars() as bars:
        watch = Timed(bars)
        result = evaluate_classifier(
            classifier, open_folder(data, split), watch, **_testing(views, scale, size)
        )
        seconds = watch.seconds
    tell_left_out(result.images, result.skipped, result.omitted)
    if as_json:
        print_json(result.to_json())
    else:
        rows = [[name, percent(accuracy)] for name, accuracy in result.per_class.items()]
        print_table(
            f"top-1 {result.top1:.1%}, top-5 {result.top5:.1%} "
            f"of {result.images} images; {skipped_in_words(result.skipped, result.omitted)}",
            ["class", "top-1"],
            rows,
        )
    if not no_report:
        tested = classifier.testing.asked(**_testing(views, scale, size)).in_words()
        settings = {"data": data, "split": split or "all", **tested}
        if result.found > result.images:
            settings["images used"] = f"{result.images:,} of {result.found:,}"
        report_evaluation(
            report, [model],
            lambda name, said, shown: evaluation_page(name, said, shown, result, seconds), settings,
        )  # fmt: skip


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(help="Files, folders, or patterns such as 'photos/*.jpg'.")],
    model: Model,
    top: Annotated[int, typer.Option(min=1, help="How many classes to name for an image.")] = 1,
    views: ViewsOption = None,
    scale: Scale = None,
    size: Size = None,
    device: Device = "auto",
    as_json: Json = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write CSV to this file.")] = None,
) -> None:
    """Name what images show. Exits with 1 if an image could not be read, after all others."""
    from sppnet.classify.classifier import Classifier
    from sppnet.cli.output import print_json
    from sppnet.data.files import list_images, writable_name
    from sppnet.nn.device import find_device

    listed = list_images(images)
    check_file(csv_file, "--csv", [*listed.paths, model])
    classifier = Classifier.load(model, find_device(device))
    overrides = _testing(views, scale, size)
    read, reasons = work_on("predicting", listed.paths, lambda path: classifier(path, top, **overrides))
    found = [(writable_name(path), prediction) for path, prediction in read.items()]
    skipped = tell_skipped(listed, reasons.values())
    if csv_file:
        _write_csv(csv_file, found)
    if as_json:
        results = [{"image": name, **prediction.to_json()} for name, prediction in found]
        print_json({"predictions": results, "skipped": skipped})
    elif not csv_file:
        for name, prediction in found:
            named = zip(prediction.classes, prediction.scores, strict=True)
            typer.echo(f"{name}  {', '.join(f'{label} {score:.3f}' for label, score in named)}")
    if skipped:
        raise typer.Exit(1)


def _write_csv(path: Path, found: "list[tuple[str, Prediction]]") -> None:
    rows = (
        [image, rank, label, f"{score:.6f}"]
        for image, prediction in found
        for rank, (label, score) in enumerate(zip(prediction.classes, prediction.scores, strict=True), 1)
    )
    write_csv(path, ["image", "rank", "label", "score"], rows)


def _with_one_size(given: dict[str, Any], size: int | None, size_range: str | None) -> dict[str, Any]:
    sizes = [str(each) for each in (size, given.pop("sizes", None), size_range) if each is not None]
    if len(sizes) > 1:
        raise ConfigError("give one of --size, --sizes and --size-range")
    return {**given, "sizes": sizes[0]} if sizes else given


def _testing(views: str | None, scale: str | None, size: int | None) -> dict[str, Any]:
    scales = () if scale is None else parse_integers("--scale", scale, "a whole number, or several: 288,224")
    shown: dict[str, Any] = {"scale_px": scales[0]} if len(scales) == 1 else {"scales": scales or None}
    given = {"views": views, **shown, "size_px": size}
    return {name: value for name, value in given.items() if value is not None}
