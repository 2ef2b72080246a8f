"""XML files, without what makes a small one grow without bound, in whatever encoding they are."""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

from sppnet.data.files import image_stem, is_image_name, natural_key
from sppnet.data.lookup import Lookup
from sppnet.data.split_names import SPLIT_OF, SPLIT_ORDER
from sppnet.data.text import decode, encoding_of, read_lines
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


# --- image sets ----------------------------------------------------------------------------------


PER_CLASS = re.compile(r".+_(train|val|trainval|test)")
"""A split file of one class, whose second column says −1, 0 or 1."""

MAX_COLUMNS = 8


def read_sets(root: Path, notes: Path) -> dict[str, tuple[str, ...]]:
    """The lines of every split: of ImageSets/Main, else of ImageSets, else of train.txt and others beside."""
    lookup = Lookup()
    for parts in (["ImageSets", "Main"], ["ImageSets"]):
        folder = lookup.below(root, parts)
        if folder and (sets := _read_folder(folder)):
            return sets
    for folder in (root, notes):
        files: dict[str, tuple[str, ...]] = {}
        for word, split in SPLIT_OF.items():
            if (file := lookup.entry(folder, f"{word}.txt")) and file.is_file():
                files.setdefault(split, read_lines(file))
        if files:
            return files
    return {}


def _read_folder(folder: Path) -> dict[str, tuple[str, ...]]:
    """The files of single classes count where no file is the whole split's."""
    files = sorted(folder.glob("*.txt"), key=lambda file: natural_key(file.stem)) if folder.is_dir() else []
    whole = {file.stem: read_lines(file) for file in files if not PER_CLASS.fullmatch(file.stem)}
    single: dict[str, tuple[str, ...]] = {}
    for file in files:
        if (match := PER_CLASS.fullmatch(file.stem)) and match[1] not in whole:
            single[match[1]] = single.get(match[1], ()) + read_lines(file)
    return _with_usual_names({**whole, **single})


def _with_usual_names(sets: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """ "Train" and "Validation" are train and val, unless those are there as well."""
    named: dict[str, tuple[str, ...]] = {name: lines for name, lines in sets.items() if name in SPLIT_ORDER}
    for name, lines in sets.items():
        usual = SPLIT_OF.get(name.lower(), name)
        named.setdefault(name if usual in named else usual, lines)
    return named


def ids_in(line: str) -> Iterator[str]:
    """What a line of a split file may mean, the likeliest first: 000012, 000012 −1, 000012.jpg, a 1 2 3."""
    plain = line.replace("\\", "/")
    for text in dict.fromkeys((plain, _first_column(plain))):
        yield text
        if text.lower().endswith(".xml"):
            text = text[: -len(".xml")]  # of the annotation, where the image's is usual
            yield text
        if is_image_name(Path(text)):
            yield PurePosixPath(text).with_suffix("").as_posix()
        name = PurePosixPath(text).name if "/" in text else text
        yield image_stem(name)


def _first_column(line: str) -> str:
    """Without the numbers that follow the name."""
    for _ in range(MAX_COLUMNS):
        parts = line.rsplit(maxsplit=1)
        if len(parts) < 2 or not parts[1].removeprefix("-").isdecimal():
            break
        line = parts[0]
    return line
