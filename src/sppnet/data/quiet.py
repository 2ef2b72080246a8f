"""Hides Pillow's warnings while images are read, on the threads that read them and no longer."""

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast


@contextmanager
def pillow_quiet() -> Iterator[None]:
    """No warnings of Pillow's from this thread within the block; afterwards, the filters are as they were.

    `warnings.catch_warnings` would do for one thread; with several, one restores the filters that
    another had set, and warnings of the whole program may stay hidden for good.
    """
    _readers.enter()
    _thread.depth = getattr(_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _thread.depth -= 1
        _readers.leave()


_thread = threading.local()


class _PillowModules:
    """The module pattern of the filter: Pillow's modules, on a thread that is reading.

    Copied to another process (scikit-learn sends the filters to its workers), it is a plain pattern.
    """

    pattern = r"(PIL|pillow_heif)\."

    def match(self, module: str) -> bool:
        return bool(getattr(_thread, "depth", 0) and re.match(self.pattern, module))

    def __reduce__(self) -> tuple[Any, ...]:
        return re.compile, (self.pattern,)


_FILTER = ("ignore", None, Warning, _PillowModules(), 0)


class _Readers:
    """Keeps the filter in front of the others while there are readers, on any thread."""

    def __init__(self) -> None:
        self.lock, self.count = threading.Lock(), 0
        self.changed: list[list[Any]] = []
        """Lists that hold the filter: `catch_warnings` puts a copy in place of the list, and it back."""

    def enter(self) -> None:
        with self.lock:
            self.count += 1
            filters = cast(list[Any], warnings.filters)
            if not filters or filters[0] is not _FILTER:
                _remove(filters)
                filters.insert(0, _FILTER)
            if not any(known is filters for known in self.changed):
                self.changed.append(filters)

    def leave(self) -> None:
        with self.lock:
            self.count -= 1
            if not self.count:
                for filters in [*self.changed, cast(list[Any], warnings.filters)]:
                    _remove(filters)
                self.changed.clear()


_readers = _Readers()


def _remove(filters: list[Any]) -> None:
    filters[:] = [entry for entry in filters if entry is not _FILTER]
