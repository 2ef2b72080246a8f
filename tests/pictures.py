"""Small sound images of every odd kind, each with the pixels that reading it must give.

All are made here. What is expected comes from arithmetic on the array they are made of, never from a
conversion by Pillow.
"""

import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

SUFFIXES = {
    "JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif",
    "PPM": ".ppm",
}  # fmt: skip
LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {}, "WEBP": {"lossless": True, "exact": True}, "BMP": {}, "TIFF": {}, "PPM": {}
}  # fmt: skip
ORIENTED = ("JPEG", "PNG", "WEBP", "TIFF")


@dataclass(frozen=True)
class Picture:
    """One image file."""

    name: str
    format: str
    data: bytes
    pixels: Pixels
    """(h, w, 3) what must be read."""
    tolerance: int = 0
    """How far a value may be off: of lossy formats alone."""

    @property
    def file_name(self) -> str:
        return f"{self.name} {self.format}".replace(" ", "-") + SUFFIXES[self.format]


def pictures() -> list[Picture]:
    """Every kind once."""
    return [*plain(), *grey(), *transparent(), *deep(), *moving(), *printed(), *rotated()]


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def noise(height: int = 6, width: int = 9, channels: int = 3, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def repeat(gray: npt.NDArray[Any]) -> Pixels:
    return np.repeat(gray.astype(np.uint8)[:, :, None], 3, axis=2)


def on_white(color: npt.NDArray[Any], alpha: npt.NDArray[Any]) -> Pixels:
    """(h, w, 3) and (h, w) 0..255; halves go up."""
    share = alpha[:, :, None] / 255.0
    return np.floor(color * share + 255.0 * (1.0 - share) + 0.5).astype(np.uint8)


# --- kinds ---------------------------------------------------------------------------------------


def plain() -> list[Picture]:
    pixels = noise()
    image = Image.fromarray(pixels)
    found = [Picture(f"rgb {name}", name, encode(image, name, **LOSSLESS[name]), pixels) for name in LOSSLESS]
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        data = encode(image, "TIFF", compression=compression)
        found.append(Picture(f"rgb {compression}", "TIFF", data, pixels))
    # A lossy format gives a flat colour back nearly as it was.
    flat = np.full((16, 24, 3), (200, 120, 40), np.uint8)
    for name, options in (("baseline", {}), ("progressive", {"progressive": True})):
        data = encode(Image.fromarray(flat), "JPEG", quality=95, **options)
        found.append(Picture(f"rgb jpeg {name}", "JPEG", data, flat, 3))
    found.append(Picture("rgb webp lossy", "WEBP", encode(Image.fromarray(flat), "WEBP"), flat, 6))
    found.append(Picture("one pixel", "PNG", encode(Image.fromarray(pixels[:1, :1]), "PNG"), pixels[:1, :1]))
    long = noise(2, 3000)
    found.append(Picture("a long strip", "PNG", encode(Image.fromarray(long), "PNG"), long))
    return found


def grey() -> list[Picture]:
    gray = noise()[:, :, 0]
    two = (gray > 127).astype(np.uint8) * 255
    table = noise(1, 16, 3, seed=1)[0]
    indices = (gray % 16).astype(np.uint8)
    painted = Image.fromarray(indices)
    painted.putpalette(table.tobytes())
    return [
        *(
            Picture(f"grey {f}", f, encode(Image.fromarray(gray), f), repeat(gray))
            for f in ("PNG", "BMP", "GIF")
        ),
        *(
            Picture(f"two tones {f}", f, encode(Image.fromarray(two).convert("1"), f), repeat(two))
            for f in ("PNG", "BMP", "PPM", "TIFF")
        ),
        *(
            Picture(f"palette {f}", f, encode(painted, f), table[indices])
            for f in ("PNG", "BMP", "GIF", "TIFF")
        ),
    ]


def transparent() -> list[Picture]:
    rgba = noise(channels=4)
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    expected = on_white(rgba[:, :, :3], rgba[:, :, 3])
    found = [
        Picture(f"alpha {f}", f, encode(Image.fromarray(rgba), f, **LOSSLESS[f]), expected)
        for f in ("PNG", "WEBP", "TIFF")
    ]
    gray, alpha = rgba[:, :, 0], rgba[:, :, 3]
    both = Image.fromarray(np.stack([gray, alpha], 2))
    found.append(Picture("grey and alpha", "PNG", encode(both, "PNG"), on_white(repeat(gray), alpha)))
    table, indices = noise(1, 4, 3, seed=2)[0], (gray % 4).astype(np.uint8)
    painted = Image.fromarray(indices)
    painted.putpalette(table.tobytes())
    alphas = np.array([255, 0, 51, 204], np.uint8)
    data = encode(painted, "PNG", transparency=alphas.tobytes())
    found.append(Picture("palette and alphas", "PNG", data, on_white(table[indices], alphas[indices])))
    clear = np.where((indices == 1)[:, :, None], 255, table[indices]).astype(np.uint8)
    found.append(Picture("palette, one clear", "GIF", encode(painted, "GIF", transparency=1), clear))
    return found


def deep() -> list[Picture]:
    values = np.random.default_rng(3).integers(0, 65536, (6, 9)).astype(np.uint16)
    expected = repeat(np.floor(values / 257.0 + 0.5))
    shares = np.linspace(0, 1, 54, dtype=np.float32).reshape(6, 9)
    pgm = b"P5 9 6 65535\n" + struct.pack(">54H", *values.ravel().tolist())
    floats = repeat(np.floor(shares.astype(np.float64) * 255 + 0.5))
    return [
        Picture("16 bits PNG", "PNG", encode(Image.fromarray(values), "PNG"), expected),
        Picture("16 bits TIFF", "TIFF", encode(Image.fromarray(values), "TIFF"), expected),
        Picture("16 bits PPM", "PPM", pgm, expected),
        Picture("floats", "TIFF", encode(Image.fromarray(shares), "TIFF"), floats),
    ]


def moving() -> list[Picture]:
    """Of which the first frame counts."""
    table = np.array([[255, 0, 0], [0, 0, 255], [0, 255, 0]], np.uint8)
    frames = [Image.fromarray(np.broadcast_to(color, (6, 9, 3)).copy()) for color in table]
    first = np.asarray(frames[0])
    found = []
    for name in ("GIF", "PNG", "WEBP", "TIFF"):
        data = encode(frames[0], name, save_all=True, append_images=frames[1:], **LOSSLESS.get(name, {}))
        found.append(Picture(f"animated {name}", name, data, first))
    return found


def printed() -> list[Picture]:
    cmyk = np.zeros((8, 8, 4), np.uint8)
    cmyk[:, 4:] = (255, 255, 0, 0)  # cyan and magenta are blue
    expected = np.full((8, 8, 3), 255, np.uint8)
    expected[:, 4:] = (0, 0, 255)
    image = Image.frombytes("CMYK", (8, 8), cmyk.tobytes())
    return [
        Picture("cmyk TIFF", "TIFF", encode(image, "TIFF"), expected),
        Picture("cmyk JPEG", "JPEG", encode(image, "JPEG", quality=100, subsampling=0), expected, 3),
    ]


TURNED = {  # what brings row 0 and column 0 to where the EXIF standard's table has them
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: np.swapaxes(stored, 0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(np.swapaxes(stored, 0, 1), 2),
    8: lambda stored: np.rot90(stored, 1),
}


def rotated() -> list[Picture]:
    # Flat quarters survive JPEG: blocks of 8 pixels, each of one colour.
    stored = noise(2, 3, seed=4).repeat(8, axis=0).repeat(8, axis=1)
    found = []
    for name in ORIENTED:
        options = LOSSLESS.get(name, {"quality": 100, "subsampling": 0})
        for orientation, turn in TURNED.items():
            exif = Image.Exif()
            exif[0x0112] = orientation
            data = encode(Image.fromarray(stored), name, exif=exif, **options)
            pixels = np.ascontiguousarray(turn(stored))
            found.append(Picture(f"turned {orientation}", name, data, pixels, 4 * (name == "JPEG")))
            if name == "TIFF":  # whose grey pixels Pillow may take from the file as they lie there
                gray = encode(Image.fromarray(stored[:, :, 0]), name, exif=exif)
                grays = repeat(np.ascontiguousarray(turn(stored[:, :, 0])))
                found.append(Picture(f"turned {orientation} grey", name, gray, grays))
    return found
