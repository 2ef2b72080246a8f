"""COCO: one JSON file a split that lists images, categories and objects.

    ROOT/annotations/instances_train2017.json  ROOT/train2017/* or ROOT/images/…
    ROOT/train/_annotations.coco.json beside its images, or ROOT/anything.json

Boxes are x, y, width, height, 0-based. Ids may have gaps; they only join the lists.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from sppnet.data.files import natural_key
from sppnet.data.marks import Box, Mark, MarkedImage, Reading, fit_box, path_inside, plain_name, size_of
from sppnet.errors import DataError

NOTES_NAMES = ("annotations", "annotation")

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "trainval": "trainval",
    "test": "test",
    "testing": "test",
}
"""Words in names of files and folders that tell the split."""

OTHER_TASKS = re.compile(r"(captions|person_keypoints|stuff|panoptic|image_info)_.*")
"""COCO's own files that hold no objects of its 80 categories."""

KEYS = ("images", "annotations", "categories")

HEAD_BYTES = 2**16

MAX_SIDE = 2**24
"""Of an image in pixels, up to which float32 keeps every one apart."""


@dataclass(frozen=True)
class _Entry:
    """An image as the file lists it."""

    name: str
    size_hw: tuple[int, int] | None
    marks: tuple[Mark, ...]
    """With the boxes as they are written, not yet held against the size."""


@dataclass(frozen=True)
class _Table:
    """One JSON file."""

    categories: dict[Any, str]
    images: tuple[_Entry, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class CocoSource:
    """The COCO files of a folder."""

    layout: ClassVar[str] = "COCO"

    root: Path
    notes: Path
    files: dict[Path, str]
    """Every JSON file and its split, "" where there is but one."""
    tables: dict[Path, _Table] = field(default_factory=dict, repr=False)
    """Those that were read already: they may be large."""

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(filter(None, self.files.values())))

    def class_names(self) -> tuple[str, ...]:
        """The names of all categories, by their ids."""
        names: dict[str, None] = {}
        for path in self.files:
            categories = self._table(path).categories
            names.update(
                (categories[key], None) for key in sorted(categories, key=lambda key: natural_key(str(key)))
            )
        return tuple(names)

    def read(self, splits: Sequence[str]) -> Reading:
        reading = Reading()
        for path, split in self.files.items():
            if not splits or split in splits:
                self._read_file(path, reading)
        return reading

    def _table(self, path: Path) -> _Table:
        if path not in self.tables:
            self.tables[path] = _read_table(path)
        return self.tables[path]

    def _read_file(self, path: Path, reading: Reading) -> None:
        table = self._table(path)
        reading.problems += table.problems
        folders = list(self._image_folders(path))
        missing = []
        for entry in table.images:
            image = _find_image(folders, entry.name)
            if image is None:
                missing.append(entry.name)
                continue
            marks = _fitted(entry, image, path.name, reading.problems)
            reading.images.append(MarkedImage(image, marks))
        if missing:
            names = ", ".join(missing[:3])
            reading.problems.append(
                f"{path.name} lists {len(missing)} images that are not in the data set, such as {names}; "
                "they are left out"
            )

    def _image_folders(self, path: Path) -> Iterable[Path]:
        """Where the images of a file may be, each once."""
        part = path.stem.rpartition("_")[2]  # instances_train2017
        names = dict.fromkeys((part, self.files[path], *_words(path.stem)))
        below = [place / name for name in names for place in (self.root / "images", self.root)]
        folders = [path.parent, self.root, self.root / "images", *below, self.root / "JPEGImages"]
        return dict.fromkeys(folder for folder in folders if folder.is_dir())


def find_coco(data: Path) -> CocoSource | None:
    """The COCO data set that a folder or a .json file is, if it is one."""
    if data.is_file():
        if data.suffix.lower() != ".json":
            return None
        in_notes = data.parent.name.lower() in NOTES_NAMES
        return CocoSource(data.parent.parent if in_notes else data.parent, data.parent, {data: ""})
    folders = {entry.name.lower(): entry for entry in sorted(data.iterdir()) if entry.is_dir()}
    notes = next((folders[name] for name in NOTES_NAMES if name in folders), data)
    for places in ([notes], [data], [folders[name] for name in SPLIT_WORDS if name in folders]):
        if files := _coco_files(places):
            return CocoSource(data, notes, _name_splits(files, data))
    return None


def _coco_files(places: Iterable[Path]) -> list[Path]:
    files = [
        file
        for place in places
        for file in sorted(place.glob("*.json"), key=lambda file: natural_key(file.name))
    ]
    files = [file for file in files if not OTHER_TASKS.fullmatch(file.name) and _looks_coco(file)]
    return [file for file in files if file.name.startswith("instances")] or files


def _looks_coco(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return any(f'"{key}"'.encode() in head for key in KEYS)


def _name_splits(files: list[Path], root: Path) -> dict[Path, str]:
    """The split of each file: a word in its name, its folder, or of several files each one's own name."""
    splits = {}
    for file in files:
        words = [word for word in _words(file.stem) if word in SPLIT_WORDS]
        if file.parent != root and (folder := SPLIT_WORDS.get(file.parent.name.lower())):
            words.append(folder)
        splits[file] = (
            SPLIT_WORDS[words[0]] if words else file.stem.removeprefix("instances_") if len(files) > 1 else ""
        )
    return splits


def _words(name: str) -> list[str]:
    return re.findall("[a-z]+", name.lower())


def _find_image(folders: list[Path], name: str) -> Path | None:
    """The image of that name in the first of the folders that has it, which is moved to the front."""
    for place, folder in enumerate(folders):
        path = path_inside(folder, name)
        if path is not None and path.is_file():
            folders.insert(0, folders.pop(place))
            return path
    return None


# --- one file ------------------------------------------------------------------------------------


def _read_table(path: Path) -> _Table:
    """Raises DataError for a file that is no COCO."""
    data = _load(path)
    categories = {item["id"]: plain_name(item["name"]) for item in _items(data["categories"], "id", "name")}
    by_image: dict[Any, list[Mark]] = {}
    known = {item["id"] for item in _items(data["images"], "id", "file_name")}
    faults = _Faults(path.name)
    for number, item in enumerate(data["annotations"]):
        if not isinstance(item, dict) or not _hashable(item.get("image_id"), item.get("category_id")):
            faults.add("are not understood", number)
        elif item.get("image_id") not in known:
            faults.add("are of images that are not listed", number)
        elif item.get("category_id") not in categories:
            faults.add("are of categories that are not listed", number)
        elif (box := _corners(item.get("bbox"))) is None:
            faults.add("have no bbox of four numbers", number)
        else:
            name, difficult, crowd = categories[item["category_id"]], item.get("ignore"), item.get("iscrowd")
            by_image.setdefault(item["image_id"], []).append(Mark(name, box, bool(difficult), bool(crowd)))
    images = tuple(
        _Entry(str(item["file_name"]), _said_size(item), tuple(by_image.get(item["id"], ())))
        for item in _items(data["images"], "id", "file_name")
    )
    lost = [f"{path.name}: {count} of its {key} have no {need}; they are left out"
            for key, need, count in (("images", "id or file_name", len(data["images"]) - len(images)),
                                     ("categories", "id or name", len(data["categories"]) - len(categories)))
            if count]  # fmt: skip
    return _Table(categories, images, (*lost, *faults.sentences()))


def _load(path: Path) -> dict[str, list[Any]]:
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise DataError(f"{path} is not COCO: expected an object with {', '.join(KEYS)}, got a list or value")
    if missing := [key for key in KEYS if not isinstance(data.get(key), list)]:
        held = ", ".join(map(str, data)) or "nothing"
        raise DataError(f"{path} is not COCO: it has no list of {' and '.join(missing)} (it has {held})")
    return data


def _items(entries: list[Any], *keys: str) -> list[dict[str, Any]]:
    return [
        item
        for item in entries
        if isinstance(item, dict) and all(key in item for key in keys) and _hashable(item[keys[0]])
    ]


def _hashable(*values: Any) -> bool:
    return all(isinstance(value, int | str | float | None) for value in values)


@dataclass
class _Faults:
    """Annotations that are left out, by reason: files may have thousands."""

    name: str
    numbers: dict[str, list[int]] = field(default_factory=dict)

    def add(self, reason: str, number: int) -> None:
        self.numbers.setdefault(reason, []).append(number)

    def sentences(self) -> Iterable[str]:
        for reason, numbers in self.numbers.items():
            first = f"annotations[{numbers[0]}]"
            yield f"{self.name}: {len(numbers)} annotations {reason}, the first {first}; they are left out"


def _fitted(entry: _Entry, image: Path, name: str, problems: list[str]) -> tuple[Mark, ...]:
    """The marks with boxes that lie in the image."""
    marks = []
    size_hw = entry.size_hw or size_of(image, problems)
    for mark in entry.marks:
        box, done = fit_box(mark.box, size_hw)
        if done:
            x0, y0, x1, y1 = mark.box
            bbox = f"({x0:g}, {y0:g}, {x1 - x0:g}, {y1 - y0:g})"
            problems.append(f"{name}, {entry.name}: the bbox of {mark.name} {bbox} {done}")
        if box:
            marks.append(mark if box == mark.box else replace(mark, box=box))
    return tuple(marks)


def _corners(bbox: Any) -> Box | None:
    """xyxy of x, y, width, height."""
    if not isinstance(bbox, list) or len(bbox) != 4:
        return None
    x, y, width, height = bbox
    try:
        box = float(x + 0), float(y + 0), float(x + width), float(y + height)  # text has no sum with 0
    except (TypeError, OverflowError):
        return None
    return box if all(map(math.isfinite, box)) else None


def _said_size(item: dict[str, Any]) -> tuple[int, int] | None:
    """Height and width as the file says, which spares reading the image."""
    height, width = item.get("height"), item.get("width")
    if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
        return (height, width) if max(height, width) < MAX_SIDE else None
    return None
