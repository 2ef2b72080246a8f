"""Progress protocol."""

import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Result = TypeVar("Result")


class Progress(Protocol):
    """Receives the progress of one stage after another; the command line draws it."""

    def begin(self, stage: str, total: int) -> None:
        """A stage of `total` steps begins; the one before has ended."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """So many steps of the stage are done; `note` says something about the last."""


class NullProgress:
    """Reports nothing."""

    def begin(self, stage: str, total: int) -> None: ...
    def advance(self, steps: int = 1, note: str = "") -> None: ...


def track(results: Iterable[Result], stage: str, total: int, progress: Progress) -> Iterator[Result]:
    """The same results; each is a step of the stage, done when the next is asked for."""
    progress.begin(stage, total)
    for result in results:
        yield result
        progress.advance()


class Timed:
    """Passes on what it is told, and keeps the time of every stage."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.inner = progress or NullProgress()
        self._ended: dict[str, float] = {}
        self._stage, self._began = "", 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """Of each stage, the last one's until now; of one that came several times, in all."""
        if not self._stage:
            return dict(self._ended)
        spent = time.perf_counter() - self._began
        return {**self._ended, self._stage: self._ended.get(self._stage, 0.0) + spent}

    def begin(self, stage: str, total: int) -> None:
        self._ended = self.seconds
        self._stage, self._began = stage, time.perf_counter()
        self.inner.begin(stage, total)

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.inner.advance(steps, note)
