"""What both labelling pages stand on: a store of photographs, threads that learn, and a session.

One page draws boxes around objects, the other gives each photograph a class (`whole`).
"""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from sppnet.data.annotations import plain_name
from sppnet.data.files import ImageList, list_images
from sppnet.data.image import ImageHeader, read_header
from sppnet.errors import DataError
from sppnet.label.sheets import ConflictError, Order

logger = logging.getLogger(__name__)

AHEAD = 8
"""Photographs shown next that are prepared first."""

MAX_LETTERS = 100
"""Of the name of a class."""


class Revised(Protocol):
    """What is known of one photograph."""

    @property
    def revision(self) -> int:
        """One more with every change."""


Known = TypeVar("Known", bound=Revised)


@dataclass(kw_only=True)
class PhotoStore(ABC, Generic[Known]):
    """Photographs by their number, in natural order, and what is known of each. For any thread."""

    root: Path
    paths: list[Path]
    omitted: tuple[str, ...] = ()
    """Why image files of the folder are not shown."""
    names: tuple[str, ...] = field(init=False)
    """Of the photographs, as they were when the folder was opened."""
    unknown: Known
    """The sheet of a photograph of which nothing is known."""
    sheets: dict[int, Known] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        self.names = tuple(path.relative_to(self.root).as_posix() for path in self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def sheet(self, photo: int) -> Known:
        return self.sheets.get(photo, self.unknown)

    def header(self, photo: int) -> ImageHeader:
        """Raises ImageError for a photograph that vanished or cannot be read."""
        return read_header(self.paths[photo])

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """How often each class was given."""

    @abstractmethod
    def list_class(self, name: str) -> None:
        """Writes a new class to where the files list their classes."""

    def add_class(self, name: str) -> str:
        """The name as it is kept. Raises DataError for an empty name, StoreError or OSError."""
        plain = plain_name(name)
        if not plain or len(plain) > MAX_LETTERS:
            raise DataError(f"the name of a class has 1 to {MAX_LETTERS} letters; got {name!r}")
        with self._lock:
            if plain not in self.classes:
                self.list_class(plain)
                self.classes = (*self.classes, plain)
        return plain

    def newest(self, photo: int, revision: int | None, shown: str) -> Known:
        """The sheet that is changed; raises ConflictError unless `revision`, where given, is its own."""
        before = self.sheet(photo)
        if revision is not None and revision != before.revision:
            raise ConflictError(f"{self.names[photo]} was changed elsewhere meanwhile; {shown}")
        return before


def list_photographs(root: Path) -> tuple[Path, ImageList]:
    """The folder's whole path and its photographs. Raises DataError where there are none."""
    root = Path(root).resolve()
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; name the folder of the photographs")
    return root, list_images(root)


Work = Callable[[], None]


class BackgroundLearner:
    """Threads that do the next piece of work there is, and wait where there is none."""

    def __init__(self, callback: Callable[[int | None], None]) -> None:
        """callback: called from the threads with a photograph whose suggestions changed, or None."""
        self.callback = callback
        self.version = 0
        """Grows with what has been learned."""
        self.seconds: float | None = None
        """From the last change to new suggestions."""
        self.learned_at: float | None = None
        self.problems: dict[int, str] = {}
        """Why photographs cannot be read."""
        self._changed = threading.Condition()
        self._closing = False
        self._threads: list[threading.Thread] = []

    def add_thread(self, name: str, next_work: Callable[[], Work | None]) -> None:
        """next_work: called with the lock `_changed` held."""
        thread = threading.Thread(target=self._run, args=(next_work,), name=name, daemon=True)
        self._threads.append(thread)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def waiting(self) -> int:
        """How much was labelled that was not learned from yet."""
        return 0

    def _run(self, next_work: Callable[[], Work | None]) -> None:
        while True:
            with self._changed:
                while (work := next_work()) is None and not self._closing:
                    self._changed.wait()
                if work is None or self._closing:
                    return
            try:
                work()
            except Exception:  # a session goes on without suggestions rather than ending
                logger.exception("a photograph could not be learned from")


Store = TypeVar("Store", bound=PhotoStore[Any])
Learner = TypeVar("Learner", bound=BackgroundLearner)


class LabelSession(ABC, Generic[Store, Learner]):
    """One folder that is labelled, and a number for every change. For any thread."""

    learner: Learner

    def __init__(self, store: Store) -> None:
        self.store = store
        self.sequence = 0
        self.changed: dict[int, int] = {}
        """The number of the last change of each photograph."""
        self.listeners: list[Callable[[], None]] = []
        """Called after every change."""
        self._evaluated: set[int] = set()
        """Photographs that were labelled for the first time in this session."""
        self._lock = threading.RLock()

    @abstractmethod
    def start(self) -> None: ...

    def close(self) -> None:
        self.learner.close()

    @abstractmethod
    def state_of(self, photo: int) -> str:
        """For the strip of photographs."""

    @abstractmethod
    def show(self, photo: int | None, order: Order) -> int | None:
        """A photograph is on the screen: what follows it is prepared. Gives the next one that is open."""

    @abstractmethod
    def describe_suggestions(self, photo: int) -> dict[str, Any]: ...

    @abstractmethod
    def describe_photo(self, photo: int) -> dict[str, Any]:
        """All that the page shows of a photograph. Raises ImageError."""

    def describe(self) -> dict[str, Any]:
        """The session as a whole."""
        store, learner = self.store, self.learner
        return {
            "folder": store.root.name, "photographs": len(store), "classes": list(store.classes),
            "objects": store.counts(), "sequence": self.sequence, "omitted": list(store.omitted),
            "learning": {
                "version": learner.version, "waiting": learner.waiting, "seconds": learner.seconds,
                "at": learner.learned_at,
            },
        }  # fmt: skip

    def add_class(self, name: str) -> str:
        with self._lock:
            plain = self.store.add_class(name)
        self._tell(None)
        return plain

    def changes_since(self, sequence: int) -> list[int]:
        """Photographs that changed after that."""
        return sorted(photo for photo, when in list(self.changed.items()) if when > sequence)

    def _tell(self, photo: int | None) -> None:
        """A photograph changed, or the session as a whole."""
        with self._lock:
            self.sequence += 1
            if photo is not None:
                self.changed[photo] = self.sequence
        for listener in list(self.listeners):
            listener()
