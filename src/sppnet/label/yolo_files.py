"""YOLO annotations that are read and written: one text file a photograph, of a line an object.

An empty file says that there is no object. Which photographs have boxes that are not all drawn yet is told by
a list in the folder, `STARTED`: the layout has no word for it.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from sppnet.data.annotations import fit_box
from sppnet.data.frames import Box, Size
from sppnet.data.image import read_header
from sppnet.data.problems import Problems
from sppnet.data.text import read_text
from sppnet.data.yolo import CLASSES, YoloSource, find_yolo
from sppnet.data.yolo_labels import Line, box_of, class_number, find_ways, read_label
from sppnet.errors import ImageError
from sppnet.label.sheets import LabelledBox, Sheet, StoreError, WatchedFile

STARTED = ".sppnet-label.json"


class YoloFiles:
    """The label files of a folder."""

    def __init__(self, root: Path, photos: Sequence[Path]) -> None:
        self.root, self.photos = root, photos
        self.source: YoloSource | None = find_yolo(root)
        self.problems = Problems()
        self.names: dict[int, str] = dict(self.source.settings.names) if self.source else {}
        self.list = WatchedFile(self.source.settings.file if self.source else root / CLASSES)
        self.list.read()
        self.classes = tuple(dict.fromkeys(self.names.values()))
        self.started = WatchedFile(root / STARTED)
        content = self.started.read()
        self._started: set[str] = set(json.loads(content)["started"]) if content else set()
        self._files: dict[Path, WatchedFile] = {}
        self._ways: dict[int, str] = {}

    def read(self) -> dict[Path, Sheet]:
        if self.source is None:
            return {}
        labels = {photo: label for photo in self.photos if (label := self.source.label_of(photo))}
        self._ways = find_ways(map(read_label, labels.values()), self.source.settings.has_points)
        found: dict[Path, Sheet] = {}
        for photo, label in labels.items():
            file = self._files[photo] = WatchedFile(label)
            file.read()
            state = "started" if self._key(photo) in self._started else "done"
            found[photo] = Sheet(self._boxes(read_label(label), photo), state)  # type: ignore[arg-type]
        return found

    def _boxes(self, lines: Sequence[Line], photo: Path) -> tuple[LabelledBox, ...]:
        try:
            height, width = read_header(photo).size_hw
        except ImageError:  # told when it is opened
            return ()
        found = []
        for line in lines:
            shares = box_of(line, self._ways.get(len(line.columns), "box" if len(line.columns) == 5 else ""))
            name = self.names.get(class_number(line.columns[0]))
            if name is None or isinstance(shares, str):
                continue
            x0, y0, x1, y1 = shares
            box, _ = fit_box((x0 * width, y0 * height, x1 * width, y1 * height), (height, width))
            if box is not None:
                found.append(LabelledBox(name, box, line.number - 1))
        return tuple(found)

    def write(self, photo: Path, boxes: Sequence[LabelledBox], done: bool) -> tuple[LabelledBox, ...]:
        file = self._files.get(photo) or WatchedFile(self._new_path(photo))
        file.check()
        known = file.digest is not None
        lines = read_text(file.path).splitlines() if known else []
        before = {box.origin: box for box in self._boxes(read_label(file.path), photo)} if known else {}
        kept = {box.origin: box for box in boxes if box.origin is not None}
        size_hw, new = read_header(photo).size_hw, list[str]()
        written: list[LabelledBox] = []
        for number, line in enumerate(lines):
            if number not in kept and number in before:
                continue
            if number in kept:
                written.append(replace(kept[number], origin=len(new)))
                same = (kept[number].name, kept[number].box) == (before[number].name, before[number].box)
                line = line if same else self._line(kept[number], size_hw)
            new.append(line)
        for box in boxes:
            if box.origin is None:
                written.append(replace(box, origin=len(new)))
                new.append(self._line(box, size_hw))
        self._mark(photo, done)
        file.write("".join(f"{line}\n" for line in new).encode())
        self._files[photo] = file
        return tuple(written)

    def add_class(self, name: str) -> None:
        number = max(self.names, default=-1) + 1
        names = {**self.names, number: name}
        if self.list.path.suffix.lower() in (".yaml", ".yml"):
            settings = yaml.safe_load(self.list.read() or b"") or {}
            listed = isinstance(settings.get("names"), list) and sorted(names) == list(range(len(names)))
            settings |= {"names": [names[number] for number in sorted(names)] if listed else names}
            settings |= {"nc": len(names)} if "nc" in settings else {}
            content = yaml.safe_dump(settings, allow_unicode=True, sort_keys=False)
        elif sorted(names) == list(range(len(names))):
            content = "".join(f"{names[number]}\n" for number in sorted(names))
        else:
            raise StoreError(f"{self.list.path} has gaps, so no class can be added; complete it first")
        self.list.write(content.encode())
        self.names, self.classes = names, (*self.classes, name)

    def _line(self, box: LabelledBox, size_hw: Size) -> str:
        number = next(number for number, name in self.names.items() if name == box.name)
        return f"{number} {' '.join(map(str, _shares(box.box, size_hw)))}"

    def _mark(self, photo: Path, done: bool) -> None:
        """Before the label file: a photograph that is called started for too long does no harm."""
        key = self._key(photo)
        if done == (key in self._started):
            started = self._started - {key} if done else self._started | {key}
            self.started.write(json.dumps({"started": sorted(started)}, ensure_ascii=False).encode())
            self._started = started

    def _key(self, photo: Path) -> str:
        return photo.relative_to(self.root).as_posix()

    def _new_path(self, photo: Path) -> Path:
        folders = list(photo.relative_to(self.root).parts[:-1])
        parts = next(self.source.label_folders(photo)) if self.source else _beside(folders)
        return self.root.joinpath(*parts, photo.with_suffix(".txt").name)


def _beside(folders: list[str]) -> list[str]:
    """labels/ in place of the last images/, else below the folder of the photograph."""
    for index in reversed(range(len(folders))):
        if folders[index].lower() == "images":
            return [*folders[:index], "labels", *folders[index + 1 :]]
    return [*folders, "labels"]


def _shares(box: Box, size_hw: Size) -> tuple[float, ...]:
    (x0, y0, x1, y1), (height, width) = box, size_hw
    return (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height
