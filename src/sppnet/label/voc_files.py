"""VOC annotations that are read and written: one XML file a photograph.

A photograph whose boxes are not all drawn yet says verified="no" in its file, by the attribute that LabelImg
has; one that is confirmed says verified="yes". Files of other programs, without it, are confirmed.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from sppnet.data.annotations import flag, said_size
from sppnet.data.class_list import read_class_list
from sppnet.data.frames import Box
from sppnet.data.image import read_header
from sppnet.data.problems import Problems
from sppnet.data.text import read_lines
from sppnet.data.voc import CORNERS, VocSource, class_name_of, corners_of, find_voc, id_of, text_of
from sppnet.data.voc_xml import read_xml
from sppnet.errors import DataError, ImageError
from sppnet.label.sheets import LabelledBox, Sheet, StoreError, WatchedFile, fit_boxes, plain

NOTES = "Annotations"


class VocFiles:
    """The XML files of a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source: VocSource | None = find_voc(root)
        self.notes = self.source.notes if self.source else root / NOTES
        self.problems = Problems()
        self.list = root / "classes.txt"
        named = self.source.class_names() if self.source else ()
        has_lines = self.list.is_file() and read_lines(self.list)
        listed = read_class_list(self.list, named).names.values() if has_lines else ()
        self.classes = tuple(dict.fromkeys([*listed, *named]))
        self._has_list = bool(listed) or not self.source
        self._files: dict[Path, WatchedFile] = {}
        self._moved: set[Path] = set()

    def read(self) -> dict[Path, Sheet]:
        found = {}
        for key, path in (self.source.xml if self.source else {}).items():
            assert self.source is not None
            image = self.source.read_file(key, self.problems)
            if image is None or image.path in found:
                continue
            file = self._files[image.path] = WatchedFile(path)
            file.read()
            tree = read_xml(path)
            state = "started" if tree.get("verified") == "no" else "done"
            found[image.path] = Sheet(self._boxes(tree, image.path), state)  # type: ignore[arg-type]
        return found

    def _boxes(self, tree: Element, photo: Path) -> tuple[LabelledBox, ...]:
        read = [
            (number, item, box)
            for number, item in enumerate(tree.findall("object"))
            if class_name_of(item) and (box := corners_of(item)) is not None
        ]
        size = tree.find("size")
        said = None if size is None else said_size(text_of(size, "height"), text_of(size, "width"))
        try:
            fitted = fit_boxes([box for _, _, box in read], read_header(photo).size_hw, said, photo, True)
        except ImageError:  # told when it is opened
            return ()
        if fitted.moved:
            self._moved.add(photo)
        return tuple(
            LabelledBox(class_name_of(item), box, number, flag(text_of(item, "difficult")))
            for (number, item, _), box in zip(read, fitted.boxes, strict=True)
            if box is not None
        )

    def write(self, photo: Path, boxes: Sequence[LabelledBox], done: bool) -> tuple[LabelledBox, ...]:
        file = self._files.get(photo) or WatchedFile(self._new_path(photo))
        file.check()
        tree = self._tree(file, photo)
        before = {box.origin: box for box in self._boxes(tree, photo)} if file.digest else {}
        kept = {box.origin: box for box in boxes if box.origin is not None}
        written: list[tuple[Element, LabelledBox]] = []
        for number, item in enumerate(tree.findall("object")):
            if number in kept:
                self._update(item, kept[number], before.get(number), photo)
                written.append((item, kept[number]))
            elif number in before:  # what could not be read as a box is not ours to remove
                tree.remove(item)
        for box in boxes:
            if box.origin is None:
                written.append((_new_object(tree, box), box))
                _write_box(written[-1][0], box.box)
        tree.set("verified", "yes" if done else "no")
        indent(tree)
        file.write(tostring(tree, "utf-8", xml_declaration=True))
        self._files[photo] = file
        self._moved.discard(photo)
        items = tree.findall("object")
        return tuple(replace(box, origin=items.index(item)) for item, box in written)

    def add_class(self, name: str) -> None:
        if self._has_list:
            file = WatchedFile(self.list)
            file.read()
            file.write("".join(f"{one}\n" for one in (*self.classes, name)).encode())
        self.classes = (*self.classes, name)

    def _new_path(self, photo: Path) -> Path:
        path = self.notes / f"{id_of(photo, self.root)}.xml"
        taken = path in {file.path for file in self._files.values()}
        return path.with_name(f"{photo.name}.xml") if taken else path

    def _tree(self, file: WatchedFile, photo: Path) -> Element:
        height, width = read_header(photo).size_hw
        if file.digest is None:
            tree = Element("annotation")
            SubElement(tree, "filename").text = photo.name
        else:
            try:
                tree = read_xml(file.path)
            except DataError as error:
                raise StoreError(str(error)) from error
        size = tree.find("size")
        size = SubElement(tree, "size") if size is None else size
        if file.digest is None or photo in self._moved:
            for side, length in (("width", width), ("height", height)):
                found = size.find(side)
                (SubElement(size, side) if found is None else found).text = str(length)
        return tree

    def _update(self, item: Element, box: LabelledBox, before: LabelledBox | None, photo: Path) -> None:
        if before is None or box.name != before.name:
            found = item.find("name")
            (SubElement(item, "name") if found is None else found).text = box.name
        if before is None or box.box != before.box or photo in self._moved:
            _write_box(item, box.box)


def _new_object(tree: Element, box: LabelledBox) -> Element:
    item = SubElement(tree, "object")
    SubElement(item, "name").text = box.name
    SubElement(item, "difficult").text = str(int(box.difficult))
    return item


def _write_box(item: Element, box: Box) -> None:
    """From 1, with the last pixel inside."""
    found = item.find("bndbox")
    place = SubElement(item, "bndbox") if found is None else found
    x0, y0, x1, y1 = box
    for corner, value in zip(CORNERS, (x0 + 1, y0 + 1, x1, y1), strict=True):
        side = place.find(corner)
        (SubElement(place, corner) if side is None else side).text = str(plain(value))
