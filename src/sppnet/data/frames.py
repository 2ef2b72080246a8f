"""Boxes drawn on an image of another size: scaled or turned to the image at hand where that is plain.

An annotation file says the width and height of the image it was made on. The image may since have been
resized, or be stored sideways with an EXIF orientation that sets it upright when it is read.
"""

from collections.abc import Callable, Iterable

from sppnet.data.image import ImageHeader

Box = tuple[float, float, float, float]
"""xyxy in pixels, 0-based and half-open."""

Size = tuple[int, int]
"""Height and width in pixels."""

Move = Callable[[Box], Box]

SCALED = "the boxes are scaled to it"
TURNED = "their EXIF data turns them, so the boxes are turned with them"
KEPT = "the boxes are kept as written, and may belong to another copy"

SIDEWAYS: dict[int, Callable[[float, float], tuple[float, float]]] = {
    5: lambda u, v: (v, u),
    6: lambda u, v: (1 - v, u),
    7: lambda u, v: (1 - v, 1 - u),
    8: lambda u, v: (v, 1 - u),
}
"""From shares of the stored image's sides to those of the upright image, by EXIF orientation."""

SLACK_PX = 1.5
"""A box may reach this far beyond the size it was drawn on: some tools count from 1."""


def find_move(said: Size | None, header: ImageHeader, boxes: Iterable[Box]) -> tuple[Move | None, str]:
    """How boxes get from an image of the size that a file says to the one at hand; and this in words.

    (None, "") where both have one size, or none is said.
    """
    if said is None or said == header.size_hw:
        return None, ""
    height, width = said
    beyond = any(
        max(x0, x1) > width + SLACK_PX or max(y0, y1) > height + SLACK_PX for x0, y0, x1, y1 in boxes
    )
    if beyond:  # so they were not drawn on an image of that size
        return None, KEPT
    if _is_alike(said, header.size_hw):
        return _shares_to(said, header.size_hw, lambda u, v: (u, v)), SCALED
    turn = SIDEWAYS.get(header.orientation)
    if turn and _is_alike((width, height), header.size_hw):
        return _shares_to(said, header.size_hw, turn), TURNED
    return None, KEPT


def _is_alike(said: Size, actual: Size) -> bool:
    """Whether two sizes have one aspect, but for a pixel of rounding."""
    (a, b), (c, d) = said, actual
    return abs(c - a * d / b) < 1 if a < b else abs(d - b * c / a) < 1


def _shares_to(said: Size, actual: Size, turn: Callable[[float, float], tuple[float, float]]) -> Move:
    def move(box: Box) -> Box:
        x0, y0, x1, y1 = box
        u0, v0 = turn(x0 / said[1], y0 / said[0])
        u1, v1 = turn(x1 / said[1], y1 / said[0])
        height, width = actual
        return min(u0, u1) * width, min(v0, v1) * height, max(u0, u1) * width, max(v0, v1) * height

    return move
