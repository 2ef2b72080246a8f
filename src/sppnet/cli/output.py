"""Progress bars, tables and JSON."""

import json
import sys
from collections.abc import Collection
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

notes = Console(stderr=True, highlight=False, markup=False, emoji=False)
"""Where everything goes that is not a result. Brackets and colons in names are no markup."""


class Bars:
    """Draws stages of work: one line each, with what is done and the time left. Use it in a `with` block.

    Where nobody watches (a file, a log) each finished stage is one plain line.
    """

    def __init__(self) -> None:
        self.drawn = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=notes,
            disable=not notes.is_terminal,
        )
        self.stage, self.total, self.done, self.note = "", 0, 0, ""

    def __enter__(self) -> "Bars":
        self.drawn.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self.drawn.stop()

    def begin(self, stage: str, total: int) -> None:
        self._end()
        self.stage, self.total, self.done, self.note = stage, total, 0, ""
        self.task = self.drawn.add_task(stage, total=total, note="")

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        self.note = note or self.note
        self.drawn.update(self.task, advance=steps, note=self.note)

    def _end(self) -> None:
        if self.stage and not notes.is_terminal:
            notes.print(f"{self.stage}: {self.done}/{self.total} {self.note}".rstrip(), soft_wrap=True)
        self.stage = ""


def print_json(data: Any) -> None:
    """Data on standard output, as JSON."""
    json.dump(data, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
    sys.stdout.flush()  # a full disk is told here, not when nobody listens any more


def percent(value: float | None) -> str:
    """97.4%; a dash for a class without images."""
    return "–" if value is None else f"{value:.1%}"


def print_table(title: str, columns: list[str], rows: list[list[str]], words: Collection[str] = ()) -> None:
    """A table on standard output; the first column and those named `words` are text, the others numbers."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        text = column == columns[0] or column in words
        table.add_column(column, justify="left" if text else "right", no_wrap=not text)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 120)
    console.print(title, style="italic", soft_wrap=True)  # rich would break it at the width of the table
    console.print(table)
