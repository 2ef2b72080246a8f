"""Where reports go, and what they are told of the command."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

EVALUATION = "evaluation.html"


def tell_report(page: Path | None) -> None:
    """Where a training's page lies; of a page that could not be written a warning has told."""
    from sppnet.cli.output import notes

    if page is not None:
        notes.print(f"report: {page}", soft_wrap=True, markup=False)


def report_evaluation(
    file: Path | None,
    models: Sequence[Path],
    page: Callable[[str, str, dict[str, Any]], str],
    settings: Mapping[str, Any],
) -> None:
    """Beside the first of the models, unless a file is named. page: of a name, a command and settings."""
    from sppnet.cli.output import notes
    from sppnet.nn.model_file import write_file
    from sppnet.report.page import name_of

    place = file or models[0].parent / EVALUATION
    shown = {"model": models, **settings}
    html = page(" and ".join(map(name_of, models)), command(), shown)
    try:
        write_file(place, html.encode("utf-8", "replace"))
    except OSError as error:
        if file is not None:
            raise
        # A place nobody named may be read-only; the figures were printed, so that is no error.
        notes.print(
            f"no report: {place}: {error.strerror}; name a --report FILE", soft_wrap=True, markup=False
        )
    else:
        tell_report(place)


def command() -> str:
    """What was typed."""
    return shlex.join(["sppnet", *sys.argv[1:]])
