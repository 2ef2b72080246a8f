"""What an annotation file says, before it becomes a GroundTruth: names and boxes as a person drew them.

VOC, COCO and YOLO are read into these alike, so that one place decides what becomes of corners in
the wrong order, boxes beyond the border, and names that lead out of the data set.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

import numpy as np

from sppnet.data.image import read_header
from sppnet.errors import ImageError, printable

Box = tuple[float, float, float, float]

ROUNDING_PX = 0.5
"""A box may reach this far beyond the border and be clipped in silence: files round."""


@dataclass(frozen=True)
class Mark:
    """One object."""

    name: str
    """Of its class."""
    box: Box
    """xyxy in pixels of the upright image, 0-based and half-open."""
    difficult: bool = False
    crowd: bool = False


@dataclass(frozen=True)
class MarkedImage:
    """One image file and the objects in it."""

    path: Path
    marks: tuple[Mark, ...]


@dataclass
class Reading:
    """What the files of a data set gave; `problems` fills while they are read."""

    images: list[MarkedImage] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Source(Protocol):
    """A data set on disk, in one of the layouts."""

    @property
    def layout(self) -> str:
        """Its name: "VOC", "COCO" or "YOLO"."""

    @property
    def root(self) -> Path:
        """No file outside this folder is read."""

    @property
    def notes(self) -> Path:
        """The folder of the annotations, where a classes.txt may lie."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that the files name; none where there is no division."""

    def class_names(self) -> tuple[str, ...]:
        """Of the whole data set, whatever split is read."""

    def read(self, splits: Sequence[str]) -> Reading:
        """The images of these splits, or all there are if none is named."""


def path_inside(folder: Path, name: str) -> Path | None:
    """What has that name below `folder`; None if nothing has, or the name is absolute or climbs out.

    Links are followed, as everywhere: whoever laid them could read the file anyway.
    """
    plain = name.strip().replace("\\", "/")
    parts = PurePosixPath(plain).parts
    if not parts or plain.startswith("/") or PureWindowsPath(plain).drive or ".." in parts or "\0" in plain:
        return None
    path = folder.joinpath(*parts)
    return path if exists(path) else None


def plain_name(name: object) -> str:
    """The name of a class as it is printed: on one line, with single spaces."""
    return printable(" ".join(str(name).split()))


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; names too long for the system, or with a zero, are of none."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def size_of(path: Path, problems: list[str]) -> tuple[int, int] | None:
    """Height and width of the upright image; None, and a problem, if the file cannot be read."""
    try:
        return read_header(path).size_hw
    except ImageError as error:
        problems.append(f"{error}; its boxes are not checked against its size")
        return None


def fit_box(written: Box, size_hw: tuple[int, int] | None, one_based: bool = False) -> tuple[Box | None, str]:
    """The box a file means, and what had to be done to it: "" for nothing, with None if nothing is left.

    written: xyxy, 0-based and half-open; if `one_based`, 1-based with the last pixel inside (VOC).
    """
    x0, y0, x1, y1 = written
    height, width = size_hw or (0, 0)
    if not one_based and 0 <= x0 <= x1 - 1 < x1 <= width and 0 <= y0 <= y1 - 1 < y1 <= height:
        return written, ""  # as nearly all are, and large files have a million
    if not all(map(math.isfinite, written)):
        return None, "is not finite; it is left out"
    ordered = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    done = [] if ordered == written else ["has its corners in the wrong order; they are exchanged"]
    first = 1 if one_based else 0
    box = (ordered[0] - first, ordered[1] - first, ordered[2], ordered[3])
    clipped = _clip(box, size_hw)
    if max(abs(a - b) for a, b in zip(box, clipped, strict=True)) > ROUNDING_PX:
        done.append("reaches beyond the image; it is clipped")
    if _is_empty(clipped):
        return None, "is empty; it is left out" if clipped == box else "lies beyond the image; it is left out"
    return clipped, ", and ".join(done)


def _clip(box: Box, size_hw: tuple[int, int] | None) -> Box:
    height, width = size_hw or (math.inf, math.inf)
    x0, y0, x1, y1 = box
    return max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)


def _is_empty(box: Box) -> bool:
    # As float32, in which it will be kept and checked.
    with np.errstate(over="ignore"):
        x0, y0, x1, y1 = np.asarray(box, np.float32).tolist()
    return bool(x1 <= x0 or y1 <= y0 or math.isinf(x1) or math.isinf(y1))
