"""The paper's views of an image for classification, on (h, w, 3) uint8 arrays.

Pillow does all resizing: bilinear, with its support widened when it makes an image smaller, as
networks of the field were trained on. An image goes through every step as uint8, as it would
through files, and becomes a normalised tensor at the end.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from PIL import Image

from sppnet.arrays import Reals
from sppnet.data.image import ImageArray
from sppnet.errors import ConfigError, GeometryError
from sppnet.geometry.grid import VIEW_PX, scaled_size, view_boxes

if TYPE_CHECKING:
    import torch

CropRule = Literal["five", "random"]
ViewRule = Literal["crop", "full", "warp"]

SCALE_PX = 256
"""Shorter side before views are cut (paper section 3.1)."""

MAX_ASPECT = 4
"""Longest side in shorter sides. Beyond it images are squeezed, so that the cost of one stays bounded:
3000×20 pixels at a shorter side of 224 would else be 33,600 pixels long. Few photographs come near."""

LIGHTING_SIGMA = 0.1
LIGHTING_VALUES = np.array([0.2175, 0.0188, 0.0045])
LIGHTING_VECTORS = np.array(
    [
        [-0.5675, 0.7192, 0.4009],
        [-0.5808, -0.0045, -0.8140],
        [-0.5836, -0.6948, 0.4203],
    ]
)
"""Principal components of the RGB values of ImageNet in 0..1, a column each, with their eigenvalues: as
published with facebook/fb.resnet.torch (`imagenet.lua`) for the colour altering of AlexNet."""

SAMPLE_STREAM = 0
"""Keeps the draws of the transforms apart from those of the order (1) and of the sizes (2)."""


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of one image in one epoch: the same whoever loads the image, and in whatever order."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SAMPLE_STREAM, epoch, index)))


# --- steps ---------------------------------------------------------------------------------------


def shorter_size(size_hw: tuple[int, int], scale_px: int, max_aspect: int = MAX_ASPECT) -> tuple[int, int]:
    """(height, width) that `resize_shorter` gives: aspect kept up to `max_aspect`, squeezed beyond."""
    if max_aspect < 1:
        raise GeometryError(f"the greatest aspect must be at least 1; got {max_aspect}")
    height, width = scaled_size(size_hw, scale_px)
    longest = max_aspect * scale_px
    return min(height, longest), min(width, longest)


def resize_shorter(image: ImageArray, scale_px: int, max_aspect: int = MAX_ASPECT) -> ImageArray:
    """The image with its shorter side at `scale_px`, and its longer at most `max_aspect` times that."""
    return resize_to(image, shorter_size(image.shape[:2], scale_px, max_aspect))


def resize_to(image: ImageArray, size_hw: tuple[int, int]) -> ImageArray:
    """The image at exactly `size_hw`; the same array if it has that size."""
    if image.shape[:2] == size_hw:
        return image
    if min(size_hw) < 1:
        raise GeometryError(f"an image can be resized to 1×1 pixels or more; got {size_hw[0]}×{size_hw[1]}")
    resized = Image.fromarray(image).resize(size_hw[::-1], Image.Resampling.BILINEAR)
    return np.array(resized)


def crop(image: ImageArray, box: tuple[int, int, int, int]) -> ImageArray:
    """The pixels inside a box xyxy, half-open; a view of the array, not a copy."""
    left, top, right, bottom = box
    height, width = image.shape[:2]
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise GeometryError(f"a crop must lie inside the image of {height}×{width} (h×w); got xyxy {box}")
    return image[top:bottom, left:right]


def mirror(image: ImageArray) -> ImageArray:
    """The mirror image, contiguous. A channel at a time: by pixels numpy copies three numbers at a time."""
    mirrored = np.empty(image.shape, dtype=np.uint8)
    for channel in range(3):
        mirrored[:, :, channel] = image[:, ::-1, channel]
    return mirrored


def alter_lighting(image: ImageArray, weights: Reals) -> ImageArray:
    """Adds one colour to all pixels: the principal components, times their eigenvalues and `weights` (3,)."""
    shift = np.rint(LIGHTING_VECTORS @ (LIGHTING_VALUES * weights) * 255).astype(np.int16)
    height, width = image.shape[:2]
    rows = image.reshape(height, width * 3).astype(
        np.int16
    )  # by pixels numpy would go three numbers at a time
    rows += np.tile(shift, width)
    return np.clip(rows, 0, 255, out=rows).astype(np.uint8).reshape(image.shape)


def to_tensor(image: ImageArray, mean: Sequence[float], std: Sequence[float]) -> "torch.Tensor":
    """(3, h, w) float32: RGB in 0..1, less the mean, divided by the standard deviation."""
    import torch

    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ConfigError(f"mean and std are 3 numbers each, std above 0; got {mean!r} and {std!r}")
    # numpy, which stays on its thread: torch would start a team of threads for every loader thread.
    scale = 1 / (255 * np.asarray(std, dtype=np.float64))
    offset = np.asarray(mean, dtype=np.float64) / std
    planes = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)
    planes *= scale.astype(np.float32)[:, None, None]
    planes -= offset.astype(np.float32)[:, None, None]
    return torch.from_numpy(planes)


# --- views ---------------------------------------------------------------------------------------


def training_view(
    image: ImageArray,
    size_px: int,
    rng: np.random.Generator,
    *,
    scale_px: int = SCALE_PX,
    view_px: int = VIEW_PX,
    crop_rule: CropRule = "five",
    flip: bool = True,
    lighting_sigma: float = LIGHTING_SIGMA,
) -> ImageArray:
    """A view to train on, (size_px, size_px, 3): crop, flip, colour, and only then the input size.

    So an input of 180 pixels shows the same content as one of 224 (paper section 2.3), and the
    draws do not depend on the size. crop_rule "five": the centre or a corner of the entire image,
    each as likely (section 3.1); where some fall together, they count once. "random": anywhere.
    """
    scaled = resize_shorter(image, scale_px)
    view = crop(scaled, _draw_box(scaled.shape[:2], view_px, crop_rule, rng))
    mirrored = rng.random() < 0.5 and flip
    view = alter_lighting(view, rng.normal(0.0, 1.0, 3) * lighting_sigma)
    return resize_to(mirror(view) if mirrored else view, (size_px, size_px))


def _draw_box(
    size_hw: tuple[int, int], view_px: int, rule: CropRule, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    boxes = view_boxes(size_hw, 5, view_px)
    if rule == "five":
        return boxes[rng.integers(len(boxes))]
    if rule != "random":
        raise ConfigError(f"crops are {' or '.join(get_args(CropRule))}; got {rule!r}")
    top, left = (int(rng.integers(side - view_px, endpoint=True)) for side in size_hw)
    return left, top, left + view_px, top + view_px


def test_view(  # tests call it through the module: pytest would take the bare name for a test
    image: ImageArray,
    view: ViewRule,
    *,
    scale_px: int = SCALE_PX,  # noqa: PT028
    size_px: int = VIEW_PX,  # noqa: PT028
) -> ImageArray:
    """A view to test on (paper sections 3.1.4 and 4.4).

    "crop": shorter side at `scale_px`, the central 224×224, resized to `size_px` if that is another.
    "full": the whole image, its shorter side at `scale_px`; `size_px` plays no part.
    "warp": the whole image at `size_px`×`size_px`; `scale_px` plays no part.
    """
    if view == "warp":
        return resize_to(image, (size_px, size_px))
    if view not in get_args(ViewRule):
        raise ConfigError(f"views are {', '.join(get_args(ViewRule))}; got {view!r}")
    scaled = resize_shorter(image, scale_px)
    if view == "full":
        return scaled
    (box,) = view_boxes(scaled.shape[:2], 1, VIEW_PX)
    return resize_to(crop(scaled, box), (size_px, size_px))
