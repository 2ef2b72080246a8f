"""What has changed in a labelling session, and who is told."""

import threading
from collections.abc import Callable


class News:
    """A number for every change, for any thread."""

    def __init__(self) -> None:
        self.sequence = 0
        self.changed: dict[int, int] = {}
        """The number of the last change of each photograph."""
        self.listeners: list[Callable[[], None]] = []
        self._lock = threading.RLock()

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
