"""Image formats: which are read here, how their files are named, and what to do about the others."""

import importlib.util
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

from PIL import features

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""Pillow's other readers are never tried: they are seldom used, and have been the way in for attacks."""

_JPEG = {".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo"}
_NETPBM = {".ppm", ".pgm", ".pbm", ".pnm"}
_AVIF = {".avif", ".avifs"}
_HEIC = {".heic", ".heif", ".hif"}
IMAGE_SUFFIXES = frozenset(_JPEG | _NETPBM | {".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
"""File names that are taken for images on every installation, compared in lower case."""

_HEIC_HINT = "HEIC images need a plugin: pip install pillow-heif (or convert them to JPEG)"
_AVIF_HINT = "this Pillow was built without AVIF: install Pillow from its wheels (or convert them to JPEG)"
_RAW = (
    ".arw", ".cr2", ".cr3", ".crw", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw",
)  # fmt: skip
UNREADABLE_HINTS: Mapping[str, str] = {
    **dict.fromkeys(sorted(_HEIC), _HEIC_HINT),
    **dict.fromkeys(sorted(_AVIF), _AVIF_HINT),
    **dict.fromkeys(_RAW, "raw camera files are not read: develop them to JPEG or TIFF"),
    **dict.fromkeys((".jp2", ".j2k", ".jpx", ".jpf"), "JPEG 2000 is not read: convert to JPEG or PNG"),
    ".jxl": "JPEG XL is not read: convert to JPEG or PNG",
    ".svg": "SVG drawings have no pixels: render them to PNG",
    ".psd": "Photoshop documents are not read: export them as JPEG or PNG",
    ".dcm": "DICOM files are not read: export them as PNG or TIFF",
    **dict.fromkeys((".exr", ".hdr"), "images of high dynamic range are not read: convert to PNG or TIFF"),
    **dict.fromkeys((".ico", ".icns", ".cur"), "icons are not read: convert to PNG"),
    **dict.fromkeys((".eps", ".wmf", ".emf"), "drawings have no pixels: render them to PNG"),
    **dict.fromkeys(
        (".pcx", ".dib", ".sgi", ".dds", ".xcf", ".qoi", ".jxr", ".wdp", ".fits"),
        "this format is not read: convert to PNG",
    ),
    **dict.fromkeys(
        (".mp4", ".mov", ".avi", ".mkv", ".webm"), "videos are not read: write their frames as JPEG or PNG"
    ),
    ".tga": "Targa is not read: convert to PNG",
}
"""What to do about images that are not read, by their suffix in lower case.

Those of `readable_suffixes` are read after all: ask there first, or use `unreadable_hint`.
"""


@cache
def reads_avif() -> bool:
    """Whether this Pillow decodes AVIF."""
    return bool(features.check("avif"))


@cache
def reads_heic() -> bool:
    """Whether the pillow-heif plugin is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def readable_suffixes() -> frozenset[str]:
    """Suffixes of image files that can be read on this installation, in lower case."""
    return IMAGE_SUFFIXES | (_AVIF if reads_avif() else set()) | (_HEIC if reads_heic() else set())


def readable_formats() -> tuple[str, ...]:
    """Names of the formats that can be read on this installation."""
    return FORMATS + ("AVIF",) * reads_avif() + ("HEIC",) * reads_heic()


def unreadable_hint(suffix: str) -> str | None:
    """What to do about an image of this suffix that cannot be read here; None if it can, or is no image."""
    suffix = suffix.lower()
    return None if suffix in readable_suffixes() else UNREADABLE_HINTS.get(suffix)


SIGNATURES = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*", re.DOTALL)
"""How JPEG, PNG, GIF, WEBP and TIFF begin."""


def begins_as_image(start: bytes) -> bool:
    """Whether a file begins as an image that can be read; of BMP and PPM the signs are too short to tell."""
    return bool(SIGNATURES.match(start))


def find_brand(start: bytes) -> str | None:
    """ "HEIC" or "AVIF" where a file begins as one (an ISO base media file, its brand in the first box)."""
    if start[4:8] != b"ftyp":
        return None
    brands = {start[i : i + 4] for i in (8, *range(16, min(len(start), 64), 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return (
        "HEIC" if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"} else None
    )


# --- PNG files whose texts are longer than Pillow reads ------------------------------------------


TEXT_LIMIT = "MAX_TEXT"
"""In Pillow's errors about texts and colour profiles: PngImagePlugin.MAX_TEXT_CHUNK or MAX_TEXT_MEMORY."""

LONG_BYTES = 1 << 20
"""Uncompressed texts up to this stay: Pillow looks for the orientation in them."""

_COMPRESSED = (b"zTXt", b"iCCP")


def without_long_text(content: bytes) -> bytes:
    """A PNG file without its long and its compressed texts and without its colour profile, none of which
    is used here."""
    kept, start = [content[:8]], 8
    while start + 8 <= len(content):
        size, kind = int.from_bytes(content[start : start + 4], "big"), content[start + 4 : start + 8]
        chunk = content[start : start + size + 12]
        if not _is_long_text(kind, chunk[8:-4]):
            kept.append(chunk)
        start += size + 12
    return b"".join(kept)


def _is_long_text(kind: bytes, data: bytes) -> bool:
    if kind == b"iTXt":
        _, _, rest = data.partition(b"\0")  # after the keyword: whether it is compressed
        return rest[:1] == b"\1" or len(data) > LONG_BYTES
    return kind in _COMPRESSED or (kind == b"tEXt" and len(data) > LONG_BYTES)


# --- Pillow's warnings ---------------------------------------------------------------------------


@contextmanager
def pillow_quiet() -> Iterator[None]:
    """No warnings of Pillow's from this thread within the block; afterwards, the filters are as they were.

    `warnings.catch_warnings` would do for one thread; with several, one restores the filters that
    another had set, and warnings of the whole program may stay hidden for good.
    """
    _readers.enter()
    _thread.depth = getattr(_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _thread.depth -= 1
        _readers.leave()


_thread = threading.local()


class _PillowModules:
    """The module pattern of the filter: Pillow's modules, on a thread that is reading.

    Copied to another process (scikit-learn sends the filters to its workers), it is a plain pattern.
    """

    pattern = r"(PIL|pillow_heif)\."

    def match(self, module: str) -> bool:
        return bool(getattr(_thread, "depth", 0) and re.match(self.pattern, module))

    def __reduce__(self) -> tuple[Any, ...]:
        return re.compile, (self.pattern,)


_FILTER = ("ignore", None, Warning, _PillowModules(), 0)


class _Readers:
    """Keeps the filter in front of the others while there are readers, on any thread."""

    def __init__(self) -> None:
        self.lock, self.count = threading.Lock(), 0
        self.changed: list[list[Any]] = []
        """Lists that hold the filter: `catch_warnings` puts a copy in place of the list, and it back."""

    def enter(self) -> None:
        with self.lock:
            self.count += 1
            filters = cast(list[Any], warnings.filters)
            if not filters or filters[0] is not _FILTER:
                _remove(filters)
                filters.insert(0, _FILTER)
            if not any(known is filters for known in self.changed):
                self.changed.append(filters)

    def leave(self) -> None:
        with self.lock:
            self.count -= 1
            if not self.count:
                for filters in [*self.changed, cast(list[Any], warnings.filters)]:
                    _remove(filters)
                self.changed.clear()


_readers = _Readers()


def _remove(filters: list[Any]) -> None:
    filters[:] = [entry for entry in filters if entry is not _FILTER]
