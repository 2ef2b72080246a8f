"""Photographs as a browser can show them: upright, and small ones for the strip."""

import io
import threading
from collections import OrderedDict
from pathlib import Path

from PIL import Image

from sppnet.data.image import read_header, read_image

SHOWN_AS_THEY_ARE = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
"""Formats of browsers, which set them upright by EXIF themselves; others are sent as JPEG."""

THUMB_PX = 160
MAX_THUMBS = 4000


def picture(path: Path) -> tuple[bytes, str]:
    """A file that browsers show, and its type. Raises ImageError."""
    header = read_header(path)
    if header.format in SHOWN_AS_THEY_ARE:
        return path.read_bytes(), SHOWN_AS_THEY_ARE[header.format]
    return _jpeg(Image.fromarray(read_image(path)), 92), "image/jpeg"


class Thumbs:
    """Small pictures, the least used thrown out first. For any thread."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path) -> bytes:
        """A JPEG file. Raises ImageError."""
        with self._lock:
            if path in self._kept:
                self._kept.move_to_end(path)
                return self._kept[path]
        small = Image.fromarray(read_image(path))
        small.thumbnail((THUMB_PX, THUMB_PX))
        content = _jpeg(small, 75)
        with self._lock:
            self._kept[path] = content
            while len(self._kept) > MAX_THUMBS:
                self._kept.popitem(last=False)
        return content


def _jpeg(image: Image.Image, quality: int) -> bytes:
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=quality)
        return file.getvalue()
