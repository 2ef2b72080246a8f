"""What an annotation file says, before it becomes a GroundTruth: names and boxes as a person drew them.

VOC, COCO and YOLO are read into these alike, so that one place decides what becomes of corners in
the wrong order, boxes beyond the border, and names that lead out of the data set.
"""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from sppnet.data.frames import Box, Move, Size, find_move
from sppnet.data.image import read_header
from sppnet.data.problems import EXCHANGED, Problems
from sppnet.errors import ImageError, printable

ROUNDING_PX = 0.5
"""A box may reach this far beyond the border and be clipped in silence: files round."""


@dataclass(frozen=True)
class BoxAnnotation:
    """One object."""

    name: str
    """Of its class."""
    box: Box
    """xyxy in pixels of the upright image, 0-based and half-open."""
    difficult: bool = False
    crowd: bool = False


@dataclass(frozen=True)
class AnnotatedImage:
    """One image file and the objects in it."""

    path: Path
    marks: tuple[BoxAnnotation, ...]


@dataclass
class ParsedDataset:
    """What the files of a data set gave; `problems` fills while they are read."""

    images: list[AnnotatedImage] = field(default_factory=list)
    problems: Problems = field(default_factory=Problems)


@dataclass(frozen=True)
class Location:
    """Where the boxes of an image are written, as problems name it."""

    problems: Problems
    file: str
    """The file of annotations."""
    place: str
    """The file, and where in it."""
    one_based: bool = False
    """Boxes are counted from 1, with the last pixel inside."""
    sides: bool = False
    """Boxes are written as x, y, width, height."""

    def words(self, box: Box) -> str:
        """A box as it is written."""
        x0, y0, x1, y1 = box
        return ", ".join(f"{value:g}" for value in ((x0, y0, x1 - x0, y1 - y0) if self.sides else box))


class AnnotationSource(Protocol):
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

    @property
    def missing(self) -> Mapping[str, str]:
        """Splits that the files name and that are not there, with a sentence each."""

    def class_names(self) -> tuple[str, ...]:
        """Of the whole data set, whatever split is read."""

    def read(self, splits: Sequence[str]) -> ParsedDataset:
        """The images of these splits, or all there are if none is named."""

    def tell_unused(self, reading: ParsedDataset) -> None:
        """Adds to the problems of a whole data set which of its images and annotations are not used."""


def plain_name(name: object) -> str:
    """The name of a class as it is printed: on one line, with single spaces and composed letters."""
    return printable(unicodedata.normalize("NFC", " ".join(str(name).split())))


def flag(value: object) -> bool:
    """A yes or no of XML or JSON, which some tools write as text: "0" and "false" are no."""
    if isinstance(value, str):
        return value.strip().lower() in ("1", "1.0", "true", "yes")
    return bool(value) if isinstance(value, bool | int | float) else False


def said_size(height: object, width: object) -> Size | None:
    """A size as a file says it, in numbers or in text; None for none: some tools write 0."""
    try:
        sides = tuple(round(float(side)) for side in (height, width) if isinstance(side, int | float | str))
    except (ValueError, OverflowError):
        return None
    return (sides[0], sides[1]) if len(sides) == 2 and min(sides) > 0 else None


def fit_marks(
    written: Sequence[BoxAnnotation], image: Path, said: Size | None, at: Location
) -> tuple[BoxAnnotation, ...]:
    """The marks with boxes that lie in the image; what is done to them is told.

    said: the size that the annotations give.
    """
    if not written:
        return ()
    size_hw: Size | None
    try:
        header = read_header(image)
    except ImageError as error:
        at.problems.add(f"{error}; its boxes are not checked against its size")
        size_hw, move = None, None
    else:
        size_hw = header.size_hw
        move, outcome = find_move(said, header, (mark.box for mark in written))
        if outcome and said:
            sizes = "×".join(map(str, said[::-1])), "×".join(map(str, size_hw[::-1]))
            example = f"{image.name} ({sizes[1]}, {at.file} says {sizes[0]}, width×height)"
            at.problems.count("images are of another size than their annotations say", outcome, example)
    marks = []
    for mark in written:
        box, done = fit_box(mark.box, size_hw, at.one_based, move)
        if done:
            at.problems.add(f"{at.place}: the box of {mark.name} ({at.words(mark.box)}) {done}")
        if box:
            marks.append(mark if box == mark.box else replace(mark, box=box))
    return tuple(marks)


def fit_box(
    written: Box, size_hw: Size | None, one_based: bool = False, move: Move | None = None
) -> tuple[Box | None, str]:
    """The box a file means, and what had to be done to it: "" for nothing, with None if nothing is left.

    written: xyxy, 0-based and half-open; if `one_based`, 1-based with the last pixel inside (VOC).
    move: from the image that the box was drawn on to this one.
    """
    x0, y0, x1, y1 = written
    height, width = size_hw or (0, 0)
    plain = not one_based and move is None
    if plain and 0 <= x0 <= x1 - 1 < x1 <= width and 0 <= y0 <= y1 - 1 < y1 <= height:
        return written, ""  # as nearly all are, and large files have a million
    if not all(map(math.isfinite, written)):
        return None, "is not finite; it is left out"
    ordered = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    done = [] if ordered == written else [EXCHANGED]
    first = 1 if one_based else 0
    box = (ordered[0] - first, ordered[1] - first, ordered[2], ordered[3])
    if move:
        box = move(box)
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
