"""PASCAL VOC: one XML file an image, as VOC itself, LabelImg and other tools leave them.

    ROOT/Annotations/*.xml  ROOT/JPEGImages/*  ROOT/ImageSets/Main/{train,cat_train,…}.txt
    ROOT/annotations/xmls/*.xml  ROOT/images/*  ROOT/annotations/{trainval,test}.txt
    ROOT/*.xml beside ROOT/*.jpg; or both in ROOT/images, or in ROOT/train, ROOT/valid and ROOT/test

An image belongs to the XML file of its name, wherever the two lie; where several images or none have that
name, <filename> decides. Coordinates are 1-based and name the last pixel inside; they become 0-based and
half-open by taking 1 from xmin and ymin.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import ClassVar
from xml.etree.ElementTree import Element

from sppnet.data.annotations import (
    AnnotatedImage,
    BoxAnnotation,
    Location,
    ParsedDataset,
    fit_marks,
    flag,
    plain_name,
    said_size,
)
from sppnet.data.files import image_stem, is_hidden, is_image_name, natural_key, walk_files
from sppnet.data.frames import Box
from sppnet.data.lookup import base_name, fold
from sppnet.data.problems import Problems
from sppnet.data.split_names import SPLIT_OF, SPLIT_ORDER
from sppnet.data.voc_xml import ids_in, read_sets, read_xml
from sppnet.errors import DataError, printable

NOTES_NAMES = ("annotations", "annotation", "annots", "annot", "xmls", "xml", "labels")
IMAGES_NAMES = ("jpegimages", "images", "image", "imgs", "img")
"""Folder names of the annotations and the images, compared in lower case."""

MAX_DEPTH = 3
"""Of folders within folders that are named for annotations, images or splits."""

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocSource:
    """A folder in the VOC layout. Files go by their id: the path without suffix and layout folders."""

    layout: ClassVar[str] = "VOC"
    missing: ClassVar[dict[str, str]] = {}

    root: Path
    notes: Path
    xml: dict[str, Path]
    images: dict[str, list[Path]]
    """Those of each id; of one stem, several."""
    sets: dict[str, tuple[str, ...]]
    """The lines of each split's files, as they are."""
    repeated: tuple[Path, ...]
    """XML files whose id another has."""
    by_stem: dict[str, list[str]] = field(repr=False)
    """Ids of images by their folded last part."""

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.sets)

    def class_names(self) -> tuple[str, ...]:
        """All names in the files, in natural order."""
        names: set[str] = set()
        for path in self.xml.values():
            try:
                names.update(filter(None, map(class_name_of, read_xml(path).iter("object"))))
            except DataError:
                continue  # `read` reports it
        return tuple(sorted(names, key=natural_key))

    def read(self, splits: Sequence[str]) -> ParsedDataset:
        reading = ParsedDataset()
        for key in self._ids_of(splits, reading.problems) if splits else list(self.xml):
            if marked := self.read_file(key, reading.problems):
                reading.images.append(marked)
        reading.problems.tell_exchanged(sum(len(image.marks) for image in reading.images))
        return reading

    def tell_unused(self, reading: ParsedDataset) -> None:
        used = {image.path for image in reading.images}
        for key in self.xml:  # of a file that cannot be read, the image is told already
            used.update(own if len(own := self.images_called(key)) == 1 else ())
        unused = (path for paths in self.images.values() for path in paths if path not in used)
        bare = [path.relative_to(self.root).as_posix() for path in unused]
        reading.problems.count("images have no XML file", "they are left out", sorted(bare, key=natural_key))
        repeated = (path.relative_to(self.root).as_posix() for path in self.repeated)
        reading.problems.count("XML files have the name of another", "they are left out", repeated)

    def has_pair(self) -> bool:
        """Whether some XML file has an image of its name."""
        return any(map(self.images_called, self.xml))

    def _ids_of(self, splits: Sequence[str], problems: Problems) -> list[str]:
        folded = {fold(key): key for key in self.xml}
        stems = {fold(PurePosixPath(key).name): key for key in self.xml}
        found: dict[str, None] = {}
        for split in splits:
            for line in dict.fromkeys(self.sets[split]):
                tried = list(ids_in(line))
                key = next((key for key in tried if key in self.xml), None)
                key = key or next((folded[fold(key)] for key in tried if fold(key) in folded), None)
                key = key or next((stems[fold(key)] for key in tried if fold(key) in stems), None)
                if key is None:
                    what = f"names of the {split} split have no XML file"
                    problems.count(what, "they are left out", line.split()[0])
                else:
                    found[key] = None
        return list(found)

    def read_file(self, key: str, problems: Problems) -> AnnotatedImage | None:
        """The image of one XML file, by its id."""
        source = self.xml[key]
        name = source.relative_to(self.root).as_posix()
        try:
            tree = read_xml(source)
        except DataError as error:
            problems.add(f"{error}; its image is left out")
            return None
        image = self._image_of(key, tree, name, problems)
        if image is None:
            return None
        at = Location(problems, source.name, name, one_based=True)
        size = tree.find("size")
        said = None if size is None else said_size(text_of(size, "height"), text_of(size, "width"))
        return AnnotatedImage(image, fit_marks(tuple(_marks(tree, name, problems)), image, said, at))

    def _image_of(self, key: str, tree: Element, name: str, problems: Problems) -> Path | None:
        written = base_name(text_of(tree, "filename"))
        own = self.images_called(key)
        named = [path for path in own if path.name == written]
        named = named or [path for path in own if _is_called(path, written)]
        if len(own) > 1:
            own = named or own
        elif not own and written:
            own = self.images_called((PurePosixPath(key).parent / written).as_posix())
            own = own or self.images_called((PurePosixPath(key).parent / image_stem(written)).as_posix())
            own = [path for path in own if _is_called(path, written)] or own
        if not own:
            problems.count("XML files have no image", "they are left out", name)
        elif len(own) > 1:
            example = f"{name} ({', '.join(path.relative_to(self.root).as_posix() for path in own)})"
            problems.count("XML files fit several images", "which is meant is not known; left out", example)
        elif written and not _is_called(own[0], written):
            example = f"{name} ({written} in <filename>, {own[0].name} taken)"
            problems.count("XML files name another image", "that of the XML file's name is taken", example)
        return own[0] if len(own) == 1 else None

    def images_called(self, key: str) -> list[Path]:
        """The images of this id; else those of its last part, unless both lie in folders that differ."""
        if key in self.images:
            return self.images[key]
        place, _, stem = fold(key).rpartition("/")
        alike = self.by_stem.get(stem, [])
        places = {other: fold(other).rpartition("/")[0] for other in alike}
        same = [other for other in alike if places[other] == place]
        near = same or [other for other in alike if not place or not places[other]]
        return [path for other in near for path in self.images[other]]


def _is_called(path: Path, written: str) -> bool:
    """Whether <filename> names that image; often it lacks the suffix."""
    return fold(written) in (fold(path.name), fold(path.stem))


# --- which files ---------------------------------------------------------------------------------


def find_voc(root: Path) -> VocSource | None:
    """The VOC data set that a folder is, if it is one."""
    if not root.is_dir():
        return None
    folders = {entry.name.lower(): entry for entry in sorted(root.iterdir()) if entry.is_dir()}
    pictures = next(([folders[name]] for name in IMAGES_NAMES if name in folders), [])
    pictures = pictures or [folders[name] for name in SPLIT_OF if name in folders]
    together = list(_layout_files(root))
    named = [folders[name] for name in NOTES_NAMES if name in folders]
    others = [folder for folder in folders.values() if folder not in named and _begins_with_xml(folder)]
    for folder in (*named, *others):
        notes = walk_files(folder)
        if any(map(_is_xml, notes)):
            images = [path for folder in pictures for path in walk_files(folder)]
            source = _make_source(root, folder, notes, images or walk_files(root))
            if pictures or source.has_pair():
                return source
    source = _make_source(root, root, together, together)
    return source if source.has_pair() else None


def _begins_with_xml(folder: Path) -> bool:
    """Whether the first entries of a folder are XML files alone; the rest of it is not listed."""
    with os.scandir(folder) as entries:
        first = [entry.name for entry in islice(entries, 3)]
    return bool(first) and all(name.lower().endswith(".xml") for name in first)


def _layout_files(folder: Path, depth: int = 0) -> Iterator[Path]:
    """The files of a folder and of those below it that are named for annotations, images or splits."""
    entries = sorted(
        (entry for entry in folder.iterdir() if not is_hidden(entry.name)), key=lambda e: natural_key(e.name)
    )
    yield from (entry for entry in entries if entry.is_file())
    for entry in entries:
        named = entry.name.lower() in (*NOTES_NAMES, *IMAGES_NAMES, *SPLIT_OF)
        if named and depth < MAX_DEPTH and entry.is_dir():
            yield from _layout_files(entry, depth + 1)


def _make_source(root: Path, notes: Path, notes_files: Sequence[Path], images: Sequence[Path]) -> VocSource:
    xml: dict[str, Path] = {}
    repeated = [
        path for path in filter(_is_xml, notes_files) if xml.setdefault(id_of(path, notes), path) != path
    ]
    found: dict[str, list[Path]] = {}
    by_stem: dict[str, list[str]] = {}
    for path in filter(is_image_name, images):
        key = id_of(path, root)
        if key not in found:
            by_stem.setdefault(fold(PurePosixPath(key).name), []).append(key)
        found.setdefault(key, []).append(path)
    source = VocSource(root, notes, xml, found, read_sets(root, notes), tuple(repeated), by_stem)
    return source if source.sets else replace(source, sets=_folder_sets(source))


def _folder_sets(source: VocSource) -> dict[str, tuple[str, ...]]:
    """Splits by the folders of the XML files, or of their images."""
    found: dict[str, list[str]] = {}
    for key in source.xml:
        places = [key, *(id_of(path, source.root) for path in source.images_called(key))]
        names = (SPLIT_OF.get(place.partition("/")[0].lower()) for place in places)
        if split := next(filter(None, names), None):
            found.setdefault(split, []).append(key)
    return {split: tuple(found[split]) for split in SPLIT_ORDER if split in found}


def _is_xml(path: Path) -> bool:
    return path.suffix.lower() == ".xml"


def id_of(path: Path, root: Path) -> str:
    """The path below the root without its suffix and without the folders of the layout."""
    *folders, name = path.relative_to(root).parts
    own = [part for part in folders if part.lower() not in NOTES_NAMES + IMAGES_NAMES]
    return "/".join([*own, path.stem if _is_xml(path) else image_stem(name)])


# --- one file ------------------------------------------------------------------------------------


def _marks(tree: Element, name: str, problems: Problems) -> Iterator[BoxAnnotation]:
    """The objects with their boxes as they are written."""
    for number, item in enumerate(tree.iter("object"), 1):
        class_name, corners = class_name_of(item), corners_of(item)
        if len(item.findall("bndbox")) > 1:
            problems.add(f"{name}: object {number} has several boxes; the first is read")
        if class_name and corners is not None:
            yield BoxAnnotation(class_name, corners, difficult=flag(text_of(item, "difficult")))
        else:
            what = (
                f"box of four numbers, {' '.join(CORNERS)}; got {_box_text(item)}" if class_name else "name"
            )
            problems.add(f"{name}: object {number} has no {what}; it is left out")


def corners_of(item: Element) -> Box | None:
    box = item.find("bndbox")
    if box is None:
        return None
    try:
        x0, y0, x1, y1 = (float(text_of(box, corner)) for corner in CORNERS)
    except ValueError:
        return None
    return x0, y0, x1, y1


def _box_text(item: Element) -> str:
    """What stands where the box should be: its cells, else the names of the parts that have some."""
    box = item.find("bndbox")
    written = [printable((part.text or "").strip()) for part in box or ()]
    return " ".join(written) or ", ".join(part.tag for part in item if len(part)) or "nothing"


def class_name_of(item: Element) -> str:
    return plain_name(item.findtext("name") or "")


def text_of(item: Element, tag: str) -> str:
    return (item.findtext(tag) or "").strip()
