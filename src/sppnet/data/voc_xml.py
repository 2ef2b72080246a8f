"""XML files, without what makes a small one grow without bound, in whatever encoding they are."""

import codecs
import re
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

from sppnet.data.text import decode, encoding_of
from sppnet.errors import DataError

MAX_XML_BYTES = 16 * 2**20

FAULTS = (ParseError, LookupError, ValueError, AssertionError)
"""What the parser raises for files that are no XML."""

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
        return _parse(data, None)
    except _DeclarationError as error:
        raise DataError(
            f"{path} declares a DTD, which is refused: it may hide an attack. Remove the <!DOCTYPE"
        ) from error
    except FAULTS as error:
        # Many files say UTF-8 and hold something else; only names could suffer, and those are odd then.
        try:
            return _parse(_as_utf8(data), "utf-8")
        except (_DeclarationError, *FAULTS):
            raise DataError(f"{path} is not XML: {error}") from error


class _DeclarationError(Exception):
    """There is a <!DOCTYPE."""


class _Builder(TreeBuilder):
    """Elements go by their plain names, whatever namespace and letters a tool has written them in."""

    def start(self, tag: str, attrs: dict[str, str]) -> Element:
        return super().start(_plain_tag(tag), attrs)

    def end(self, tag: str) -> Element:
        return super().end(_plain_tag(tag))

    def doctype(self, *_: object) -> None:
        """Called before anything that is declared is expanded."""
        raise _DeclarationError


def _plain_tag(tag: str) -> str:
    return tag.rpartition("}")[2].rpartition(":")[2].lower()


def _parse(data: bytes, encoding: str | None) -> Element:
    parser = XMLParser(target=_Builder(), encoding=encoding)  # noqa: S314
    parser.feed(data)
    root: Element = parser.close()
    return root


def _as_utf8(data: bytes) -> bytes:
    """Decoded as the file says, if that is known and not what has just failed; else as it looks."""
    match = re.search(rb"""encoding=["']([\w.-]+)["']""", data[:200])
    try:
        encoding = codecs.lookup(match[1].decode()).name if match else "utf-8"
    except LookupError:
        encoding = "utf-8"
    looks = encoding_of(data)
    wide = any(name.startswith(("utf-16", "utf-32")) for name in (encoding, looks))
    if wide or encoding in NO_ALPHABETS or encoding == "utf-8":
        return decode(data).encode("utf-8", "replace")
    return data.decode(encoding, "replace").encode()
