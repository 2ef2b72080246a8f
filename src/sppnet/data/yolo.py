"""YOLO: one text file an image, of lines "class cx cy width height" in shares of the image's sides.

    ROOT/data.yaml  ROOT/images/train/*.jpg  ROOT/labels/train/*.txt
    ROOT/data.yaml  ROOT/train/images/*.jpg  ROOT/train/labels/*.txt
    ROOT/classes.txt  ROOT/images/*.jpg  ROOT/labels/*.txt

The paths in data.yaml are those of the machine that wrote it, absolute or from some folder above.
They are sought by their last parts below the folder of data.yaml, so nothing outside is ever read.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import yaml

from sppnet.data.files import is_image_name, walk_files
from sppnet.data.image import read_header
from sppnet.data.marks import Box, Mark, MarkedImage, Reading, exists, fit_box, plain_name
from sppnet.errors import DataError, ImageError

SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}

MAX_YAML_BYTES = 2**20

MAX_YAML_DEPTH = 20

SLACK = 0.1
"""Shares may exceed 1 by this and be clipped; beyond it they must be pixels, or something else."""


@dataclass(frozen=True)
class YoloSource:
    """A folder in the YOLO layout."""

    layout: ClassVar[str] = "YOLO"

    root: Path
    notes: Path
    names: dict[int, str]
    """Class names by their numbers in the label files."""
    entries: dict[str, tuple[str, ...]]
    """Folders, lists and images of each split, as data.yaml names them."""
    has_points: bool = False
    """Key points follow each box."""

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.entries)

    def class_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.names[number] for number in sorted(self.names)))

    def read(self, splits: Sequence[str]) -> Reading:
        reading = Reading()
        images: dict[Path, None] = {}
        for split in splits or self.splits:
            for entry in self.entries[split]:
                images.update(dict.fromkeys(self._images_of(entry, split, reading.problems)))
        if not self.entries:
            folder = self.root / "images"
            found = walk_files(folder if folder.is_dir() else self.root)
            images.update(dict.fromkeys(filter(is_image_name, found)))
        labels = {image: label for image in images if (label := self._label_of(image))}
        if images and not labels:
            reading.problems.append(f"none of {len(images)} images has a label file, so none has an object")
        for image in images:
            reading.images.append(self._read_one(image, labels.get(image), reading.problems))
        return reading

    def _images_of(self, entry: str, split: str, problems: list[str]) -> Iterator[Path]:
        place = _find_below(self.root, entry)
        if place is None:
            raise DataError(
                f"the {split} images, {entry}, are not below {self.root}, and nothing outside is read; "
                "put data.yaml beside its images, or correct its paths"
            )
        if place.is_dir():
            yield from filter(is_image_name, walk_files(place))
        elif is_image_name(place):
            yield place
        else:
            yield from self._listed_images(place, problems)

    def _listed_images(self, file: Path, problems: list[str]) -> Iterator[Path]:
        missing = []
        for line in filter(None, map(str.strip, _text(file).splitlines())):
            found = _find_below(file.parent, line) or _find_below(self.root, line)
            if found and found.is_file():
                yield found
            else:
                missing.append(line)
        if missing:
            listed = f"{len(missing)} images that are not below {self.root.name}, such as {missing[0]}"
            problems.append(f"{file.name} lists {listed}; they are left out")

    def _label_of(self, image: Path) -> Path | None:
        parts = list(image.relative_to(self.root).parts)
        places = [index for index, part in enumerate(parts[:-1]) if part.lower() == "images"]
        candidates = [self.root.joinpath(*parts[:i], "labels", *parts[i + 1 :]) for i in places[-1:]]
        found = (path.with_suffix(".txt") for path in (*candidates, image))
        return next((path for path in found if path.is_file()), None)

    def _read_one(self, image: Path, label: Path | None, problems: list[str]) -> MarkedImage:
        lines = _text(label).splitlines() if label else []
        if label is None or not any(map(str.strip, lines)):
            return MarkedImage(image, ())
        try:
            size_hw = read_header(image).size_hw
        except ImageError as error:
            problems.append(f"{error}; so its size is not known, and its objects are left out")
            return MarkedImage(image, ())
        name = label.relative_to(self.root).as_posix()
        return MarkedImage(image, tuple(self._marks(lines, size_hw, name, problems)))

    def _marks(
        self, lines: Iterable[str], size_hw: tuple[int, int], name: str, problems: list[str]
    ) -> Iterator[Mark]:
        for number, line in enumerate(lines, 1):
            if not (columns := line.split()):
                continue
            shares = _shares(columns[1:5] if self.has_points else columns[1:])
            class_name = self.names.get(_number(columns[0]))
            if shares is None or class_name is None:
                what = "a box of shares of the sides" if shares is None else f"a known class ({columns[0]})"
                problems.append(f"{name}: line {number} has not {what}; it is left out")
                continue
            height, width = size_hw
            x0, y0, x1, y1 = shares
            box, done = fit_box((x0 * width, y0 * height, x1 * width, y1 * height), size_hw)
            if done:
                problems.append(f"{name}: the box of {class_name} in line {number} {done}")
            if box:
                yield Mark(class_name, box)


def find_yolo(data: Path) -> YoloSource | None:
    """The YOLO data set that a folder or a .yaml file is, if it is one."""
    if data.is_file():
        return _from_yaml(data, _load(data)) if data.suffix.lower() in (".yaml", ".yml") else None
    files = [file for suffix in ("yaml", "yml") for file in sorted(data.glob(f"*.{suffix}"))]
    for file in sorted(files, key=lambda file: file.stem != "data"):
        try:
            settings = _load(file)
            if "names" in settings or "nc" in settings:
                return _from_yaml(file, settings)
        except DataError:
            if file.stem == "data":
                raise
    return _from_folders(data)


def _from_yaml(file: Path, settings: dict[str, Any]) -> YoloSource:
    base = settings.get("path")
    folder = PurePosixPath(base if isinstance(base, str) else "")
    entries: dict[str, tuple[str, ...]] = {}
    for key, split in SPLIT_KEYS.items():
        value = settings.get(key)
        named = [value] if isinstance(value, str) else value
        if isinstance(named, list) and named and all(isinstance(entry, str) for entry in named):
            entries[split] = tuple(str(folder / entry) for entry in named)
    notes = file.parent / "labels"
    return YoloSource(file.parent, notes, _names(settings, file), entries, "kpt_shape" in settings)


def _from_folders(root: Path) -> YoloSource | None:
    """Without data.yaml: images/ and labels/, with the names in classes.txt."""
    images, labels = root / "images", root / "labels"
    listed = next((file for file in (root / "classes.txt", labels / "classes.txt") if file.is_file()), None)
    if listed is None or not (images.is_dir() and labels.is_dir()):
        return None
    names = dict(enumerate(filter(None, map(plain_name, _text(listed).splitlines()))))
    entries: dict[str, tuple[str, ...]] = {
        split: (f"images/{name}",) for name, split in SPLIT_KEYS.items() if (images / name).is_dir()
    }
    return YoloSource(root, labels, names, entries)


def _load(file: Path) -> dict[str, Any]:
    if file.stat().st_size > MAX_YAML_BYTES:
        raise DataError(f"{file} is larger than {MAX_YAML_BYTES:,} bytes; a data.yaml has a few lines")
    text = _text(file)
    try:
        _check_events(text)
        settings = yaml.safe_load(text)
    except Exception as error:  # what builds numbers and dates out of text fails in any way
        raise DataError(f"{file} is not YAML that can be used: {' '.join(str(error).split())}") from error
    return settings if isinstance(settings, dict) else {}


def _check_events(text: str) -> None:
    """Refuses what makes a small file grow without bound when it is read: aliases, and nesting."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it uses the alias *{event.anchor}; write out what it stands for")
        if depth > MAX_YAML_DEPTH:
            raise ValueError(f"it is nested more than {MAX_YAML_DEPTH} deep")


def _names(settings: dict[str, Any], file: Path) -> dict[int, str]:
    """Class names by number: a list, a mapping, or only how many there are."""
    names, count = settings.get("names"), settings.get("nc")
    if isinstance(names, list) and names:
        return {number: plain_name(name) for number, name in enumerate(names)}
    if isinstance(names, dict) and all(str(key).isdecimal() for key in names):
        return {int(key): plain_name(name) for key, name in names.items()}
    if names is None and isinstance(count, int) and 0 < count < MAX_YAML_BYTES:
        return {number: str(number) for number in range(count)}
    raise DataError(f"{file} has no names: expected a list of class names, or a mapping from 0, 1, … to them")


def _find_below(folder: Path, written: str) -> Path | None:
    """What lies below `folder` under the last parts of a path, as many of them as possible."""
    parts = [part for part in PurePosixPath(written.replace("\\", "/")).parts if part not in ("/", "..", ".")]
    tails = (folder.joinpath(*parts[start:]) for start in range(len(parts)))
    if not parts:
        return folder
    return next(filter(exists, tails), None)


# --- one file ------------------------------------------------------------------------------------


def _text(file: Path) -> str:
    return file.read_bytes().decode("utf-8-sig", "replace")


def _number(text: str) -> int:
    """A class number, which some tools write as 0.0; −1 for anything else."""
    try:
        value = float(text)
        return int(value) if value.is_integer() else -1
    except (ValueError, OverflowError):
        return -1


def _shares(columns: Sequence[str]) -> Box | None:
    """xyxy in shares, of a box or of the corners of an outline; None for anything else."""
    try:
        values = [float(column) for column in columns]
    except ValueError:
        return None
    if not all(-SLACK <= value <= 1 + SLACK for value in values):
        return None
    if len(values) == 4:
        cx, cy, width, height = values
        return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2
    if len(values) >= 6 and len(values) % 2 == 0:
        return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    return None
