"""Work on a list of image files: under a bar, two at a time, none stopped by another's damage.

And what commands say of the images that they left out: the same lines, whatever the command.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sppnet.errors import ImageError, printable
from sppnet.threads import ordered_attempts

if TYPE_CHECKING:
    from sppnet.data.files import ImageList, Omission

Result = TypeVar("Result")


def work_on(
    stage: str, paths: Sequence[Path], work: Callable[[Path], Result]
) -> tuple[dict[Path, Result], dict[Path, str]]:
    """work(path) of every file, in order, and why some files cannot be read."""
    from sppnet.cli.output import Bars

    found: dict[Path, Result] = {}
    reasons: dict[Path, str] = {}
    with Bars() as bars:
        bars.begin(stage, len(paths))
        for path, result in zip(paths, ordered_attempts(work, paths), strict=True):
            bars.advance()
            if isinstance(result, ImageError):
                reasons[path] = str(result)
            else:
                found[path] = result
    return found, reasons


def tell_skipped(listed: "ImageList", reasons: Iterable[str]) -> list[str]:
    """Which of the listed images were left out; returns why, one reason each."""
    reasons = list(reasons)
    tell_left_out(len(listed.paths) - len(reasons), reasons, listed.omitted)
    return [*(omission.reason for omission in listed.omitted), *reasons]


def tell_left_out(used: int, reasons: Sequence[str], omitted: "Sequence[Omission]" = ()) -> None:
    """Which images were left out and why, and how many of how many were used; nothing where all were.

    reasons: of the files that could not be read, one each. omitted: what the listing left out before.
    """
    from sppnet.cli.output import notes

    said = [*dict.fromkeys(omission.reason for omission in omitted), *reasons]
    for reason in said:
        notes.print(f"left out: {printable(reason)}", soft_wrap=True, markup=False)
    if said:
        known = " that could be listed" if any(not omission.count for omission in omitted) else ""
        total = used + count_left_out(reasons, omitted)
        notes.print(f"used {used} of {total} images{known}", markup=False)


def count_left_out(reasons: Sequence[str], omitted: "Sequence[Omission]") -> int:
    """How many images were left out."""
    return len(reasons) + sum(omission.count for omission in omitted)


def skipped_in_words(reasons: Sequence[str], omitted: "Sequence[Omission]" = ()) -> str:
    """The end of a line of figures: what they do not count."""
    words = [f"{len(reasons)} could not be read"] if reasons else []
    if omitted:
        words.append(f"{count_left_out((), omitted) or 'some'} left out before")
    return "; ".join(words) or "none skipped"


def tell_problems(problems: Sequence[str]) -> None:
    """One line on what was odd in the annotations; `sppnet check` lists all of it."""
    from sppnet.cli.output import notes

    if problems:
        what = "1 problem" if len(problems) == 1 else f"{len(problems)} problems, the first"
        notes.print(
            f"annotations: {what}: {problems[0]} (sppnet check lists all)", soft_wrap=True, markup=False
        )
