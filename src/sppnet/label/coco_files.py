"""COCO annotations that are read and written: JSON files, each replaced as a whole.

A photograph whose boxes are not all drawn yet says "verified": false in its entry.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sppnet.data.annotations import flag, plain_name, said_size
from sppnet.data.coco import CocoSource, find_coco
from sppnet.data.coco_file import corners_of, id_of
from sppnet.data.image import read_header
from sppnet.data.lookup import Lookup
from sppnet.data.problems import Problems
from sppnet.errors import DataError, ImageError
from sppnet.label.sheets import LabelledBox, Sheet, StoreError, WatchedFile, fit_boxes, plain

FILE = "annotations/instances.json"


@dataclass
class _Table:
    """One JSON file in memory, with everything that is in it."""

    file: WatchedFile
    data: dict[str, Any]
    of_image: dict[Any, list[dict[str, Any]]] = field(default_factory=dict)
    next_id: int = 1

    def names(self) -> dict[Any, str]:
        return {id_of(one.get("id")): plain_name(one.get("name", "")) for one in self.data["categories"]}


class CocoFiles:
    """The JSON files of a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source: CocoSource | None = find_coco(root)
        self.problems = Problems()
        self.classes = self.source.class_names() if self.source else ()
        self._tables: list[_Table] = []
        self._entries: dict[Path, tuple[_Table, dict[str, Any]]] = {}

    def read(self) -> dict[Path, Sheet]:
        if self.source is None:
            empty: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
            self._tables = [_Table(WatchedFile(self.root / FILE), empty)]
            return {}
        found: dict[Path, Sheet] = {}
        lookup = Lookup()
        for path in self.source.files:
            table = _load(path)
            self._tables.append(table)
            folders = self.source.image_folders(path)
            for entry in table.data["images"]:
                photo = lookup.file(folders, str(entry.get("file_name", "")))
                if photo is not None and photo not in found:
                    self._entries[photo] = table, entry
                    state = "started" if entry.get("verified") is False else "done"
                    found[photo] = Sheet(self._boxes(table, entry, photo), state)  # type: ignore[arg-type]
        return found

    def _boxes(self, table: _Table, entry: dict[str, Any], photo: Path) -> tuple[LabelledBox, ...]:
        items, names = table.of_image.get(id_of(entry.get("id")), []), table.names()
        read = [
            (number, item, box)
            for number, item in enumerate(items)
            if id_of(item.get("category_id")) in names and (box := corners_of(item.get("bbox"))) is not None
        ]
        said = said_size(entry.get("height"), entry.get("width"))
        try:
            fitted = fit_boxes([box for _, _, box in read], read_header(photo).size_hw, said, photo, False)
        except ImageError:  # told when it is opened
            return ()
        return tuple(
            LabelledBox(
                names[id_of(item["category_id"])],
                box,
                number,
                flag(item.get("ignore")),
                flag(item.get("iscrowd")),
            )
            for (number, item, _), box in zip(read, fitted.boxes, strict=True)
            if box is not None
        )

    def write(self, photo: Path, boxes: Sequence[LabelledBox], done: bool) -> tuple[LabelledBox, ...]:
        table, entry = self._entries.get(photo) or (self._tables[0], self._new_entry(self._tables[0], photo))
        table.file.check()
        known = photo in self._entries
        before = {box.origin: box for box in self._boxes(table, entry, photo)} if known else {}
        items = table.of_image.get(id_of(entry["id"]), [])
        kept = {box.origin: box for box in boxes if box.origin is not None}
        written: list[LabelledBox] = []
        new: list[dict[str, Any]] = []
        number_of = {name: number for number, name in reversed(table.names().items())}
        for number, item in enumerate(items):
            if number not in kept and number in before:
                continue
            new.append(dict(item))
            if number in kept:
                _update(new[-1], kept[number], before.get(number), number_of)
                written.append(replace(kept[number], origin=len(new) - 1))
        next_id = table.next_id
        for box in boxes:
            if box.origin is None:
                new.append(_new_annotation(box, next_id, entry["id"], number_of))
                written.append(replace(box, origin=len(new) - 1))
                next_id += 1
        changed = {**entry, "verified": done}
        self._replace(table, entry, changed, new, next_id, photo, known)
        return tuple(written)

    def _replace(
        self, table: _Table, entry: dict[str, Any], changed: dict[str, Any], items: list[dict[str, Any]],
        next_id: int, photo: Path, known: bool,
    ) -> None:  # fmt: skip
        """In the file first, and in memory once it is there."""
        key = id_of(entry["id"])
        images = [changed if one is entry else one for one in table.data["images"]]
        images += [] if known else [changed]
        others = [one for one in table.data["annotations"] if id_of(one.get("image_id")) != key]
        data = {**table.data, "images": images, "annotations": [*others, *items]}
        table.file.write(json.dumps(data, ensure_ascii=False).encode())
        table.data, table.next_id = data, next_id
        table.of_image[key] = items
        self._entries[photo] = table, changed

    def add_class(self, name: str) -> None:
        """In every file, so that a class has one number; a file that is not there yet is written later."""
        for table in self._tables:
            numbers = [key for key in table.names() if isinstance(key, int)]
            category = {"id": max(numbers, default=0) + 1, "name": name}
            data = {**table.data, "categories": [*table.data["categories"], category]}
            if table.file.digest is not None:
                table.file.write(json.dumps(data, ensure_ascii=False).encode())
            table.data = data
        self.classes = (*self.classes, name)

    def _new_entry(self, table: _Table, photo: Path) -> dict[str, Any]:
        height, width = read_header(photo).size_hw
        numbers = [one.get("id") for one in table.data["images"]]
        number = max((one for one in map(id_of, numbers) if isinstance(one, int)), default=0) + 1
        return {
            "id": number, "file_name": photo.relative_to(self.root).as_posix(),
            "width": width, "height": height,
        }  # fmt: skip


def _load(path: Path) -> _Table:
    file = WatchedFile(path)
    content = file.read()
    try:
        data = json.loads(content or b"")
        lists = {key: data[key] for key in ("images", "annotations", "categories")}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is not COCO that can be written: {error}") from error
    if not all(isinstance(one, dict) for items in lists.values() for one in items):
        raise StoreError(f"{path} holds entries that are no objects; `sppnet check` names them")
    table = _Table(file, data)
    numbers = [one.get("id") for one in data["annotations"]]
    table.next_id = max((one for one in map(id_of, numbers) if isinstance(one, int)), default=0) + 1
    for item in data["annotations"]:
        table.of_image.setdefault(id_of(item.get("image_id")), []).append(item)
    return table


def _update(
    item: dict[str, Any], box: LabelledBox, before: LabelledBox | None, number_of: dict[str, Any]
) -> None:
    if before is None or box.name != before.name:
        item["category_id"] = number_of[box.name]
    if before is None or box.box != before.box:
        item |= _bbox(box)
        if "segmentation" in item:  # an outline would contradict its box
            item["segmentation"] = []


def _new_annotation(box: LabelledBox, number: int, image: Any, number_of: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": number, "image_id": image, "category_id": number_of[box.name], **_bbox(box),
        "iscrowd": int(box.crowd), **({"ignore": 1} if box.difficult else {}),
    }  # fmt: skip


def _bbox(box: LabelledBox) -> dict[str, Any]:
    x0, y0, x1, y1 = box.box
    sides = plain(x1 - x0), plain(y1 - y0)
    return {"bbox": [plain(x0), plain(y0), *sides], "area": plain(sides[0] * sides[1])}
