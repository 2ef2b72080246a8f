"""Reading images: odd modes against per-pixel arithmetic, damaged and hostile files against their message."""

import io
import os
import pickle
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageFile, PngImagePlugin

from sppnet.data import image_formats
from sppnet.data.image import ImageHeader, find_images, read_header, read_image
from sppnet.data.image_formats import pillow_quiet, readable_suffixes, unreadable_hint
from sppnet.errors import DataError, ImageError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def encode(image: Image.Image, format: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


# --- sources -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size_hw", [pytest.param((1, 1), id="a single pixel"), pytest.param((20, 3000), id="3000×20")]
)
@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_files_come_back_pixel_for_pixel(tmp_path, size_hw, format):
    pixels = noise(*size_hw)
    path = tmp_path / "image"
    options = {"lossless": True} if format == "WEBP" else {}
    path.write_bytes(encode(Image.fromarray(pixels), format, **options))
    before = path.read_bytes()
    for source in (path, str(path), before):
        read = read_image(source)
        assert read.dtype == np.uint8
        assert np.array_equal(read, pixels)
    assert path.read_bytes() == before


PIXELS = noise(5, 7)
GRAY = PIXELS[:, :, 0]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(PIXELS, PIXELS, id="an RGB array is taken as it is"),
        pytest.param(PIXELS[:, ::-1], PIXELS[:, ::-1], id="an array with a negative stride"),
        pytest.param(GRAY, np.stack([GRAY] * 3, 2), id="a grey array is repeated"),
        pytest.param(GRAY[:, :, None], np.stack([GRAY] * 3, 2), id="a grey array with a channel axis"),
        pytest.param(PIXELS.astype(np.uint16) * 257, PIXELS, id="16-bit values are 257 times 8-bit ones"),
        pytest.param(PIXELS / 255, PIXELS, id="floats 0..1 in float64"),
        pytest.param((PIXELS / 255).astype(np.float32), PIXELS, id="floats 0..1 in float32"),
        pytest.param(torch.from_numpy(PIXELS).permute(2, 0, 1), PIXELS, id="a uint8 tensor"),
        pytest.param(torch.from_numpy(PIXELS).permute(2, 0, 1) / 255, PIXELS, id="a float tensor"),
        pytest.param(torch.from_numpy(GRAY)[None], np.stack([GRAY] * 3, 2), id="a tensor of one channel"),
        pytest.param(
            (torch.from_numpy(PIXELS // 128 * 255).permute(2, 0, 1) / 255).bfloat16().requires_grad_(),
            PIXELS // 128 * 255,
            id="a bfloat16 tensor that requires a gradient",
        ),
        pytest.param(Image.fromarray(PIXELS), PIXELS, id="a PIL image"),
    ],
)
def test_images_in_memory(source, expected):
    read = read_image(source)
    assert read.shape == expected.shape
    assert np.array_equal(read, expected)
    assert read.flags.writeable
    assert not np.shares_memory(read, PIXELS)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param(np.zeros((3, 8, 8), np.uint8), "Channels come last", id="channels first in an array"),
        pytest.param(np.zeros((0, 4, 3), np.uint8), "no pixels", id="an array without rows"),
        pytest.param(np.zeros((2, 8, 8, 3), np.uint8), "one image at a time", id="a batch"),
        pytest.param(torch.zeros(2, 3, 8, 8), "one image at a time", id="a batch of tensors"),
        pytest.param(np.full((2, 2, 3), 200.0), "Divide by 255", id="floats 0..255"),
        pytest.param(np.full((2, 2), np.nan), "0..1", id="NaN"),
        pytest.param(np.zeros((2, 2), np.int64), "got int64", id="64-bit integers"),
        pytest.param(7, "got int", id="a number"),
    ],
)
def test_what_is_no_image_in_memory_is_refused(source, message):
    with pytest.raises(ImageError, match=message):
        read_image(source)


# --- modes ---------------------------------------------------------------------------------------


def on_white(color: int, alpha: int) -> int:
    return round(color * alpha / 255 + 255 - alpha)


def palette_image(transparency) -> bytes:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    return encode(image, "PNG", **({} if transparency is None else {"transparency": transparency}))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(
            encode(Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"), "PNG"),
            [[0] * 3, [255] * 3],
            id="1: two tones",
        ),
        pytest.param(encode(Image.new("L", (1, 1), 77), "PNG"), [[77] * 3], id="L: grey"),
        pytest.param(
            encode(Image.new("LA", (1, 1), (100, 51)), "PNG"), [[on_white(100, 51)] * 3], id="LA: on white"
        ),
        pytest.param(
            Image.new("LA", (1, 1), (100, 51)).convert("La"),
            [[on_white(100, 51)] * 3],
            id="La: premultiplied grey",
        ),
        pytest.param(palette_image(None), [[10, 20, 30], [40, 50, 60], [70, 80, 90]], id="P: palette alone"),
        pytest.param(
            palette_image(1), [[10, 20, 30], [255] * 3, [70, 80, 90]], id="P: one transparent colour"
        ),
        pytest.param(
            palette_image(b"\xff\x00\x33"),
            [[10, 20, 30], [255] * 3, [on_white(c, 51) for c in (70, 80, 90)]],
            id="P: an alpha for each colour",
        ),
        pytest.param(
            Image.open(io.BytesIO(palette_image(b"\xff\x00\xff"))).convert("PA"),
            [[10, 20, 30], [255] * 3, [70, 80, 90]],
            id="PA: palette and alpha",
        ),
        pytest.param(
            encode(Image.new("RGBA", (1, 1), (9, 99, 199, 128)), "WEBP", lossless=True, exact=True),
            [[on_white(c, 128) for c in (9, 99, 199)]],
            id="RGBA: half transparent",
        ),
        pytest.param(
            np.array([[[9, 99, 199, 0]]], np.uint8), [[255] * 3], id="RGBA: wholly transparent, an array"
        ),
        pytest.param(
            encode(Image.new("RGB", (2, 1), (9, 99, 199)), "PNG", transparency=(9, 99, 199)),
            [[255] * 3] * 2,
            id="RGB: one colour declared transparent",
        ),
        pytest.param(Image.new("RGBX", (1, 1), (1, 2, 3, 0)), [[1, 2, 3]], id="RGBX: padding is not alpha"),
        pytest.param(
            encode(Image.new("CMYK", (1, 1), (0, 0, 0, 0)), "TIFF"), [[255] * 3], id="CMYK: no ink is white"
        ),
        pytest.param(
            encode(Image.new("CMYK", (8, 8), (255, 255, 0, 0)), "JPEG", quality=100),
            [[0, 0, 255]] * 64,
            id="CMYK: cyan and magenta in a JPEG are blue",
        ),
        pytest.param(Image.new("YCbCr", (1, 1), (120, 128, 128)), [[120] * 3], id="YCbCr: neutral grey"),
        pytest.param(Image.new("HSV", (1, 1), (0, 255, 255)), [[255, 0, 0]], id="HSV: red"),
        pytest.param(Image.new("LAB", (1, 1), (255, 128, 128)), [[255] * 3], id="LAB: white"),
        pytest.param(
            encode(Image.fromarray(np.array([[0, 257, 128 * 257 + 128, 65535]], np.uint16)), "PNG"),
            [[0] * 3, [1] * 3, [128] * 3, [255] * 3],
            id="I;16: 0..65535, to the nearest",
        ),
        pytest.param(
            encode(Image.fromarray(np.array([[300, 65535]], np.uint16)), "PNG", transparency=300),
            [[255] * 3, [255] * 3],
            id="I;16: one value declared transparent",
        ),
        pytest.param(Image.new("I;16B", (1, 1), 40 * 257), [[40] * 3], id="I;16B: the other byte order"),
        pytest.param(
            b"P5 2 1 65535\n" + struct.pack(">2H", 257 * 9, 65535), [[9] * 3, [255] * 3], id="I: a 16-bit PGM"
        ),
        pytest.param(
            Image.fromarray(np.array([[-5, 70000]], np.int32)), [[0] * 3, [255] * 3], id="I: clipped"
        ),
        pytest.param(
            encode(Image.fromarray(np.array([[0, 0.2, 1]], np.float32)), "TIFF"),
            [[0] * 3, [51] * 3, [255] * 3],
            id="F: 0..1",
        ),
        pytest.param(
            Image.fromarray(np.array([[-3, 51, 300, np.nan]], np.float32)),
            [[0] * 3, [51] * 3, [255] * 3, [0] * 3],
            id="F: 0..255, clipped, NaN black",
        ),
    ],
)
def test_every_mode_becomes_rgb(source, expected):
    read = read_image(source)
    assert abs(read.reshape(-1, 3).astype(int) - np.array(expected)).max() <= (1 if is_lossy(source) else 0)


def is_lossy(source) -> bool:
    """JPEG, and what Pillow keeps premultiplied or in another colour space, may round by one."""
    if isinstance(source, bytes):
        return source.startswith(b"\xff\xd8")
    return isinstance(source, Image.Image) and source.mode in ("La", "LAB", "YCbCr")


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(format):
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(red, format, save_all=True, append_images=[blue], **options)
    assert np.array_equal(read_image(data), np.array(red))


# --- orientation ---------------------------------------------------------------------------------

UPRIGHT = {  # what brings a stored image upright, by the EXIF standard's table of row 0 and column 0
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: stored[::-1].transpose(1, 0, 2),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: stored[:, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_images_are_set_upright(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = noise(2, 3).repeat(8, axis=0).repeat(8, axis=1)
    options = {"lossless": True} if format == "WEBP" else {"quality": 95} if format == "JPEG" else {}
    data = encode(Image.fromarray(stored), format, exif=exif, **options)
    decoded = stored
    if format == "JPEG":
        decoded = read_image(encode(Image.fromarray(stored), format, **options))
    expected = UPRIGHT[orientation](decoded)
    assert np.array_equal(read_image(data), expected)
    assert read_header(data).size_hw == expected.shape[:2]
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(read_image(image), expected)


@pytest.mark.parametrize("orientation", [pytest.param(0, id="zero"), pytest.param(9, id="nine")])
def test_an_orientation_that_is_none_is_ignored(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = noise(2, 3)
    assert np.array_equal(read_image(encode(Image.fromarray(pixels), "PNG", exif=exif)), pixels)


# --- damaged and hostile -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "is empty", id="an empty file"),
        pytest.param(b"<html>not found</html>", "not an image of a known format", id="a web page"),
        pytest.param(encode(Image.fromarray(noise(64, 64)), "JPEG")[:1500], "truncated", id="half a JPEG"),
        pytest.param(encode(Image.fromarray(noise(64, 64)), "PNG")[:1500], "truncated", id="half a PNG"),
        pytest.param(
            encode(Image.fromarray(noise(64, 64)), "WEBP")[:900],
            "cannot be read|known format",
            id="half a WebP",
        ),
        pytest.param(
            encode(Image.fromarray(noise(64, 64)), "TIFF")[:1500],
            "cannot be read|known format",
            id="half a TIFF",
        ),
        pytest.param(
            encode(Image.fromarray(noise(64, 64)), "JPEG")[:8],
            "cannot be read|known format",
            id="eight bytes",
        ),
        pytest.param(
            encode(Image.new("L", (4, 4)), "ICO"), "not an image of a known format", id="a format left out"
        ),
        pytest.param(png_header(10_000, 9_000), "10000×9000.*90,000,000 pixels.*89,478,485", id="a bomb"),
        pytest.param(
            png_header(60_000, 60_000),
            "too large.*3600000000.*Scale it down",
            id="a bomb that Pillow refuses",
        ),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, content, message):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"photo\.jpg.*({message})"):
        read_image(path)
    assert path.read_bytes() == content


def test_addresses_are_no_files():
    with pytest.raises(ImageError, match=r"https://example\.com/a\.png does not exist; download it first"):
        read_image("https://example.com/a.png")
    with pytest.raises(DataError, match="is an address; images are read from files: download it first"):
        find_images("https://example.com/a.png")


def test_paths_that_are_no_files_are_named(tmp_path):
    with pytest.raises(ImageError, match=r"missing\.png does not exist"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image(str(tmp_path / "pipe.jpg"))


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(encode(Image.fromarray(noise(10, 11)), "PNG"), id="a file"),
        pytest.param(Image.fromarray(noise(10, 11)), id="a PIL image"),
        pytest.param(noise(10, 11), id="an array"),
        pytest.param(torch.zeros(3, 10, 11), id="a tensor"),
    ],
)
def test_the_pixel_limit_holds_for_every_source(source):
    assert read_image(source, max_pixels=110).shape == (10, 11, 3)
    with pytest.raises(ImageError, match=r"11×10.*110 pixels.*limit of 109"):
        read_image(source, max_pixels=109)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="over the limit"):
        read_image(png_header(10_000, 9_000))


def test_a_raised_limit_reads_on_without_a_warning():
    data = b"P6 10000 9000 255\n"  # no pixels follow, and a header needs none
    assert read_header(data, max_pixels=90_000_000).size_hw == (9_000, 10_000)


def damaged_exif() -> bytes:
    """A JPEG whose EXIF directory promises more entries than there are; Pillow warns of it."""
    body = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 40) + struct.pack(">HHII", 0x0112, 3, 1, 6 << 16)
    return encode(Image.fromarray(noise(16, 24)), "JPEG", exif=body)


def test_damaged_exif_does_not_cost_the_photograph():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Image.open(io.BytesIO(damaged_exif())) as image:
            image.getexif()
    assert caught, "Pillow should warn of this file, or the test proves nothing"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read_image(damaged_exif()).shape in {(16, 24, 3), (24, 16, 3)}
    assert caught == []


def test_warnings_of_pillow_are_hidden_while_reading_and_never_else():
    stop = threading.Event()

    def keep_reading() -> None:
        while not stop.is_set():
            read_image(damaged_exif())

    threads = [threading.Thread(target=keep_reading) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                with Image.open(io.BytesIO(damaged_exif())) as image:
                    image.getexif()
            assert caught
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for _ in range(3):  # whoever puts a filter in front, ours goes before it, and is gone afterwards
        warnings.simplefilter("error")
        before = list(warnings.filters)
        read_image(damaged_exif())
        assert warnings.filters == before
    with pytest.warns(UserWarning, match="from us"):
        warnings.warn("from us", UserWarning, stacklevel=1)


def test_filters_are_as_before_whoever_changes_them_meanwhile():
    before = list(warnings.filters)
    with pillow_quiet():
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            with pillow_quiet():
                assert warnings.filters[0] is not before[0]
        assert warnings.filters != before
        copied = pickle.loads(pickle.dumps(warnings.filters[0]))  # noqa: S301
        assert copied[3].match("PIL.TiffImagePlugin")
        assert not copied[3].match("sklearn.svm")
    assert warnings.filters == before


def with_text(kind: bytes, data: bytes, after: bool = False) -> bytes:
    """A PNG file with a chunk before or after its pixels."""
    png = encode(Image.fromarray(noise(10, 12)), "PNG")
    chunk = len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
    place = png.index(b"IEND") - 4 if after else 33
    return png[:place] + chunk + png[place:]


LONG = zlib.compress(b"a" * (3 << 20))


@pytest.mark.parametrize("after", [False, True], ids=["before the pixels", "after the pixels"])
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        pytest.param(b"zTXt", b"prompt\0\0" + LONG, id="compressed text"),
        pytest.param(b"iTXt", b"workflow\0\1\0\0\0" + LONG, id="compressed international text"),
        pytest.param(b"iCCP", b"profile\0\0" + LONG, id="a colour profile"),
        pytest.param(b"tEXt", b"notes\0" + b"a" * (70 << 20), id="plain text"),
    ],
)
def test_a_png_with_a_long_text_is_read(kind, data, after):
    content = with_text(kind, data, after)
    assert np.array_equal(read_image(content), noise(10, 12))
    assert read_header(content).size_hw == (10, 12)


def test_the_orientation_is_kept_where_a_text_is_left_out():
    data = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    turned = with_text(b"iTXt", data)
    chunk = b"note\0\0" + LONG
    long = len(chunk).to_bytes(4, "big") + b"zTXt" + chunk + zlib.crc32(b"zTXt" + chunk).to_bytes(4, "big")
    both = turned[:33] + long + turned[33:]
    assert read_header(turned).size_hw == read_header(both).size_hw == (12, 10)
    assert np.array_equal(read_image(both), read_image(turned))


# --- HEIC and AVIF -------------------------------------------------------------------------------

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


def test_avif_is_read():
    image = Image.new("RGB", (30, 20), (200, 30, 60))
    content = encode(image, "AVIF", quality=100)
    assert np.abs(read_image(content).astype(int) - (200, 30, 60)).max() <= 3
    assert read_header(content) == ImageHeader((20, 30), "RGB", "AVIF")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    assert read_header(encode(image, "AVIF", exif=exif)).size_hw == (30, 20)


def test_heic_without_a_plugin_is_named_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("sppnet.data.image.reads_heic", lambda: False)
    path = tmp_path / "IMG_0001.JPG"  # phones' exporters rename without converting
    path.write_bytes(HEIC)
    for read in (read_image, read_header):
        with pytest.raises(ImageError, match=r"IMG_0001\.JPG.*HEIC.*pip install pillow-heif"):
            read(path)


@pytest.fixture
def encode_heic():
    """A HEIC file as pillow_heif writes it."""
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")

    def encode(image: Image.Image, **options) -> bytes:
        stream = io.BytesIO()
        pillow_heif.from_pillow(image).save(stream, quality=100, **options)
        return stream.getvalue()

    return encode


def patches(mode: str = "RGB") -> Image.Image:
    """96×64 (w×h), patches of one colour: what HEIC compresses nearly without loss."""
    return Image.fromarray(noise(4, 6).repeat(16, 0).repeat(16, 1)).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_heic_is_read_without_registering_the_plugin(tmp_path, encode_heic, mode):
    image, known = patches(mode), set(Image.OPEN)
    (tmp_path / "IMG_1.HEIC").write_bytes(encode_heic(image))
    read = read_image(tmp_path / "IMG_1.HEIC")
    assert np.abs(read.astype(int) - read_image(image)).max() <= 4
    assert read_header(tmp_path / "IMG_1.HEIC").size_hw == (64, 96)
    assert find_images(tmp_path) == [tmp_path / "IMG_1.HEIC"]
    assert set(Image.OPEN) - known <= {"AVIF", *Image.ID}
    assert "HEIF" not in Image.OPEN


def test_heic_is_set_upright_once(encode_heic):
    """Phones write the orientation twice: in the EXIF data, and as a turn in the container."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = encode_heic(patches(), exif=exif.tobytes())
    assert read_header(content) == ImageHeader((96, 64), "RGB", "HEIF")
    upright = np.asarray(patches().transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(read_image(content) - upright).max() <= 4


def test_heic_of_transparent_pixels_is_laid_on_white(encode_heic):
    image = patches("RGBA")
    image.putalpha(0)
    assert (read_image(encode_heic(image)) == 255).all()


@pytest.mark.parametrize("kept", [40, 100, 0.5, 0.99])
def test_a_damaged_heic_is_named(tmp_path, encode_heic, kept):
    content = encode_heic(patches())
    path = tmp_path / "cut.heic"
    path.write_bytes(content[: kept if kept > 1 else int(kept * len(content))])
    with pytest.raises(ImageError, match=r"cut\.heic cannot be read as an image: .*\w\)?$"):
        read_image(path)
    with pytest.raises(ImageError, match="the image in memory"):
        read_image(HEIC)
    with pytest.raises(ImageError, match="over the limit of 100"):
        read_image(content, max_pixels=100)


@pytest.mark.parametrize("name", ["IMG_1.HEIC", "x.avif"])
def test_what_is_only_called_so_needs_no_plugin(tmp_path, monkeypatch, name):
    monkeypatch.setattr(image_formats, "reads_avif", lambda: True)
    monkeypatch.setattr(image_formats, "reads_heic", lambda: True)
    (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(ImageError, match=f"{name} is not an image of a known format .*: check the file"):
        read_image(tmp_path / name)


def test_avif_without_its_codec_says_so(monkeypatch):
    monkeypatch.setattr("sppnet.data.image.reads_avif", lambda: False)
    with pytest.raises(ImageError, match="built without AVIF: install Pillow"):
        read_image(encode(Image.new("RGB", (4, 4)), "AVIF"))


def test_suffixes_follow_what_is_installed(monkeypatch):
    for avif, heic in ((True, False), (False, True)):
        monkeypatch.setattr(image_formats, "reads_avif", lambda avif=avif: avif)
        monkeypatch.setattr(image_formats, "reads_heic", lambda heic=heic: heic)
        assert (".avif" in readable_suffixes(), ".heic" in readable_suffixes()) == (avif, heic)
        assert (unreadable_hint(".AVIF") is None, unreadable_hint(".HEIC") is None) == (avif, heic)
    assert unreadable_hint(".jpg") is unreadable_hint(".txt") is None
    assert "develop" in (unreadable_hint(".NEF") or "")


def test_an_unread_format_is_named_with_what_to_do(tmp_path):
    (tmp_path / "a.NEF").write_bytes(b"II*\0raw")
    with pytest.raises(ImageError, match=r"a\.NEF.*"):
        read_image(tmp_path / "a.NEF")
    (tmp_path / "b.jxl").write_bytes(b"\xff\x0ajxl")
    with pytest.raises(ImageError, match=r"b\.jxl.*JPEG XL is not read: convert"):
        read_image(tmp_path / "b.jxl")


def test_a_header_is_read_without_decoding(monkeypatch):
    data = encode(Image.new("CMYK", (30, 20)), "JPEG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    header = read_header(data)
    assert (header.size_hw, header.mode, header.format) == ((20, 30), "CMYK", "JPEG")


# --- finding -------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    for name in (
        "b/2.jpg",
        "b/10.JPG",
        "a.png",
        ".hidden.png",
        ".cache/x.png",
        "__MACOSX/y.png",
        "notes.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        pytest.param([""], ["a.png", "b/2.jpg", "b/10.JPG"], id="a folder, all below it in natural order"),
        pytest.param(["*"], ["a.png", "b/2.jpg", "b/10.JPG"], id="a pattern that matches a folder"),
        pytest.param(["b/*.jpg"], ["b/2.jpg"], id="a pattern"),
        pytest.param(["**/*.png"], ["a.png"], id="a pattern that descends"),
        pytest.param(["b/10.JPG", "a.png", "b"], ["b/10.JPG", "a.png", "b/2.jpg"], id="each once, as given"),
        pytest.param(["notes.txt"], ["notes.txt"], id="a file named outright is kept whatever its name"),
    ],
)
def test_images_are_found(photos, patterns, expected):
    found = find_images([photos / pattern for pattern in patterns])
    assert [path.relative_to(photos).as_posix() for path in found] == expected


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        pytest.param("*.webp", "matches no image", id="a pattern that matches nothing"),
        pytest.param("*.txt", "matches no image", id="a pattern that matches no image"),
        pytest.param("a.pgn", "does not exist; did you mean a.png", id="a slip of the pen"),
        pytest.param("c/a.png", "nor does its folder", id="a folder that does not exist"),
        pytest.param("empty", "holds no images", id="a folder without images"),
    ],
)
def test_naming_nothing_is_an_error(photos, pattern, message):
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        find_images(str(photos / pattern))


def test_a_file_name_with_brackets_is_no_pattern(tmp_path):
    (tmp_path / "cat[1].jpg").write_bytes(b"")
    assert find_images(tmp_path / "cat[1].jpg") == [tmp_path / "cat[1].jpg"]


def test_folders_linked_in_a_circle_are_walked_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert find_images(tmp_path) == [tmp_path / "a" / "x.png"]


@pytest.mark.shared
def test_photographs_read_as_pillow_reads_them():
    folder = SHARED / "imagenet_sample100" / "images"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    for path in find_images(folder)[:30]:
        with Image.open(path) as image:
            assert read_header(path).size_hw == read_image(path).shape[:2] == image.size[::-1]
            assert np.array_equal(read_image(path), np.array(image.convert("RGB")))
