"""File names for converted images: unique, with the suffix of an image, and fit for any layout."""

import os
import unicodedata
from collections.abc import Iterator
from pathlib import PurePath

from sppnet.data.files import image_stem, is_hidden, is_image_name
from sppnet.data.lookup import fold
from sppnet.data.problems import Problems
from sppnet.errors import UNPRINTABLE, printable

SUFFIXES = {
    "JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif",
    "PPM": ".ppm",
}  # fmt: skip
"""Given to files without the suffix of an image, by Pillow's name of their format."""

MAX_BYTES = 255
"""Of a file name, on all common file systems."""

RESERVED_BYTES = 8
"""Left for a number behind the name, and for suffixes that are longer than the image's."""


class FileNames:
    """Chooses a name for every image; `problems` tells of those that had to change in kind."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.problems = Problems()

    def choose(self, path: PurePath, format: str) -> str:
        """The file's own name if it can be kept; else with its folders before it, or a number after it.

        path: below the root of the data set. format: Pillow's name of the image's format.
        """
        own = _clean(path.name, format)
        if own != path.name:
            example = f"{printable(path.name)} (now {own})"
            self.problems.count(
                "images have a name that not all layouts can hold", "they are renamed", example
            )
        name = next(name for name in _candidates(path, own, format) if self._is_free(name))
        self.taken.add(_key(name))
        return name

    def _is_free(self, name: str) -> bool:
        return _key(name) not in self.taken and len(os.fsencode(name)) <= MAX_BYTES


def _candidates(path: PurePath, own: str, format: str) -> Iterator[str]:
    yield own
    joined = "_".join(path.parts)
    if len(os.fsencode(joined)) + RESERVED_BYTES <= MAX_BYTES:
        yield _clean(joined, format)
    plain = PurePath(own)
    number = 2
    while True:
        yield f"{plain.stem}_{number}{plain.suffix}"
        number += 1


def _key(name: str) -> str:
    """Equal for names whose annotation files would be one, on some system."""
    return fold(PurePath(name).stem)


def _clean(name: str, format: str) -> str:
    """On one line, without what a reader strips or takes for a folder, and not too long."""
    suffix = PurePath(name).suffix if is_image_name(PurePath(name)) else SUFFIXES.get(format, ".jpg")
    stem = image_stem(name)
    plain = "".join("_" if _is_odd(sign) else sign for sign in stem)
    plain = f"_{plain}" if is_hidden(plain) or plain != plain.lstrip() or not plain else plain
    plain = f"{plain}_" if plain != plain.rstrip() else plain
    room = MAX_BYTES - RESERVED_BYTES - len(suffix)
    if len(os.fsencode(stem + suffix)) > MAX_BYTES:
        plain = os.fsencode(plain)[:room].decode(errors="ignore").rstrip()
    return plain + suffix


def _is_odd(sign: str) -> bool:
    return sign in '\\/:*?"<>|' or unicodedata.category(sign) in UNPRINTABLE
