"""Colour spaces for selective search: an image as three planes of 0..255.

Uijlings et al., IJCV 2013, section 3.2. A space of one plane repeats it, so that all have three.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sppnet.arrays import Array
from sppnet.jit import compiled, inner

ColourSpace = Literal["hsv", "lab", "rgi", "h", "i"]


_LINEAR = np.arange(256) / 255
_LINEAR = np.where(_LINEAR <= 0.04045, _LINEAR / 12.92, ((_LINEAR + 0.055) / 1.055) ** 2.4).astype(np.float32)
"""Light of an sRGB value."""

_STEPS = 4096
_LIGHT = np.arange(_STEPS + 2) / _STEPS
_CURVE = np.where(_LIGHT > 216 / 24389, np.cbrt(_LIGHT), (24389 / 27 * _LIGHT + 16) / 116).astype(np.float32)
"""CIE Lab's cube root, tabled: computed, it would take longer than all the rest."""

_TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
_TO_XYZ = (_TO_XYZ / _TO_XYZ.sum(axis=1, keepdims=True)).astype(np.float32)
"""sRGB's light to XYZ of its own white, D65."""


def to_planes(image: npt.NDArray[np.uint8], space: ColourSpace) -> Array:
    """(h, w, 3) RGB → (3, h, w) float32 of 0..255.

    hsv: hue / 360°, saturation, value.     lab: L* / 100, a* + 128, b* + 128 (D65).
    rgi: r and g as shares of r + g + b, and the mean of all three.     h: hue.     i: luma.
    """
    planes = np.empty((3, *image.shape[:2]), np.float32)
    if space == "lab":
        _to_lab(image, _LINEAR, _CURVE, _TO_XYZ, planes)
    elif space == "rgi":
        _to_rgi(image, planes)
    elif space == "i":
        planes[:] = image @ np.array([0.299, 0.587, 0.114], np.float32)
    else:
        _to_hsv(image, planes)
        if space == "h":
            planes[1:] = planes[0]
    return planes


@compiled
def _to_hsv(image: Array, planes: Array) -> None:
    height, width, _ = image.shape
    for y in range(height):
        for x in range(width):
            r, g, b = np.float32(image[y, x, 0]), np.float32(image[y, x, 1]), np.float32(image[y, x, 2])
            value = max(r, g, b)
            chroma = value - min(r, g, b)
            planes[0, y, x] = planes[1, y, x] = 0
            planes[2, y, x] = value
            if chroma > 0:
                sixth = np.float32(255 / 6) / chroma
                if value == r:
                    hue = (g - b) * sixth
                elif value == g:
                    hue = (b - r) * sixth + np.float32(255 / 3)
                else:
                    hue = (r - g) * sixth + np.float32(255 * 2 / 3)
                planes[0, y, x] = hue if hue >= 0 else hue + np.float32(255)
                planes[1, y, x] = np.float32(255) * chroma / value


@compiled
def _to_lab(image: Array, linear: Array, curve: Array, to_xyz: Array, planes: Array) -> None:
    height, width, _ = image.shape
    for y in range(height):
        for x in range(width):
            r, g, b = linear[image[y, x, 0]], linear[image[y, x, 1]], linear[image[y, x, 2]]
            fx = _bend(to_xyz[0, 0] * r + to_xyz[0, 1] * g + to_xyz[0, 2] * b, curve)
            fy = _bend(to_xyz[1, 0] * r + to_xyz[1, 1] * g + to_xyz[1, 2] * b, curve)
            fz = _bend(to_xyz[2, 0] * r + to_xyz[2, 1] * g + to_xyz[2, 2] * b, curve)
            planes[0, y, x] = (np.float32(116) * fy - np.float32(16)) * np.float32(2.55)
            planes[1, y, x] = np.float32(500) * (fx - fy) + np.float32(128)
            planes[2, y, x] = np.float32(200) * (fy - fz) + np.float32(128)


@inner
def _bend(light: Any, curve: Array) -> Any:
    place = light * np.float32(_STEPS)
    step = np.int32(place)  # white is 1, or 1 + 1e-7: the table has a step to spare
    return curve[step] + (place - np.float32(step)) * (curve[step + 1] - curve[step])


@compiled
def _to_rgi(image: Array, planes: Array) -> None:
    height, width, _ = image.shape
    for y in range(height):
        for x in range(width):
            r, g, b = np.float32(image[y, x, 0]), np.float32(image[y, x, 1]), np.float32(image[y, x, 2])
            total = r + g + b
            scale = np.float32(255) / total if total > 0 else np.float32(0)
            planes[0, y, x], planes[1, y, x], planes[2, y, x] = r * scale, g * scale, total / np.float32(3)
