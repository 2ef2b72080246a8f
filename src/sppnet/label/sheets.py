"""The annotations of one photograph as the page shows them, and what a layout of files does with them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from sppnet.data.annotations import fit_box
from sppnet.data.frames import Box, Size, find_move
from sppnet.data.image import read_header
from sppnet.errors import SppnetError
from sppnet.nn.model_file import write_file

Order = Literal["name", "helpful"]
"""What is shown next: what follows by name, or the photograph that teaches most."""

State = Literal["open", "started", "done"]
"""Nothing is known of a photograph; some of its boxes are; all are, and none may be the answer."""


class StoreError(SppnetError):
    """Annotations that cannot be written, and why."""


class ConflictError(StoreError):
    """Another tab changed the photograph since it was shown."""


@dataclass(frozen=True)
class LabelledBox:
    """One object."""

    name: str
    """Of its class."""
    box: Box
    """xyxy in pixels of the upright photograph, 0-based and half-open."""
    origin: int | None = None
    """Which entry of the photograph's annotations it is; None for one that was not written yet."""
    difficult: bool = False
    crowd: bool = False
    key: str = field(default="", compare=False)
    """What the page calls it."""


@dataclass(frozen=True)
class Sheet:
    """The objects of a photograph."""

    boxes: tuple[LabelledBox, ...] = ()
    state: State = "open"
    revision: int = 0
    """One more with every change."""


class AnnotationFiles(Protocol):
    """A folder's annotations in one layout. Fields that mean nothing here stay as they are."""

    classes: tuple[str, ...]

    def read(self) -> dict[Path, Sheet]:
        """The photographs that the files tell of."""

    def write(self, photo: Path, boxes: Sequence[LabelledBox], done: bool) -> tuple[LabelledBox, ...]:
        """The boxes with their new origins, once they are on the disk. Raises StoreError and OSError."""

    def add_class(self, name: str) -> None:
        """A class at the end of the list. Raises StoreError and OSError."""


def fit_boxes(
    written: Sequence[Box], size_hw: Size, said: Size | None, photo: Path, one_based: bool
) -> "Fitted":
    """What boxes of a file are in the upright photograph."""
    move, _ = find_move(said, read_header(photo), written)
    return Fitted([fit_box(box, size_hw, one_based, move)[0] for box in written], move is not None)


@dataclass(frozen=True)
class Fitted:
    """Boxes, None for those that are left out; and whether all were moved to another frame."""

    boxes: list[Box | None]
    moved: bool


class WatchedFile:
    """A file that is replaced as a whole, and only if it is as it was last read or written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digest: str | None = None

    def read(self) -> bytes | None:
        """None where there is no such file."""
        content = self._content()
        self.digest = _digest(content)
        return content

    def check(self) -> None:
        """Raises StoreError if somebody else wrote the file since."""
        if _digest(self._content()) != self.digest:
            raise StoreError(
                f"{self.path} was changed by another program since it was read here, and is not overwritten; "
                "start sppnet label again to read it anew"
            )

    def write(self, content: bytes) -> None:
        """Atomically. Raises StoreError, and OSError naming the file."""
        self.check()
        write_file(self.path, content)
        self.digest = _digest(content)

    def _content(self) -> bytes | None:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None


def _digest(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def plain(value: float) -> int | float:
    """To hundredths of a pixel; whole numbers without a decimal point, which not every reader takes."""
    rounded = round(float(value), 2)
    return int(rounded) if rounded.is_integer() else rounded


def why_unwritable(error: Exception) -> str:
    """What to do about annotations that were not written."""
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        where = f" {error.filename}" if error.filename else ""
        return (
            f"not saved: {reason}{where}. Make room or allow writing there; the change is kept on this page"
        )
    return str(error)
