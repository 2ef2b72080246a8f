"""sppnet proposals"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sppnet.cli.destinations import check_file, check_folder, drawing_files
from sppnet.cli.images import tell_skipped, work_on
from sppnet.cli.options import Json
from sppnet.errors import ConfigError, DataError, ModelError

if TYPE_CHECKING:
    from sppnet.data.detection_dataset import AnnotatedImages
    from sppnet.metrics.recall import RecallCurve

DRAWN = 20
"""Boxes on a drawing: of more, none can be told from another."""


Method = Literal["selective-search", "opencv", "learned"]
Mode = Literal["fast", "quality"]


def proposals(
    images: Annotated[list[str], typer.Argument(help="Images, folders of images, or patterns.")],
    out: Annotated[Path, typer.Option(help="File of boxes to write: .json or .csv.")],
    method: Annotated[Method, typer.Option(help="What proposes.")] = "selective-search",
    model: Annotated[
        Path | None, typer.Option(help="With --method learned: a detector, whose windows are taken.")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="8 or 80 ways of grouping.")] = "fast",
    max_proposals: Annotated[
        int | None,
        typer.Option(min=1, help="Boxes an image, the best. Default: all, or the detector's number."),
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(help=f"Folder for the images with the best {DRAWN} boxes drawn on them.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="Data set that marks objects in the images: print how many are found.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write boxes that may hold an object. Exits with 1 if an image cannot be read."""
    from sppnet.cli.output import print_json
    from sppnet.data.files import list_images, writable_name
    from sppnet.proposals.precomputed import check_format, write_boxes

    check_format(out)  # before the work, not after it
    listed = list_images(images)
    check_file(out, "--out", [*listed.paths, *([model] if model else [])])
    check_folder(draw, "--draw")
    propose = _proposer(method, model, mode, max_proposals)
    marked = _open_truth(annotations)
    found, reasons = _propose(listed.paths, propose, draw)
    write_boxes(out, {writable_name(path): boxes for path, boxes in found.items()})
    skipped = tell_skipped(listed, reasons.values())
    curve = None if marked is None else _measure(found, marked)
    if as_json:
        recall = None if curve is None else {**asdict(curve), "recall": curve.recall.tolist()}
        print_json({"file": str(out), "images": len(found), "skipped": skipped, "recall": recall})
    else:
        typer.echo(out)
        if curve is not None:
            _print_recall(curve)
    if skipped:
        raise typer.Exit(1)


def _proposer(
    method: Method, model: Path | None, mode: Mode, max_proposals: int | None
) -> Callable[[Any], Any]:
    """From an image (h, w, 3) to its boxes. Further kinds get a branch here, and their options above."""
    if (method == "learned") != (model is not None):
        raise ConfigError("--method learned and --model go together: learned windows are part of a detector")
    if model is not None:
        return _learned_windows(model, max_proposals)
    if method == "opencv":
        from sppnet.proposals.proposers import opencv_search

        return lambda image: opencv_search(image, mode, max_proposals=max_proposals)
    from sppnet.proposals.selective_search.search import selective_search

    return lambda image: selective_search(image, mode, max_proposals=max_proposals)


def _learned_windows(model: Path, max_proposals: int | None) -> Callable[[Any], Any]:
    from sppnet.detect.detector import Detector
    from sppnet.features.lazy_image import LazyImage

    detector = Detector.load(model)
    windows = detector.parts.windows
    if windows is None:
        raise ModelError(
            f"{model} has no learned windows: it was trained with --proposals {detector.config.proposals}"
        )
    count = max_proposals or detector.config.max_proposals
    return lambda image: windows.propose(LazyImage(image, detector.extractor).maps, count).boxes


def _propose(
    paths: Sequence[Path], propose: Callable[[Any], Any], draw: Path | None
) -> tuple[dict[Path, Any], dict[Path, str]]:
    """The boxes of each image, and why some have none."""
    from sppnet.data.image import read_image

    drawings = drawing_files(paths, draw) if draw else {}

    def work(path: Path) -> Any:
        image = read_image(path)
        boxes = propose(image)
        if draw:
            _draw(drawings[path], image, boxes)
        return boxes

    return work_on("proposing", paths, work)


def _draw(file: Path, image: Any, boxes: Any) -> None:
    from PIL import Image

    from sppnet.drawing import draw_boxes

    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_boxes(image, boxes[:DRAWN][::-1])).save(file)  # the best is on top


# --- recall --------------------------------------------------------------------------------------


def _open_truth(data: Path | None) -> "AnnotatedImages | None":
    if data is None:
        return None
    from sppnet.data.detection_dataset import open_annotated

    return open_annotated(data)


def _measure(found: dict[Path, Any], marked: "AnnotatedImages") -> "RecallCurve":
    """Recall on those of the images that the data set knows."""
    from sppnet.metrics.recall import recall_curve

    truths = {
        path.resolve(): annotations for path, annotations in zip(marked.paths, marked.truths, strict=True)
    }
    known = [(boxes, truths[path.resolve()]) for path, boxes in found.items() if path.resolve() in truths]
    if not known:
        raise DataError(f"{marked.root} marks none of these images; name images that lie in it")
    return recall_curve(*zip(*known, strict=True))


def _print_recall(curve: "RecallCurve") -> None:
    from sppnet.cli.output import print_table

    rows = [
        [str(count), *(f"{share:.1%}" for share in shares)]
        for count, shares in zip(curve.counts, curve.recall, strict=True)
    ]
    title = f"recall of {curve.objects} objects; {curve.boxes_per_image:.0f} boxes an image"
    print_table(title, ["first boxes", *(f"IoU {iou:g}" for iou in curve.ious)], rows)
