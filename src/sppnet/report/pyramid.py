"""The pyramid of a window made visible: its cells, the bins of each level, and which cell won each bin."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from sppnet.arrays import Doubles, Floats, Ints
from sppnet.data.image import ImageArray
from sppnet.drawing import colour_of, draw_boxes
from sppnet.errors import GeometryError
from sppnet.features.maps import FeatureMaps
from sppnet.geometry.grid import BoxMapping, ScaleRule, bin_edges
from sppnet.report.contact_sheet import Panel, arrange, fit

Area = tuple[int, int, int, int]
"""Cells xyxy, half-open."""

SIDE = 420
"""Room for a panel, in pixels."""
COLUMNS = 3
PALE = 0.45
"""Of white in the picture below the colours."""
WINDOW, BINS = 5, (1, 0)
"""Colours of `drawing`: vermilion for the window; blue and orange for bins, in turn."""
WON = (0, 158, 115)
"""Green, the stronger the more channels have their maximum there; full for the most of a level."""


def draw_pyramid(
    image: ImageArray,
    maps: FeatureMaps,
    box: npt.ArrayLike | None,
    levels: Sequence[int],
    rule: BoxMapping = "paper",
    scale_rule: ScaleRule = "paper",
) -> Image.Image:
    """image: (h, w, 3) RGB, the one of `maps`. box: xyxy in its pixels; None for all of it.

    Of a trunk with several taps, the finest is drawn. Raises GeometryError for a box that is empty or outside
    the image.
    """
    window = _check_box(box, image)
    at = maps.choose_scales(window, scale_rule)
    index, area = _cells_of(maps, window, rule, at, whole=box is None)
    x0, y0, x1, y1 = area
    features = maps.maps[index][:, y0:y1, x0:x1].float().numpy()
    height, width = y1 - y0, x1 - x0
    scale = min(maps.sizes_hw[index])
    whole = _draw_window(image, window, _cell_box(maps, index, area), (width, height))
    panels: list[Panel] = [
        (whole, f"the window and its {width} x {height} cells, at a shorter side of {scale}")
    ]
    piece = _cut(image, _cell_box(maps, index, area))
    for level in levels:
        caption = f"level {level}: {level} x {level} bins of {len(features)} channels"
        panels.append((_draw_level(piece, winners(features, level), level), caption))
    title = "Feature cells and bins; green: cells that won, dot: the one that won most"
    return arrange(title, panels, 2 if len(panels) == 4 else COLUMNS)


def winners(features: Floats, level: int) -> Doubles:
    """Features (c, h, w) → (level², h, w): the share of channels whose maximum of a bin is in a cell.

    Of equal cells the first wins, row by row, as in the operator's gradient.
    """
    channels, height, width = features.shape
    shares = np.zeros((level * level, height, width))
    areas = [(rows, columns) for rows in bin_edges(height, level) for columns in bin_edges(width, level)]
    for share, ((top, bottom), (left, right)) in zip(shares, areas, strict=True):
        best = features[:, top:bottom, left:right].reshape(channels, -1).argmax(axis=1)
        counts = np.bincount(best, minlength=(bottom - top) * (right - left)) / channels
        share[top:bottom, left:right] = counts.reshape(bottom - top, right - left)
    return shares


def _check_box(box: npt.ArrayLike | None, image: ImageArray) -> Doubles:
    height, width = image.shape[:2]
    window = np.array([0, 0, width, height] if box is None else box, np.float64).reshape(-1)
    clipped: Doubles = window
    if window.shape == (4,):
        clipped = np.clip(window, 0, [width, height] * 2)
    if clipped.shape != (4,) or not (clipped[:2] < clipped[2:]).all():
        raise GeometryError(
            f"a window is x0,y0,x1,y1 with x0 < x1 and y0 < y1 in the image of {width}×{height} pixels; "
            f"got {window.tolist()}"
        )
    return clipped


def _cells_of(
    maps: FeatureMaps, window: Doubles, rule: BoxMapping, at: Ints, whole: bool
) -> tuple[int, Area]:
    """Which map, and which of its cells; of a whole image all, as a classifier pools them."""
    index, x0, y0, x1, y1 = maps.windows(window, rule, at).cells[0, :5].tolist()  # of the finest tap
    if whole:
        height, width = maps.maps[index].shape[1:]
        return index, (0, 0, width, height)
    return index, (x0, y0, x1, y1)


def _cell_box(maps: FeatureMaps, index: int, area: Area) -> Doubles:
    """xyxy in pixels of the image: squares of one stride around the cells' centres."""
    box: Doubles = maps.cells_to_boxes(index, np.array([area]))[0]
    return box


def _draw_window(image: ImageArray, window: Doubles, cells: Doubles, count: tuple[int, int]) -> Image.Image:
    photo = fit(Image.fromarray(image), SIDE, SIDE)
    ratio = photo.width / image.shape[1]
    pen = ImageDraw.Draw(photo, "RGBA")
    x0, y0, x1, y1 = (cells * ratio).tolist()
    for x in np.linspace(x0, x1, count[0] + 1).tolist():
        pen.line((x, y0, x, y1), (255, 255, 255, 130))
    for y in np.linspace(y0, y1, count[1] + 1).tolist():
        pen.line((x0, y, x1, y), (255, 255, 255, 130))
    return Image.fromarray(draw_boxes(np.array(photo), [window * ratio], labels=[WINDOW]))


def _cut(image: ImageArray, box: Doubles) -> Image.Image:
    """A piece of the image, grey where there is none: cells at the border reach beyond it."""
    x0, y0 = np.floor(box[:2]).astype(int).tolist()
    x1, y1 = np.ceil(box[2:]).astype(int).tolist()
    piece = Image.new("RGB", (x1 - x0, y1 - y0), (128, 128, 128))
    piece.paste(Image.fromarray(image), (-x0, -y0))
    return fit(piece, SIDE, SIDE)


def _draw_level(piece: Image.Image, shares: Doubles, level: int) -> Image.Image:
    grey = piece.convert("L").convert("RGB")  # colours are for the bins
    drawn = Image.blend(grey, Image.new("RGB", grey.size, "white"), PALE)
    pen = ImageDraw.Draw(drawn, "RGBA")
    height, width = shares.shape[1:]
    across, down = drawn.width / width, drawn.height / height
    for y, x in np.argwhere(shares.max(axis=0)).tolist():
        part = float(shares[:, y, x].max() / shares.max())
        place = (x * across, y * down, (x + 1) * across, (y + 1) * down)
        pen.rectangle(place, (*WON, round(200 * part)))
    edges = [(rows, columns) for rows in bin_edges(height, level) for columns in bin_edges(width, level)]
    for number, ((top, bottom), (left, right)) in enumerate(edges):
        odd = (number // level + number % level) % 2
        inset = 1 + 3 * odd  # neighbours may share a line of cells: so their frames do not hide each other
        place = (left * across + inset, top * down + inset, right * across - inset, bottom * down - inset)
        if place[0] < place[2] and place[1] < place[3]:
            pen.rectangle(place, outline=colour_of(BINS[odd]), width=2)
    for share in shares:
        _draw_dot(pen, share, across, down)
    return drawn


def _draw_dot(pen: ImageDraw.ImageDraw, share: Doubles, across: float, down: float) -> None:
    y, x = np.unravel_index(int(share.argmax()), share.shape)
    reach = max(2.0, min(across, down) / 5)
    middle_x, middle_y = (int(x) + 0.5) * across, (int(y) + 0.5) * down
    place = (middle_x - reach, middle_y - reach, middle_x + reach, middle_y + reach)
    pen.ellipse(place, (255, 255, 255, 255), (0, 0, 0, 255))
