"""Work on a list of image files: under a bar, two at a time, none stopped by another's damage."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from sppnet.errors import ImageError
from sppnet.threads import in_order

Result = TypeVar("Result")


def each_image(
    stage: str, paths: Sequence[Path], work: Callable[[Path], Result]
) -> Iterator[tuple[Path, Result | ImageError]]:
    """work(path) of every file, in order; in its place the error of a file that cannot be read."""
    from sppnet.cli.output import Bars

    def attempt(path: Path) -> Result | ImageError:
        try:
            return work(path)
        except ImageError as error:
            return error

    with Bars() as bars:
        bars.begin(stage, len(paths))
        for path, result in zip(paths, in_order(attempt, paths), strict=True):
            bars.advance()
            yield path, result
