"""Pixels of every kind as 8-bit RGB: what modes of Pillow and types of numpy hold, and transparency."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from sppnet.arrays import Array, Doubles
from sppnet.errors import ImageError

ImageArray: TypeAlias = npt.NDArray[np.uint8]
"""An image (h, w, 3), RGB."""


def to_rgb(image: Image.Image) -> ImageArray:
    """A decoded PIL image of any mode as (h, w, 3)."""
    if image.mode.startswith("I;16"):
        return _repeat_gray(_gray_of_16_bits(image))
    if image.mode == "I":
        return _repeat_gray(_from_16_bits(np.clip(np.asarray(image), 0, 65535)))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image), nan=0.0, posinf=255.0, neginf=0.0)
        return _repeat_gray(_from_unit(values if values.max() <= 1 else values / 255))
    image = image.convert("LA") if image.mode == "La" else image  # Pillow leads from La to LA only
    if image.has_transparency_data:
        return on_white(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


def _gray_of_16_bits(image: Image.Image) -> ImageArray:
    values = np.asarray(image)
    gray = _from_16_bits(values)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        gray[values == transparent] = 255
    return gray


def to_8_bits(array: Array) -> ImageArray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return _from_16_bits(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageError(
            f"image arrays and tensors hold uint8, uint16 or floats 0..1; got {array.dtype}. Convert it first"
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= -0.01 and high <= 1.01):  # a little beyond is what resizing does; NaN fails too
        raise ImageError(
            f"float images hold 0..1; got values from {low:g} to {high:g}. Divide by 255, or convert to uint8"
        )
    return _from_unit(array)


def _from_16_bits(values: Array) -> ImageArray:
    """0..65535 to 0..255, to the nearest: 257 times an 8-bit value gives that value back."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _from_unit(values: Array) -> ImageArray:
    scaled: Doubles = np.clip(values, 0, 1).astype(np.float64) * 255
    return (scaled + 0.5).astype(np.uint8)


def on_white(rgba: ImageArray) -> ImageArray:
    """(h, w, 4) laid on white, to the nearest of the 256 values."""
    color, alpha = rgba[:, :, :3].astype(np.uint32), rgba[:, :, 3:].astype(np.uint32)
    return ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _repeat_gray(gray: ImageArray) -> ImageArray:
    return np.repeat(gray[:, :, None], 3, axis=2)
