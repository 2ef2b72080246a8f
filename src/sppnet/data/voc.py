"""PASCAL VOC: one XML file an image, as VOC itself, LabelImg and other tools leave them.

    ROOT/Annotations/*.xml  ROOT/JPEGImages/*  ROOT/ImageSets/Main/{train,cat_train,…}.txt
    ROOT/*.xml beside ROOT/*.jpg, or both in ROOT/train, ROOT/valid and ROOT/test

Coordinates are 1-based and name the last pixel inside; they become 0-based and half-open by taking 1
from xmin and ymin. The size in the XML is not believed: it is often absent or that of another copy.
"""

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import ClassVar
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from sppnet.data.files import IMAGE_SUFFIXES, is_image_name, natural_key, walk_files
from sppnet.data.marks import Box, Mark, MarkedImage, Reading, fit_box, plain_name, size_of
from sppnet.errors import DataError

NOTES_NAMES = ("annotations", "annotation", "xmls", "xml")
IMAGES_NAMES = ("jpegimages", "images", "image", "imgs", "img")
"""Folder names of the annotations and the images, compared in lower case."""

SPLIT_FOLDERS = {"train": "train", "valid": "val", "val": "val", "test": "test"}

PER_CLASS = re.compile(r".+_(train|val|trainval|test)")
"""A split file of one class, whose second column says −1, 0 or 1."""

MAX_XML_BYTES = 16 * 2**20

NO_ALPHABETS = ("idna", "punycode", "raw_unicode_escape", "unicode_escape", "utf-7")
"""Codecs of Python that no file is in, and some of which take the square of its length."""

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocSource:
    """A folder in the VOC layout. Images go by their id: the path of the XML file without its suffix."""

    layout: ClassVar[str] = "VOC"

    root: Path
    notes: Path
    xml: dict[str, Path]
    images: dict[str, Path]
    sets: dict[str, tuple[str, ...]]
    """The lines of each split's files, as they are."""

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.sets)

    def class_names(self) -> tuple[str, ...]:
        """All names in the files, in natural order."""
        names: set[str] = set()
        for path in self.xml.values():
            try:
                names.update(filter(None, map(_class_name, read_xml(path).iter("object"))))
            except DataError:
                continue  # `read` reports it
        return tuple(sorted(names, key=natural_key))

    def read(self, splits: Sequence[str]) -> Reading:
        reading = Reading()
        ids = self._ids_of(splits, reading.problems) if splits else list(self.xml)
        if not splits and (bare := [self.images[key] for key in self.images.keys() - self.xml.keys()]):
            names = ", ".join(sorted((path.name for path in bare), key=natural_key)[:3])
            reading.problems.append(f"{len(bare)} images have no XML file and are left out, such as {names}")
        for key in ids:
            if marked := self._read_one(key, reading.problems):
                reading.images.append(marked)
        return reading

    def _ids_of(self, splits: Sequence[str], problems: list[str]) -> list[str]:
        found: dict[str, None] = {}
        for split in splits:
            missing = []
            for line in dict.fromkeys(self.sets[split]):
                key = next((key for key in _ids_in(line) if key in self.xml), None)
                if key is None:
                    missing.append(line.split()[0])
                else:
                    found[key] = None
            problems += [f"{name}, of the {split} split, has no XML file; it is left out" for name in missing]
        return list(found)

    def _read_one(self, key: str, problems: list[str]) -> MarkedImage | None:
        source = self.xml[key]
        name = source.relative_to(self.root).as_posix()
        try:
            tree = read_xml(source)
        except DataError as error:
            problems.append(f"{error}; its image is left out")
            return None
        path = self.images.get(key) or self._image_named(tree, source)
        if path is None:
            problems.append(f"{name}: there is no image for it; it is left out")
            return None
        size_hw = size_of(path, problems)
        if size_hw and (said := _said_size(tree)) not in (None, size_hw):
            problems.append(
                f"{name} says {said[1]}×{said[0]}, the image is {size_hw[1]}×{size_hw[0]}"
                " (width×height): the boxes may belong to another copy"
            )
        return MarkedImage(path, tuple(_marks(tree, size_hw, name, problems)))

    def _image_named(self, tree: Element, source: Path) -> Path | None:
        """The image that <filename> names, where none is called like the XML file."""
        stem = PurePosixPath(PureWindowsPath(_text(tree, "filename")).name)
        beside = source.relative_to(self.notes).parent
        return self.images.get((beside / stem).as_posix()) or self.images.get(_id(beside / stem))


def find_voc(root: Path) -> VocSource | None:
    """The VOC data set that a folder is, if it is one."""
    if not root.is_dir():
        return None
    folders = {entry.name.lower(): entry for entry in sorted(root.iterdir()) if entry.is_dir()}
    notes = next((folders[name] for name in NOTES_NAMES if name in folders), None)
    images = next((folders[name] for name in IMAGES_NAMES if name in folders), None)
    if notes and images and (xml := _by_id(notes, walk_files(notes), {".xml"})):
        sets = _read_sets(root / "ImageSets" / "Main")
        return VocSource(root, notes, xml, _by_id(images, walk_files(images), IMAGE_SUFFIXES), sets)
    return _find_pairs(root, folders)


def _find_pairs(root: Path, folders: dict[str, Path]) -> VocSource | None:
    """XML files and images side by side, in one folder or in one for each split."""
    parts = [folders[name] for name in SPLIT_FOLDERS if name in folders]
    for places in ([root], parts):
        files = [file for place in places for file in sorted(place.iterdir()) if file.is_file()]
        xml, images = _by_id(root, files, {".xml"}), _by_id(root, files, IMAGE_SUFFIXES)
        if xml.keys() & images.keys():
            sets = {
                SPLIT_FOLDERS[place.name.lower()]: tuple(
                    key for key in xml if key.startswith(f"{place.name}/")
                )
                for place in places
                if place != root
            }
            return VocSource(root, root, xml, images, sets)
    return None


def _by_id(folder: Path, files: Iterable[Path], suffixes: Iterable[str]) -> dict[str, Path]:
    """Files by their path below the folder without the suffix; of two the first."""
    wanted = set(suffixes)
    found: dict[str, Path] = {}
    for file in files:
        if file.suffix.lower() in wanted and not file.name.startswith("."):
            found.setdefault(_id(file.relative_to(folder)), file)
    return found


def _id(path: PurePosixPath | Path) -> str:
    return path.with_suffix("").as_posix() if path.suffix else path.as_posix()


# --- split files ---------------------------------------------------------------------------------


def _read_sets(folder: Path) -> dict[str, tuple[str, ...]]:
    """The lines of every split; the files of single classes count where no file is the whole split's."""
    files = sorted(folder.glob("*.txt"), key=lambda file: natural_key(file.stem)) if folder.is_dir() else []
    whole = {file.stem: _lines(file) for file in files if not PER_CLASS.fullmatch(file.stem)}
    single: dict[str, tuple[str, ...]] = {}
    for file in files:
        if (match := PER_CLASS.fullmatch(file.stem)) and match[1] not in whole:
            single[match[1]] = single.get(match[1], ()) + _lines(file)
    return {**whole, **single}


def _lines(file: Path) -> tuple[str, ...]:
    text = file.read_bytes().decode("utf-8-sig", "replace")
    return tuple(filter(None, map(str.strip, text.splitlines())))


def _ids_in(line: str) -> Iterator[str]:
    """What a line of a split file may mean, the likeliest first: 000012, 000012 −1, 000012.jpg."""
    plain = line.replace("\\", "/")
    for text in (plain, re.sub(r"\s+(-1|0|1)$", "", plain)):
        yield text
        if is_image_name(Path(text)):
            yield _id(PurePosixPath(text))
        yield _id(PurePosixPath(PurePosixPath(text).name)) if "/" in text else text


# --- one file ------------------------------------------------------------------------------------


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
        # Many files say UTF-8 and hold a local alphabet; only names could suffer, and those are odd then.
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
    """Decoded as the file says, if that is known and not what has just failed; else as Western text."""
    match = re.search(rb"""encoding=["']([\w.-]+)["']""", data[:200])
    try:
        encoding = codecs.lookup(match[1].decode()).name if match else "utf-8"
    except LookupError:
        encoding = "utf-8"
    no_alphabet = encoding in NO_ALPHABETS or encoding == "utf-8"
    return data.decode("cp1252" if no_alphabet else encoding, "replace").encode()


def _marks(tree: Element, size_hw: tuple[int, int] | None, name: str, problems: list[str]) -> Iterator[Mark]:
    for number, item in enumerate(tree.findall("object"), 1):
        class_name, corners = _class_name(item), _corners(item)
        if not class_name or corners is None:
            what = "box of four numbers" if class_name else "name"
            problems.append(f"{name}: object {number} has no {what}; it is left out")
            continue
        box, done = fit_box(corners, size_hw, one_based=True)
        if done:
            written = ", ".join(f"{value:g}" for value in corners)
            problems.append(f"{name}: the box of {class_name} ({written}) {done}")
        if box:
            yield Mark(class_name, box, difficult=_text(item, "difficult").lower() in ("1", "true", "yes"))


def _corners(item: Element) -> Box | None:
    box = item.find("bndbox")
    if box is None:
        return None
    try:
        x0, y0, x1, y1 = (float(_text(box, corner)) for corner in CORNERS)
    except ValueError:
        return None
    return x0, y0, x1, y1


def _said_size(tree: Element) -> tuple[int, int] | None:
    """Height and width in the XML, if it has them; some tools write 0."""
    size = tree.find("size")
    if size is None:
        return None
    try:
        height, width = (int(float(_text(size, side))) for side in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _class_name(item: Element) -> str:
    return plain_name(item.findtext("name") or "")


def _text(item: Element, tag: str) -> str:
    return (item.findtext(tag) or "").strip()
