"""sppnet check"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sppnet.data.check import FolderReport


def check(
    data: Annotated[Path, typer.Argument(help="Folder of class folders.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Report sizes, classes, damaged and duplicate files. Exits with 1 if a file is damaged."""
    from sppnet.cli.output import Bars, print_json
    from sppnet.data.check import check_folder

    with Bars() as bars:
        bars.begin("reading", 0)

        def follow(done: int, total: int) -> None:
            bars.total = total
            bars.drawn.update(bars.task, total=total)
            bars.advance()

        report = check_folder(data, progress=follow)
    if as_json:
        print_json(report.to_json())
    else:
        for line in _describe(report):
            typer.echo(line)
    if report.damaged:
        raise typer.Exit(1)


def _describe(report: "FolderReport") -> Iterator[str]:
    """The report in lines of text."""
    for split, classes in report.splits.items():
        yield f"{split or 'images'}: {sum(classes.values())} in {len(classes)} classes"
        counts = sorted(classes.items(), key=lambda item: item[1])
        yield f"  fewest: {_count(counts[:3])}; most: {_count(counts[:-4:-1])}"
    if report.width and report.height:
        for name, side in (("width", report.width), ("height", report.height)):
            yield f"{name}: {side.min} to {side.max} pixels, median {side.median:g}"
    if report.most_extreme:
        yield "most extreme shape: {} ({}×{})".format(*report.most_extreme)
    yield f"modes: {_count(report.modes.items())}"
    for damaged in report.damaged:
        yield f"damaged: {damaged.path}: {damaged.reason}"
    for same in report.duplicates:
        across = " across splits" * same.across_splits + " across classes" * same.across_classes
        yield f"duplicates{across}: {', '.join(same.paths)}"
    for name in report.empty_classes:
        yield f"empty class: {name}"
    if report.not_images:
        yield f"not images: {len(report.not_images)}, such as {', '.join(report.not_images[:3])}"
    yield f"{len(report.damaged)} damaged, {len(report.duplicates)} duplicated"


def _count(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts)
