"""The photographs of a folder and their annotations, on the disk after every change."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from sppnet.data.coco import find_coco
from sppnet.data.voc import find_voc
from sppnet.data.yolo import find_yolo
from sppnet.errors import ConfigError, DataError
from sppnet.label.base import PhotoStore, list_photographs
from sppnet.label.coco_files import CocoFiles
from sppnet.label.sheets import AnnotationFiles, LabelledBox, Sheet, State
from sppnet.label.voc_files import VocFiles
from sppnet.label.yolo_files import YoloFiles
from sppnet.structures import GroundTruth

Format = Literal["voc", "coco", "yolo"]

FINDERS: dict[Format, Callable[[Path], object | None]] = {
    "voc": find_voc, "coco": find_coco, "yolo": find_yolo,
}  # fmt: skip

MIN_PX = 1.0
"""Sides of a box."""

MAX_BOXES = 2000
"""Of a photograph."""


@dataclass(kw_only=True)
class Store(PhotoStore[Sheet]):
    """Photographs and their boxes."""

    format: Format
    files: AnnotationFiles

    def truth(self, photo: int) -> GroundTruth:
        """The boxes as they are learned from; difficult ones and crowds are left out."""
        boxes = [box for box in self.sheet(photo).boxes if not box.difficult and not box.crowd]
        labels = [self.classes.index(box.name) for box in boxes]
        return GroundTruth.of(np.array([box.box for box in boxes], np.float32).reshape(-1, 4), labels)

    def done(self) -> list[int]:
        return [photo for photo, sheet in self.sheets.items() if sheet.state == "done"]

    def counts(self) -> dict[str, int]:
        """Objects of every class."""
        found = Counter(box.name for sheet in self.sheets.values() for box in sheet.boxes)
        return {name: found[name] for name in self.classes}

    def change(
        self, photo: int, boxes: Sequence[LabelledBox], done: bool, revision: int | None = None
    ) -> Sheet:
        """The boxes of a photograph, written before this returns; done: that these are all there are.

        revision: of the sheet that was changed. Raises ConflictError if that is not the newest, DataError for
        boxes that cannot be, StoreError or OSError for what cannot be written, ImageError for a photograph
        that is not there.
        """
        with self._lock:
            before = self.newest(photo, revision, "the newest boxes are shown")
            height, width = self.header(photo).size_hw
            checked = [self._check(box, width, height) for box in boxes[: MAX_BOXES + 1]]
            if len(checked) > MAX_BOXES:
                raise DataError(f"a photograph has {MAX_BOXES} boxes at most; got more")
            written = self.files.write(self.paths[photo], _known_origins(checked, before), done)
            state: State = "done" if done else "started"
            sheet = self.sheets[photo] = Sheet(written, state, before.revision + 1)
            return sheet

    def list_class(self, name: str) -> None:
        self.files.add_class(name)

    def _check(self, box: LabelledBox, width: int, height: int) -> LabelledBox:
        if box.name not in self.classes:
            raise DataError(f"{box.name!r} is no class of this folder; add it first")
        if not all(map(math.isfinite, box.box)):
            raise DataError(f"boxes have four finite numbers; got {box.box}")
        x0, y0, x1, y1 = box.box
        fitted = (
            max(0.0, min(x0, x1)),
            max(0.0, min(y0, y1)),
            min(width, max(x0, x1)),
            min(height, max(y0, y1)),
        )
        if fitted[2] - fitted[0] < MIN_PX or fitted[3] - fitted[1] < MIN_PX:
            raise DataError(f"a box is at least a pixel wide and high within the photograph; got {box.box}")
        return box if fitted == box.box else replace(box, box=fitted)


def open_store(root: Path, format: Format | None = None, classes: Sequence[str] = ()) -> Store:
    """The photographs of a folder with the annotations that are there; they go on in their own layout.

    format: the layout of a folder without annotations; VOC by default. classes: added to those there are.
    Raises DataError for a folder without photographs, ConfigError for annotations of another layout.
    """
    root, listed = list_photographs(root)
    there = next((name for name, find in FINDERS.items() if find(root)), None)
    if format is not None and there is not None and format != there:
        raise ConfigError(
            f"{root} has {there.upper()} annotations, which are continued; leave --format out, or convert "
            "them first (sppnet convert)"
        )
    if format is not None and format not in get_args(Format):
        raise ConfigError(f"the format must be {', '.join(get_args(Format))}; got {format!r}")
    chosen: Format = there or format or "voc"
    files: AnnotationFiles = (
        VocFiles(root)
        if chosen == "voc"
        else CocoFiles(root)
        if chosen == "coco"
        else YoloFiles(root, listed.paths)
    )
    known = files.read()
    store = Store(
        root=root,
        paths=list(listed.paths),
        omitted=tuple(one.reason for one in listed.omitted),
        unknown=Sheet(),
        sheets={number: known[path] for number, path in enumerate(listed.paths) if path in known},
        classes=files.classes,
        format=chosen,
        files=files,
    )
    for name in classes:
        store.add_class(name)
    return store


def _known_origins(boxes: Sequence[LabelledBox], before: Sheet) -> list[LabelledBox]:
    """A box that goes back to no entry, or to one that another box goes back to already, is a new one."""
    free = {box.origin for box in before.boxes}
    found = []
    for box in boxes:
        found.append(box if box.origin in free else replace(box, origin=None))
        free.discard(box.origin)
    return found
