"""What excites a filter of the last convolution: the paper's Figure 2.

For each filter the photographs that excite it most, the square of the image that its strongest cell sees,
and the activation map of the whole image in its own shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sppnet.arrays import Doubles, Floats, Ints
from sppnet.data.image import read_image
from sppnet.drawing import draw_boxes
from sppnet.errors import DataError, GeometryError, ImageError
from sppnet.features.detector_extractor import AnyExtractor
from sppnet.features.maps import FeatureMaps
from sppnet.geometry.grid import CellGrid
from sppnet.progress import Progress
from sppnet.report.contact_sheet import Panel, arrange, fit

CellPosition = tuple[int, int]
"""Row and column of a cell."""

TOP = 8
"""Photographs of a filter, as in the paper."""
CHOSEN = 4
"""Filters that are drawn unless some are asked for."""
COLUMNS = 4
WIDTH, HEIGHT = 300, 225
"""Room for a photograph, and for its map."""

LEAST = 1e-6
"""A filter that nothing excites is drawn black, not divided by zero."""

MIN_FRAME_PX = 12
"""Side of the frame around a cell."""

SEEN, CELL = 2, 3
"""Colours of `drawing`: green for what a cell sees, yellow for the cell itself."""


@dataclass(frozen=True, eq=False)
class Peaks:
    """How strongly each image excites each filter, and where."""

    paths: tuple[Path, ...]
    values: Floats
    """(n, channels)"""
    places: Ints
    """(n, channels, 2) row and column of the strongest cell, the first of equals."""
    skipped: tuple[str, ...]
    """Why images were left out."""

    def strongest(self, channel: int, count: int = TOP) -> list[int]:
        """Indices of the images that excite a filter most, the first of equals first."""
        order: list[int] = np.argsort(-self.values[:, channel], kind="stable")[:count].tolist()
        return order


def find_peaks(paths: Sequence[Path], extractor: AnyExtractor, progress: Progress) -> Peaks:
    """Convolves every image, at the first scale, for the filters of the last tap.

    Raises DataError if none can be read.
    """
    progress.begin("looking for what excites filters", len(paths))
    read, values, places, skipped = [], [], [], []
    for path in paths:
        try:
            features = extractor(read_image(path)).taps[-1].maps[0].float().numpy()
        except ImageError as error:
            skipped.append(str(error))
        else:
            flat = features.reshape(len(features), -1)
            best = flat.argmax(axis=1)
            read.append(path)
            values.append(flat[np.arange(len(flat)), best])
            places.append(np.stack(np.unravel_index(best, features.shape[1:]), axis=1))
        progress.advance()
    if not read:
        raise DataError(f"none of the {len(paths)} images could be read")
    return Peaks(tuple(read), np.stack(values), np.stack(places), tuple(skipped))


def choose_filters(peaks: Peaks, count: int = CHOSEN) -> list[int]:
    """The filters whose strongest images stand out most from the other images.

    Not those of the highest peaks alone: many networks end in a ReLU6, where hundreds reach 6.
    """
    ranked = -np.sort(-peaks.values, axis=0)
    apart = ranked[:TOP].mean(axis=0) - ranked.mean(axis=0)
    order = np.lexsort((np.arange(len(apart)), -ranked[0], -apart))
    return [int(channel) for channel in order[:count]]


def check_filters(filters: Sequence[int], channels: int) -> None:
    """Raises GeometryError for one that the trunk does not have."""
    wrong = [channel for channel in filters if not 0 <= channel < channels]
    if wrong or not filters:
        raise GeometryError(
            f"the last convolution has filters 0 to {channels - 1}; got {', '.join(map(str, filters))}"
        )


def draw_filter(channel: int, peaks: Peaks, extractor: AnyExtractor) -> Image.Image:
    """A sheet of the photographs that excite a filter most, and of its maps."""
    chosen = peaks.strongest(channel)
    highest = max(float(peaks.values[chosen[0], channel]), LEAST)
    panels = []
    for index in chosen:
        row, column = peaks.places[index, channel].tolist()
        value = peaks.values[index, channel]
        caption = f"{value:.2f} · {peaks.paths[index].name}"
        panels.append(_panel(peaks.paths[index], channel, (row, column), highest, extractor, caption))
    trunk = extractor.trunk
    title = (
        f"Filter {channel} of {trunk.name}: a cell sees {trunk.taps[-1].grid.receptive_field} pixels (green) "
        f"at a shorter side of {extractor.scales[0]}"
    )
    return arrange(title, panels, COLUMNS)


def seen_box(place: CellPosition, grid: CellGrid, maps: FeatureMaps, side: int) -> Doubles:
    """(4,) xyxy in pixels of the image: the square of `side` pixels of the scaled image around a cell."""
    centre = grid.center0 + grid.stride * np.array([place[1], place[0]] * 2, np.float64)
    reach = (side - 1) / 2
    height, width = maps.sizes_hw[0]
    ratio = np.array([maps.size_hw[1] / width, maps.size_hw[0] / height] * 2)
    # Half-open: the last pixel seen is inside.
    box: Doubles = (centre + np.array([-reach, -reach, reach + 1, reach + 1])) * ratio
    return box


def _panel(
    path: Path, channel: int, place: CellPosition, highest: float, extractor: AnyExtractor, caption: str
) -> Panel:
    """A photograph over its map."""
    image = read_image(path)
    maps = extractor(image)
    tap = maps.taps[-1]
    grid = tap.grid
    photo = fit(Image.fromarray(image), WIDTH, HEIGHT)
    ratio = photo.width / image.shape[1]
    boxes = [seen_box(place, grid, maps, side) * ratio for side in (grid.receptive_field, grid.stride)]
    boxes[1] = _around(boxes[1])
    inside = np.clip(boxes, 0, [photo.width, photo.height] * 2)  # a frame that leaves the image is no frame
    drawn = Image.fromarray(draw_boxes(np.array(photo), inside, labels=[SEEN, CELL], width_px=2))
    shown = _draw_map(tap.maps[0][channel].float().numpy(), highest, photo.size, place)
    both = Image.new("RGB", (photo.width, 2 * photo.height + 4), "white")
    both.paste(drawn, (0, 0))
    both.paste(shown, (0, photo.height + 4))
    return both, caption


def _draw_map(features: Floats, highest: float, size: tuple[int, int], place: CellPosition) -> Image.Image:
    """Black where a filter is silent, white at its highest; the strongest cell framed."""
    grey = (np.clip(features / highest, 0, 1) * 255).astype(np.uint8)
    shown = Image.fromarray(grey).resize(size, Image.Resampling.NEAREST).convert("RGB")
    step = np.array([size[0] / features.shape[1], size[1] / features.shape[0]] * 2)
    row, column = place
    box = _around(np.array([column, row, column + 1, row + 1]) * step)
    return Image.fromarray(draw_boxes(np.array(shown), [box], labels=[CELL], width_px=2))


def _around(box: Doubles) -> Doubles:
    """The box, or a larger one around its middle: a frame must not hide a small cell."""
    middle, reach = (box[:2] + box[2:]) / 2, np.maximum((box[2:] - box[:2]) / 2, MIN_FRAME_PX / 2)
    return np.concatenate([middle - reach, middle + reach])
