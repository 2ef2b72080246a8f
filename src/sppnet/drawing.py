"""Boxes and their texts, drawn into an image.

Lines and letters follow the size of the image, so that a thumbnail and a poster look alike. All
boxes are drawn before all tags: no line ever crosses a text. Nothing here knows what a box means.
"""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sppnet.arrays import Doubles
from sppnet.errors import GeometryError, ImageError

T = TypeVar("T")
Colour = tuple[int, int, int]
Corners = tuple[int, int, int, int]
"""x0, y0, x1, y1 in whole pixels, half-open, inside the image."""

COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Colours that people of every colour vision tell apart (Okabe and Ito 2008, without black)."""

SHADES = (1.0, 0.55, 1.6)
"""Label 7 has the first colour again, darker; 14 lighter; 21 starts anew, and the text must tell."""

IMAGE_PER_LINE = 200
IMAGE_PER_LETTER = 32
"""The image's mean side in line widths, and in font sizes."""

BOX_PER_LINE = 8
"""A small box gets a thinner line: this many widths fit into its shorter side."""

MIN_LETTER_PX = 10
TAG_SHARE = 0.1
"""Of the image, that tags may hide before their letters become smaller."""
LETTER_WIDTH, LETTER_HEIGHT = 0.5, 1.3
"""Of Pillow's own font, in font sizes: the mean, and the line."""

CASING = (0, 0, 0, 120)
"""A thin dark border on both sides of a line keeps it visible on a background of its own colour."""


def draw_boxes(
    image: npt.NDArray[np.uint8],
    boxes: npt.ArrayLike,
    texts: Sequence[str] | None = None,
    labels: Iterable[int] | None = None,
    width_px: int | None = None,
) -> npt.NDArray[np.uint8]:
    """A copy of an image (h, w, 3) with boxes on it; of two that overlap, the later is on top.

    boxes: (n, 4) xyxy pixels, half-open; what lies outside the image is not drawn.
    texts: one a box, on a tag of the box's colour that stays inside the image, shortened if it must be.
    labels: integers from 0 that choose the colours; by default each box has the next one.
    width_px: of the lines; by default it follows the size of the image and of the box.
    Raises ImageError for another kind of image, and GeometryError for boxes that cannot be drawn.
    """
    _check_image(image)
    array = _check_boxes(boxes)
    colours = [colour_of(label) for label in _one_each("labels", labels, range(len(array)))]
    words = _one_each("texts", texts, [""] * len(array))
    if width_px is not None and width_px < 1:
        raise GeometryError(f"lines must be 1 pixel wide or more; got width_px={width_px}")
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas, "RGBA")
    seen = [(_corners(box, image.shape), i) for i, box in enumerate(array)]
    drawn = [(corners, i) for corners, i in seen if corners[0] < corners[2] and corners[1] < corners[3]]
    for corners, i in drawn:
        _draw_line(pen, corners, colours[i], width_px or _line_px(image.shape, corners))
    tags = [(corners, " ".join(words[i].split()), colours[i]) for corners, i in drawn]
    _draw_tags(pen, [tag for tag in tags if tag[1]], image.shape)
    return np.array(canvas)


def colour_of(label: int) -> Colour:
    """The colour of a label, the same in every picture."""
    shade = SHADES[int(label) // len(COLOURS) % len(SHADES)]
    red, green, blue = COLOURS[int(label) % len(COLOURS)]
    if shade > 1:  # towards white
        return _colour(*(255 - (255 - part) / (shade * shade) for part in (red, green, blue)))
    return _colour(*(part * shade for part in (red, green, blue)))


def _colour(red: float, green: float, blue: float) -> Colour:
    return int(red + 0.5), int(green + 0.5), int(blue + 0.5)


# --- boxes ---------------------------------------------------------------------------------------


def _corners(box: Doubles, shape: tuple[int, ...]) -> Corners:
    """The pixels a box touches; clipped before they become integers, since a box may be of any size."""
    height, width = shape[:2]
    x0, y0, x1, y1 = np.clip(box, 0, [width, height, width, height]).tolist()
    return int(x0), int(y0), int(np.ceil(x1)), int(np.ceil(y1))


def _line_px(shape: tuple[int, ...], corners: Corners) -> int:
    side = min(corners[2] - corners[0], corners[3] - corners[1])
    return max(1, min(round(_mean_side(shape) / IMAGE_PER_LINE), side // BOX_PER_LINE))


def _mean_side(shape: tuple[int, ...]) -> float:
    return float(np.sqrt(shape[0] * shape[1]))


def _draw_line(pen: ImageDraw.ImageDraw, corners: Corners, colour: Colour, width: int) -> None:
    x0, y0, x1, y1 = corners
    border = (width + 2) // 3 if min(x1 - x0, y1 - y0) >= BOX_PER_LINE else 0
    if border:
        _draw_frame(pen, (x0 - border, y0 - border, x1 + border, y1 + border), CASING, border)
        inner = (x0 + width, y0 + width, x1 - width, y1 - width)
        _draw_frame(pen, inner, CASING, border)
    _draw_frame(pen, corners, (*colour, 255), width)


def _draw_frame(
    pen: ImageDraw.ImageDraw, corners: Corners, colour: tuple[int, int, int, int], width: int
) -> None:
    x0, y0, x1, y1 = corners
    if x0 < x1 and y0 < y1:
        pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline=colour, width=width)


# --- tags ----------------------------------------------------------------------------------------


def _draw_tags(
    pen: ImageDraw.ImageDraw, tags: list[tuple[Corners, str, Colour]], shape: tuple[int, ...]
) -> None:
    """The last box, which is on top, has the first choice of a place, and its tag is on top."""
    size_px = _letter_px(shape, [text for _, text, _ in tags])
    font = ImageFont.load_default(size_px)
    pad = max(2, size_px // 5)
    height = round(LETTER_HEIGHT * size_px) + pad
    placed: list[tuple[Corners, str, Colour]] = []
    for corners, text, colour in reversed(tags):
        short = _shorten(text, font, shape[1] - 2 * pad)
        if short and height <= shape[0]:
            size = (int(np.ceil(font.getlength(short))) + 2 * pad, height)
            taken = [other for other, _, _ in placed]
            placed.append((_place(corners, size, shape, taken), short, colour))
    for tag, text, colour in reversed(placed):
        pen.rectangle((tag[0], tag[1], tag[2] - 1, tag[3] - 1), fill=(*colour, 255))
        pen.text((tag[0] + pad, tag[1] + pad // 2), text, fill=_ink(colour), font=font)


def _letter_px(shape: tuple[int, ...], texts: list[str]) -> int:
    """The size of the font: it follows the image, less where tags would hide too much of it."""
    letters = sum(LETTER_WIDTH * len(text) + 1 for text in texts)
    room = _mean_side(shape) * (TAG_SHARE / (LETTER_HEIGHT * max(letters, 1))) ** 0.5
    return max(MIN_LETTER_PX, int(min(_mean_side(shape) / IMAGE_PER_LETTER, room)))


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room_px: int) -> str:
    """The text or its beginning, as much as there is room for; nothing rather than an ellipsis alone."""
    if font.getlength(text) <= room_px:
        return text
    for length in range(len(text) - 1, 0, -1):
        short = text[:length].rstrip() + "…"
        if font.getlength(short) <= room_px:
            return short
    return ""


def _place(box: Corners, size: tuple[int, int], shape: tuple[int, ...], placed: list[Corners]) -> Corners:
    """Above the box, or inside at its top, below it, or inside at its bottom: where no other tag is."""
    (x0, y0, x1, y1), (width, height) = box, size
    best, least = (0, 0, width, height), float("inf")
    for x, y in product((x0, x1 - width), (y0 - height, y0, y1, y1 - height)):
        left, top = max(0, min(x, shape[1] - width)), max(0, min(y, shape[0] - height))
        tag = (left, top, left + width, top + height)
        # A tag pushed back into the image is as good, unless another is where it has been pushed.
        covered = sum(_shared(tag, other) for other in placed)
        if covered < least:
            best, least = tag, covered
    return best


def _shared(a: Corners, b: Corners) -> int:
    """Pixels in both."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _ink(colour: Colour) -> Colour:
    """Black or white, whichever has the greater contrast (relative luminance, WCAG 2)."""
    parts = [(part / 255) ** 2.2 for part in colour]
    luminance = 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


# --- what came -----------------------------------------------------------------------------------


def _check_image(image: npt.NDArray[np.uint8]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ImageError(f"to draw on, an image must be (h, w, 3) uint8; got {image.shape} {image.dtype}")


def _check_boxes(boxes: npt.ArrayLike) -> Doubles:
    array = np.array(boxes, np.float64)
    array = array.reshape(0, 4) if array.size == 0 else array
    if array.ndim != 2 or array.shape[1] != 4:
        raise GeometryError(f"boxes must have shape (n, 4), xyxy; got {array.shape}")
    good = np.isfinite(array).all(axis=1) & (array[:, :2] <= array[:, 2:]).all(axis=1)
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        raise GeometryError(f"boxes to draw must be finite, x0 ≤ x1, y0 ≤ y1; box {first} is {array[first]}")
    return array


def _one_each(name: str, values: Iterable[T] | None, default: Sequence[T]) -> Sequence[T]:
    given = default if values is None else list(values)
    if len(given) != len(default):
        raise GeometryError(f"{len(default)} boxes need {len(default)} {name}; got {len(given)}")
    return given
