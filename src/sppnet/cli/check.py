"""sppnet check"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sppnet.cli.options import Json

if TYPE_CHECKING:
    from sppnet.data.check import FolderReport
    from sppnet.data.check_detection import AnnotatedReport

SHOWN_PROBLEMS = 20


def check(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder of class folders, CSV of labels, or annotated images: VOC, COCO or YOLO."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Report sizes, classes, boxes, damaged and duplicate files. Exits with 1 if a file is damaged."""
    from sppnet.cli.output import Bars, print_json
    from sppnet.data.check import check_folder
    from sppnet.data.check_detection import check_annotated
    from sppnet.data.detection_dataset import is_annotated

    with Bars() as bars:
        report = (check_annotated if is_annotated(data) else check_folder)(data, progress=bars)
    if as_json:
        print_json(report.to_json())
    else:
        if (inner := Path(report.root)) != data and data in inner.parents:
            typer.echo(f"data set: {inner.relative_to(data)}")
        for line in _describe(report):
            typer.echo(line)
    if report.damaged:
        raise typer.Exit(1)


def _describe(report: "FolderReport | AnnotatedReport") -> Iterator[str]:
    """The report in lines of text."""
    from sppnet.data.check import FolderReport

    yield from _describe_classes(report) if isinstance(report, FolderReport) else _describe_objects(report)
    if report.width and report.height:
        for name, side in (("width", report.width), ("height", report.height)):
            yield f"{name}: {side.min} to {side.max} pixels, median {side.median:g}"
    if report.most_extreme:
        yield "most extreme shape: {} ({}×{})".format(*report.most_extreme)
    yield f"modes: {_count(report.modes.items())}"
    for damaged in report.damaged:
        yield f"damaged: {damaged.path}: {damaged.reason}"
    differing = " across classes" if isinstance(report, FolderReport) else " marked differently"
    for same in report.duplicates:
        across = " across splits" * same.across_splits + differing * same.across_classes
        yield f"duplicates{across}: {', '.join(same.paths)}"
    yield from _describe_oddities(report) if isinstance(report, FolderReport) else _describe_problems(report)
    yield f"{len(report.damaged)} damaged, {len(report.duplicates)} duplicated"


def _describe_classes(report: "FolderReport") -> Iterator[str]:
    for split, classes in report.splits.items():
        number = f"{len(classes)} class{'es' * (len(classes) != 1)}"
        yield f"{split or 'images'}: {sum(classes.values())} in {number}"
        if told := report.classes_from[split]:
            yield f"  classes by {told}"
        counts = sorted(classes.items(), key=lambda item: item[1])
        yield f"  fewest: {_count(counts[:3])}; most: {_count(counts[:-4:-1])}"


def _describe_oddities(report: "FolderReport") -> Iterator[str]:
    if max(map(len, report.splits.values())) < 2:
        yield "one class alone: a classifier needs two or more"
    if report.unread_boxes:
        yield report.unread_boxes
    learnt = report.splits.get("train", {})
    for split, classes in report.splits.items():
        if learnt and (unknown := classes.keys() - learnt):
            yield f"classes of {split} that train has not, so training refuses them: {_names(unknown)}"
        if lacking := learnt.keys() - classes:
            yield f"classes of train that {split} has not: {_names(lacking)}"
    for name in report.empty_classes:
        yield f"empty class: {name}"
    for reason in report.omitted:
        yield f"left out: {reason}"
    yield from report.unread_tables
    if report.ignored:
        yield f"folders of the system or hidden, not read: {_count(report.ignored.items())} images"
    if report.not_images:
        yield f"not images: {len(report.not_images)}, such as {', '.join(report.not_images[:3])}"


def _describe_objects(report: "AnnotatedReport") -> Iterator[str]:
    yield f"layout: {report.layout}"
    others = "images" if len(report.splits) == 1 else "in no split"
    for split, counts in report.splits.items():
        total, bare = sum(counts.objects.values()), counts.without_objects
        special = [f"{counts.difficult} difficult"] * bool(counts.difficult)
        special += [f"{counts.crowds} crowds"] * bool(counts.crowds)
        more = f" ({', '.join(special)})" if special else ""
        yield f"{split or others}: {counts.images} images, {total} objects{more}"
        yield f"  {_count(counts.objects.items())}"
        if bare:
            yield f"  without objects: {len(bare)}, such as {', '.join(bare[:3])}"
    names = next(iter(report.splits.values())).objects
    if bare_classes := [name for name in names if name not in report.boxes]:
        yield f"classes without objects: {', '.join(bare_classes)}; training leaves them out"
    for name, box in report.boxes.items():
        yield f"boxes of {name}: √area {box.min:g} to {box.max:g} pixels, median {box.median:g}"


def _describe_problems(report: "AnnotatedReport") -> Iterator[str]:
    problems = [
        f"problem{f' ({split})' if split else ''}: {problem}"
        for split, sentences in report.problems.items()
        for problem in sentences
    ]
    yield from problems[:SHOWN_PROBLEMS]
    if len(problems) > SHOWN_PROBLEMS:
        yield f"… and {len(problems) - SHOWN_PROBLEMS} problems more; --json lists all"


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _count(counts: Iterable[tuple[str, int]]) -> str:
    from sppnet.errors import printable

    return ", ".join(f"{printable(name)} {count}" for name, count in counts)
