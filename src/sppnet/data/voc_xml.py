"""XML files, without what makes a small one grow without bound, in whatever encoding they are."""

import codecs
import re
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from sppnet.data.text import decode, encoding_of
from sppnet.errors import DataError

MAX_XML_BYTES = 16 * 2**20

NO_ALPHABETS = ("idna", "punycode", "raw_unicode_escape", "unicode_escape", "utf-7")
"""Codecs of Python that no file is in, and some of which take the square of its length."""


def read_xml(path: Path) -> Element:
    """The tree of an XML file. Raises DataError if it is none, or declares types or entities of its own.

    Declarations are what makes a small file grow without bound, or read others; VOC needs none.
    """
    data = path.read_bytes() if path.stat().st_size <= MAX_XML_BYTES else b""
    data = data.lstrip(b" \t\r\n")
    if not data:
        raise DataError(f"{path} is empty, or larger than {MAX_XML_BYTES:,} bytes")
    try:
        return _parse(data, None, path)
    except DataError:
        raise
    except (expat.ExpatError, LookupError, ValueError, AssertionError) as error:
        # Many files say UTF-8 and hold something else; only names could suffer, and those are odd then.
        try:
            return _parse(_as_utf8(data), "utf-8", path)
        except (expat.ExpatError, LookupError, ValueError, AssertionError):
            raise DataError(f"{path} is not XML: {error}") from error


def _parse(data: bytes, encoding: str | None, path: Path) -> Element:
    def refuse(*_: object) -> None:
        raise DataError(
            f"{path} declares a DTD, which is refused: it may hide an attack. Remove the <!DOCTYPE"
        )

    builder = TreeBuilder()
    parser = expat.ParserCreate(encoding)
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(data, True)
    return builder.close()


def _as_utf8(data: bytes) -> bytes:
    """Decoded as the file says, if that is known and not what has just failed; else as it looks."""
    match = re.search(rb"""encoding=["']([\w.-]+)["']""", data[:200])
    try:
        encoding = codecs.lookup(match[1].decode()).name if match else "utf-8"
    except LookupError:
        encoding = "utf-8"
    looks = encoding_of(data)
    if encoding in NO_ALPHABETS or encoding == "utf-8" or looks.startswith(("utf-16", "utf-32")):
        return decode(data).encode("utf-8", "replace")
    return data.decode(encoding, "replace").encode()
