"""Text files of whatever encoding: UTF-8, UTF-16 and UTF-32 (with a mark or without), or Windows-1252.

Every text file of a data set is decoded here: PowerShell writes UTF-16, Notepad marks UTF-8, and older
tools write the local alphabet.
"""

import codecs
from pathlib import Path

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

SAMPLE_BYTES = 1000
"""From the start, in which zeros tell UTF-16 without a mark."""

MANY_ZEROS = 0.4
"""Share of every other byte that is 0 in UTF-16 text, most of which is numbers and Latin letters."""

LAST_RESORT = "cp1252"


def encoding_of(data: bytes) -> str:
    """Python's name of the encoding that `decode` takes."""
    for mark, name in MARKS:
        if data.startswith(mark):
            return name
    even, odd = data[:SAMPLE_BYTES:2], data[1:SAMPLE_BYTES:2]
    for zeros, name in ((odd, "utf-16-le"), (even, "utf-16-be")):
        if len(data) % 2 == 0 and zeros and zeros.count(0) > MANY_ZEROS * len(zeros):
            return name if even.count(0) != odd.count(0) else LAST_RESORT
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return LAST_RESORT
    return "utf-8"


def decode(data: bytes) -> str:
    """The text without a byte order mark; what has no meaning in its encoding becomes U+FFFD."""
    return data.decode(encoding_of(data), "replace").removeprefix("\ufeff")


def read_text(path: Path) -> str:
    """The text of a file, of whatever encoding."""
    return decode(path.read_bytes())


def read_lines(path: Path) -> tuple[str, ...]:
    """Its lines without the spaces around them; empty ones are left out."""
    return tuple(filter(None, map(str.strip, read_text(path).splitlines())))
