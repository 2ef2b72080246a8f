"""Files made bad: cut, flipped, overwritten, torn, renamed, and headers that promise what is not there.

`corpus()` is the images that the tests try; it is the same on every run. The same ways of damage serve
for annotations and model files.
"""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from PIL import Image

from pictures import SUFFIXES, Picture, Pixels, encode, noise, pictures

MANY = int(os.environ.get("SPPNET_DAMAGE", "1"))
CUTS, FLIPS, WRITES, TEARS = 60 * MANY, 60 * MANY, 24 * MANY, 24 * MANY
"""Of each picture that is damaged: how often in each way."""

RENAMED = ("rgb PNG", "rgb WEBP", "rgb BMP", "rgb TIFF", "rgb PPM", "grey GIF", "rgb jpeg baseline")
HUGE = 100_000
"""Pixels a side."""


@dataclass(frozen=True)
class Bad:
    """One file, and what it once was."""

    name: str
    """Of the file, which tells what was done to it."""
    data: bytes
    pixels: Pixels | None = None
    """What reading it must give, where it can be read at all; None where anything may come out."""
    tolerance: int = 0
    reason: str = ""
    """Part of the message, of files that must be refused."""


@cache
def corpus() -> tuple[Bad, ...]:
    """Damaged, renamed and hostile images, no two of one name."""
    rng = np.random.default_rng(0)
    return (*damaged(rng), *renamed(), *huge(), *nonsense())


def damaged(rng: np.random.Generator) -> Iterator[Bad]:
    chosen = [picture for picture in pictures() if not picture.name.startswith("turned")]
    for picture in [*chosen, *larger()]:
        # What is left of a file must give the picture or nothing: no half picture, no grey rest.
        for place, data in cuts(picture.data, rng, CUTS):
            yield Bad(f"cut-{place}-{picture.file_name}", data, picture.pixels, picture.tolerance)
        for way, make in (("flip", flips), ("write", writes), ("tear", tears)):
            count = {"flip": FLIPS, "write": WRITES, "tear": TEARS}[way]
            for number, data in enumerate(make(picture.data, rng, count)):
                yield Bad(f"{way}-{number}-{picture.file_name}", data)


def larger() -> list[Picture]:
    """Of more than one block of data: cut in the middle, some of it decodes."""
    pixels = noise(48, 64)
    image = Image.fromarray(pixels)
    formats = (("JPEG", {"quality": 90}), ("PNG", {}), ("WEBP", {"lossless": True}), ("GIF", {}),
               ("TIFF", {"compression": "tiff_lzw"}))  # fmt: skip
    found = []
    for name, options in formats:
        data = encode(image, name, **options)
        with Image.open(io.BytesIO(data)) as whole:
            decoded = np.array(whole.convert("RGB"))
        found.append(Picture(f"large {name}", name, data, decoded))
    return found


def renamed() -> Iterator[Bad]:
    """A format under every other's name: what counts is what is inside."""
    chosen = [picture for picture in pictures() if picture.name in RENAMED]
    for picture, suffix in product(chosen, SUFFIXES.values()):
        if suffix != SUFFIXES[picture.format]:
            name = f"{picture.format}-renamed{suffix}"
            yield Bad(name, picture.data, picture.pixels, picture.tolerance)


# --- ways of damage ------------------------------------------------------------------------------


def cuts(data: bytes, rng: np.random.Generator, count: int) -> Iterator[tuple[int, bytes]]:
    """The start of a file, of so many different lengths; those near both ends among them."""
    near = {1, 2, 8, len(data) - 8, len(data) - 2, len(data) - 1}
    drawn = rng.permutation(np.arange(1, len(data))).tolist()
    lengths = list(dict.fromkeys([*sorted(near & set(range(1, len(data)))), *drawn]))[:count]
    yield from ((length, data[:length]) for length in sorted(lengths))


def flips(data: bytes, rng: np.random.Generator, count: int) -> Iterator[bytes]:
    """From one bit to sixty-four changed; the headers more often than the rest."""
    for number in range(count):
        changed = bytearray(data)
        reach = min(len(data), 64) if number % 2 else len(data)
        for place in rng.integers(0, reach, 2 ** int(rng.integers(0, 7))).tolist():
            changed[place] ^= 1 << int(rng.integers(8))
        yield bytes(changed)


def writes(data: bytes, rng: np.random.Generator, count: int) -> Iterator[bytes]:
    """Numbers at the limits of their kind, somewhere."""
    extremes = (b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0" * 16, b"\x80\0\0\0")
    for number in range(count):
        written = extremes[number % len(extremes)]
        start = int(rng.integers(0, max(len(data) - len(written), 1)))
        yield data[:start] + written + data[start + len(written) :]


def tears(data: bytes, rng: np.random.Generator, count: int) -> Iterator[bytes]:
    """A piece lost, doubled, or moved to the end."""
    for number in range(count):
        start, end = sorted(rng.integers(0, len(data) + 1, 2).tolist())
        piece = data[start:end]
        yield (data[:start] + data[end:], data[:end] + piece + data[end:], data[:start] + data[end:] + piece)[
            number % 3
        ]


# --- hostile headers -----------------------------------------------------------------------------


def png(width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 8, kind: int = 2) -> bytes:
    """A PNG of any size and content, with right checksums."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in (header, *chunks, (b"IEND", b""))
    )


def tiff(*tags: tuple[int, int, int, int]) -> bytes:
    """A TIFF of one directory: tags of (number, type, count, value)."""
    body = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + struct.pack("<I", 0)


def jpeg(width: int, height: int) -> bytes:
    frame = struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\0"
    return b"\xff\xd8\xff\xc0" + frame + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0\0\xff\xd9"


def huge() -> Iterator[Bad]:
    """Sizes of which no pixel must be made."""
    zeros = zlib.compress(bytes(2**20), 9)
    large = ((256, 4, 1, HUGE), (257, 4, 1, HUGE), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
             (273, 4, 1, 8), (278, 4, 1, HUGE), (279, 4, 1, HUGE))  # fmt: skip
    bmp = (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, HUGE, HUGE, 1, 24, *[0] * 6)
    )
    vp8x = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + (2**24 - 1).to_bytes(3, "little") * 2
    webp = b"RIFF" + struct.pack("<I", 4 + len(vp8x)) + b"WEBP" + vp8x
    over = "over the limit|too large to be decoded|cannot be read|not an image of a known format"
    for name, data, reason in (
        ("huge.png", png(HUGE, HUGE, (b"IDAT", zeros)), over),
        ("huge-grey.png", png(HUGE, HUGE, (b"IDAT", zeros), kind=0), over),
        ("huge-beyond.png", png(2**31 - 1, 2**31 - 1, (b"IDAT", zeros)), over),
        ("huge-unsigned.png", png(2**32 - 1, 2**32 - 1, (b"IDAT", zeros)), over),
        ("huge-line.png", png(2**31 - 1, 1, (b"IDAT", zeros)), over),
        ("huge-just-over.png", png(9_460, 9_460, (b"IDAT", zeros)), over),
        (
            "huge.gif",
            b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0," + bytes(4) + b"\xff" * 4,
            over,
        ),
        ("huge.jpg", jpeg(65535, 65535), over),
        ("huge.tif", tiff(*large), over),
        ("huge.bmp", bmp, over),
        ("huge.webp", webp, over),
        ("huge.ppm", f"P6 {HUGE} {HUGE} 255\n".encode(), over),
        ("huge-digits.ppm", b"P6 " + b"9" * 5000 + b" 1 255\n", "cannot be read"),
        ("huge-tag.tif", tiff((256, 4, 2**32 - 1, 8), (257, 4, 1, 8)), "cannot be read|not an image"),
        ("huge-text.png", png(4, 4, (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26), 9))), "cannot be read"),
        (
            "huge-profile.png",
            png(4, 4, (b"iCCP", b"a\0\0" + zlib.compress(bytes(2**26), 9))),
            "cannot be read",
        ),
        ("little-data.png", png(9_000, 9_000, (b"IDAT", zlib.compress(b"\0", 9))), "cannot be read"),
    ):
        yield Bad(name, data, reason=reason)


def nonsense() -> Iterator[Bad]:
    """What is no image under an image's name."""
    texts = {
        "page": b"<!DOCTYPE html><html><body>404 not found</body></html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/hostname'/></svg>",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch ran) system\n",
        "pdf": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n",
        "zip": b"PK\x03\x04" + bytes(60),
        "script": b"#!/bin/sh\ntouch ran\n",
        "zeros": bytes(4096),
        "ones": b"\xff" * 4096,
        "words": b"word " * 1000,
    }
    for name, data in texts.items():
        yield Bad(f"{name}.jpg", data, reason="not an image of a known format")
    for suffix in SUFFIXES.values():
        yield Bad(f"empty{suffix}", b"", reason="is empty")
    rng = np.random.default_rng(7)
    starts = (
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"BM",
        b"II*\0",
        b"MM\0*",
        b"P6",
        b"RIFF____WEBP",
    )
    for number, start in enumerate(starts * 3):
        yield Bad(f"random-{number}.png", start + rng.bytes(int(rng.integers(1, 600))))
