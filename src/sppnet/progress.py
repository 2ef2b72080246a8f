"""How long work tells whoever waits for it where it stands."""

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of one stage after another; the command line draws it."""

    def begin(self, stage: str, total: int) -> None:
        """A stage of `total` steps begins; the one before has ended."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """So many steps of the stage are done; `note` says something about the last."""


class Silent:
    """Tells nobody."""

    def begin(self, stage: str, total: int) -> None: ...
    def advance(self, steps: int = 1, note: str = "") -> None: ...
