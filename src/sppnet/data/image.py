"""One image, from a file or from memory, as (h, w, 3) uint8 RGB.

Everything that decodes goes through here, so that hostile, damaged and odd files are met once:
few formats, the size checked before decoding, and any failure an ImageError that names the file.
"""

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeVar, Union, cast

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from sppnet.arrays import Array
from sppnet.data.files import find_images as find_images
from sppnet.data.image_formats import (
    FORMATS,
    TEXT_LIMIT,
    UNREADABLE_HINTS,
    find_brand,
    pillow_quiet,
    readable_formats,
    reads_avif,
    reads_heic,
    unreadable_hint,
    without_long_text,
)
from sppnet.data.image_formats import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from sppnet.data.image_formats import readable_suffixes as readable_suffixes
from sppnet.data.pixels import ImageArray as ImageArray
from sppnet.data.pixels import on_white, to_8_bits, to_rgb
from sppnet.errors import ImageError

if TYPE_CHECKING:
    import torch

ImageSource: TypeAlias = Union[str, Path, bytes, Image.Image, Array, "torch.Tensor"]

Result = TypeVar("Result")

IN_MEMORY = "the image in memory"
"""What messages call an image that no file name is known of."""

MAX_PIXELS = 89_478_485
"""Pillow's limit for an image, above which it warns of a decompression bomb."""

ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets an image upright, by its EXIF orientation; 5 and above exchange height and width."""


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of itself."""

    size_hw: tuple[int, int]
    """Of the upright image, in pixels."""
    mode: str
    """Pillow's name of the pixel layout, such as "RGB", "CMYK" or "I;16"."""
    format: str
    orientation: int = 1
    """EXIF's, 1 to 8: from 5 on the stored image lies on its side."""


def read_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> ImageArray:
    """An image as (h, w, 3) uint8 RGB, upright by its EXIF orientation.

    source: a path, the bytes of a file, a PIL image, an array (h, w), (h, w, 1), (h, w, 3) or
    (h, w, 4), or a tensor (1 | 3 | 4, h, w); arrays and tensors hold uint8, uint16 or floats 0..1.
    Transparency is laid on white; of an animation the first frame is read. 16-bit pixels, and 32-bit
    integers (which Pillow's readers use for 16 bits), map 0..65535 to 0..255. A file of floats
    holds 0..1 if nothing in it exceeds 1, else 0..255. What lies outside is clipped; NaN is black.
    Raises ImageError if the image cannot be read, or has more than `max_pixels` pixels (checked
    before decoding; Pillow itself refuses twice its MAX_IMAGE_PIXELS, whatever is asked here).
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    torch = sys.modules.get("torch")  # a tensor can only come from a program that imported it
    if torch is not None and isinstance(source, torch.Tensor):
        return _from_tensor(source, max_pixels)
    return _with_image(cast(Any, source), max_pixels, _decode)


def read_header(source: str | Path | bytes, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Size, mode and format of an image file; raises ImageError like `read_image`.

    Nothing is decoded but PNG files, of which Pillow looks for the orientation at the end.
    """
    return _with_image(source, max_pixels, _describe)


# --- files ---------------------------------------------------------------------------------------


def _with_image(
    source: str | Path | bytes | Image.Image, max_pixels: int, use: Callable[[Image.Image], Result]
) -> Result:
    """use(the image before decoding); whatever goes wrong becomes an ImageError naming the source."""
    if isinstance(source, Image.Image):
        with _naming(name := "the PIL image"):
            _check_pixels(source.size, name, max_pixels)
            return use(source)
    if not isinstance(source, (str, Path, bytes)):
        raise ImageError(
            f"an image must be a path, bytes, a PIL image, an array or a tensor; got {type(source).__name__}"
        )
    with _naming(name := IN_MEMORY if isinstance(source, bytes) else os.fspath(source)):
        _check_not_empty(source, name)
        with BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as stream:
            try:
                return _use_stream(stream, name, max_pixels, use)
            except ValueError as error:
                if TEXT_LIMIT not in str(error):
                    raise
                stream.seek(0)
                return _use_stream(BytesIO(without_long_text(stream.read())), name, max_pixels, use)


def _use_stream(stream: BinaryIO, name: str, max_pixels: int, use: Callable[[Image.Image], Result]) -> Result:
    with _open(stream, name) as image:
        _check_pixels(image.size, name, max_pixels)
        return use(image)


def _open(stream: BinaryIO, name: str) -> Image.Image:
    """The image before decoding. Given a name instead of a stream, Pillow would lay grey TIFF askew."""
    brand = find_brand(stream.read(64))
    stream.seek(0)
    if brand == "HEIC":
        if not reads_heic():
            raise ImageError(f"{name} cannot be read: {UNREADABLE_HINTS['.heic']}")
        import pillow_heif  # not registered with Pillow: what the process reads elsewhere stays as it is

        return cast(Image.Image, pillow_heif.HeifImageFile(stream))
    if brand == "AVIF":
        if not reads_avif():
            raise ImageError(f"{name} cannot be read: {UNREADABLE_HINTS['.avif']}")
        return Image.open(stream, formats=("AVIF",))
    return Image.open(stream, formats=FORMATS)


def _decode(image: Image.Image) -> ImageArray:
    image.load()
    method = ORIENTATIONS.get(_orientation(image))
    return to_rgb(image if method is None else image.transpose(method))


def _describe(image: Image.Image) -> ImageHeader:
    width, height = image.size
    # Pillow gives the size of a TIFF file upright already.
    orientation = _orientation(image)
    sideways = orientation >= 5 and image.format != "TIFF"
    size_hw = (width, height) if sideways else (height, width)
    return ImageHeader(size_hw, image.mode, image.format or "", orientation)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turns Pillow's failures, of which damaged files raise nearly every kind, into ImageError."""
    try:
        with pillow_quiet():
            yield
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name} is too large to be decoded safely: {error} Scale it down first, or raise both "
            "max_pixels and PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        ) from error
    except UnidentifiedImageError as error:
        hint = unreadable_hint(Path(name).suffix) or "check the file, or convert it to JPEG or PNG"
        known = ", ".join(readable_formats())
        raise ImageError(f"{name} is not an image of a known format ({known}): {hint}") from error
    except FileNotFoundError as error:
        advice = "download it first: images are read from files" if "://" in name else "check the path"
        raise ImageError(f"{name} does not exist; {advice}") from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        raise ImageError(f"{name} cannot be read as an image: {reason}") from error


def _check_not_empty(source: str | Path | bytes, name: str) -> None:
    if isinstance(source, bytes):
        size = len(source)
    else:
        found = os.stat(source)
        if stat.S_ISDIR(found.st_mode):
            raise ImageError(f"{name} is a folder, not an image file; name the images in it")
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for without end
            raise ImageError(f"{name} is not a regular file")
        size = found.st_size
    if size == 0:
        raise ImageError(f"{name} is empty (0 bytes); delete it or copy it again")


def _check_pixels(size_wh: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size_wh
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels: it is {width}×{height} (width×height)")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} is {width}×{height} (width×height), {width * height:,} pixels, over the limit of "
            f"{max_pixels:,}; scale it down first, or raise max_pixels if you trust it"
        )


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8. Damaged EXIF data is no reason to lose the photograph: it counts as 1."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:
        if TEXT_LIMIT in str(error):  # read again without that text, orientation and all
            raise
        return 1
    return value if isinstance(value, int) and value in ORIENTATIONS else 1


# --- arrays and tensors --------------------------------------------------------------------------


def _from_tensor(tensor: "torch.Tensor", max_pixels: int) -> ImageArray:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        raise ImageError(
            f"an image tensor must be (1 | 3 | 4, h, w); got {tuple(tensor.shape)}. Pass one image at a time"
        )
    array = tensor.detach().cpu()
    array = array.float() if array.is_floating_point() else array  # numpy has no bfloat16
    return _from_array(array.permute(1, 2, 0).numpy(), max_pixels)


def _from_array(array: Array, max_pixels: int) -> ImageArray:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ImageError(
            f"an image array must be (h, w), (h, w, 1), (h, w, 3) or (h, w, 4); got {array.shape}. "
            "Channels come last; pass one image at a time"
        )
    _check_pixels((array.shape[1], array.shape[0]), "the array", max_pixels)
    pixels = to_8_bits(array)
    if pixels.shape[2] == 4:
        return on_white(pixels)
    return np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
