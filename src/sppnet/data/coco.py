"""COCO: one JSON file a split that lists images, categories and objects.

    ROOT/annotations/instances_train2017.json  ROOT/train2017/* or ROOT/images/…
    ROOT/train/_annotations.coco.json beside its images, or ROOT/anything.json

Boxes are x, y, width, height, 0-based. Ids may have gaps; they only join the lists. The reading of one
file is in `coco_file`. Images are sought by the last parts of their names in the folders named above, so
paths of another machine do no harm, and nothing outside the data set is read.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from sppnet.data.annotations import AnnotatedImage, Location, ParsedDataset, fit_marks
from sppnet.data.coco_file import Table, read_table
from sppnet.data.files import is_hidden, is_image_name, natural_key
from sppnet.data.foreign import unread_tool
from sppnet.data.lookup import Lookup, is_written_so
from sppnet.data.split_names import SPLIT_OF
from sppnet.data.text import decode

NOTES_NAMES = ("annotations", "annotation")

OTHER_TASKS = re.compile(r"(captions|person_keypoints|stuff|panoptic|image_info)_.*")
"""COCO's own files that hold no objects of its 80 categories."""

HEAD_BYTES = 2**16


@dataclass(frozen=True)
class CocoSource:
    """The COCO files of a folder."""

    layout: ClassVar[str] = "COCO"

    root: Path
    notes: Path
    files: dict[Path, str]
    """Every JSON file and its split, "" where there is but one."""
    whole: bool = True
    """Whether all JSON files of the folder are read, and not one that was named."""
    missing: ClassVar[dict[str, str]] = {}
    tables: dict[Path, Table] = field(default_factory=dict, repr=False)
    """Those that were read already: they may be large."""
    lookup: Lookup = field(default_factory=Lookup, repr=False)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(filter(None, self.files.values())))

    def class_names(self) -> tuple[str, ...]:
        """The names of all categories, by their ids."""
        names: dict[str, None] = {}
        for path in self.files:
            categories = self._table(path).categories
            names.update((name, None) for name in categories.values())
        return tuple(names)

    def read(self, splits: Sequence[str]) -> ParsedDataset:
        reading = ParsedDataset()
        for path, split in self.files.items():
            if not splits or split in splits:
                self._read_file(path, reading)
        return reading

    def tell_unused(self, reading: ParsedDataset) -> None:
        if not self.whole:
            return
        used = {image.path for image in reading.images}
        beside = (path for folder in {path.parent for path in used} for path in folder.iterdir())
        bare = sorted(
            path.relative_to(self.root).as_posix()
            for path in beside
            if is_image_name(path) and path not in used and not is_hidden(path.name)
        )
        reading.problems.count("images are listed in no annotation file", "they are left out", bare)

    def _table(self, path: Path) -> Table:
        if path not in self.tables:
            self.tables[path] = read_table(path)
        return self.tables[path]

    def _read_file(self, path: Path, reading: ParsedDataset) -> None:
        table, problems = self._table(path), reading.problems
        for sentence in table.problems:
            problems.add(sentence)
        folders = self.image_folders(path)
        found = {name: self.lookup.file(folders, name) for name in {entry.name for entry in table.images}}
        names: dict[Path, set[str]] = {}
        for name, image in found.items():
            if image:
                names.setdefault(image, set()).add(name)
        for entry in table.images:
            image = found[entry.name]
            if image is None:
                outcome = "they are left out"
                problems.count(f"images that {path.name} lists are not in the data set", outcome, entry.name)
            elif not is_written_so(image, self.root, entry.name) and len(names[image]) > 1:
                outcome = "which of them is meant cannot be known, and they are left out"
                problems.count(f"names in {path.name} fit an image that others fit too", outcome, entry.name)
            else:
                if not is_written_so(image, self.root, entry.name):
                    what = f"names in {path.name} have other folders or letters than the images have here"
                    problems.count(what, "the images are found by the ends of their names", entry.name)
                at = Location(problems, path.name, f"{path.name}, {entry.name}", sides=True)
                marks = fit_marks(entry.marks, image, entry.size_hw, at)
                reading.images.append(AnnotatedImage(image, marks))

    def image_folders(self, path: Path) -> list[Path]:
        """Where the images of a file may be, each once, those named like it first."""
        part = path.stem.rpartition("_")[2]  # instances_train2017
        names = dict.fromkeys((part, self.files[path], *_words(path.stem)))
        below = [[*above, name] for name in names if name for above in (["images"], [])]
        others = [["images"], ["JPEGImages"]]
        folders = [self.lookup.below(self.root, parts) for parts in below]
        folders += [path.parent, self.root, *(self.lookup.below(self.root, parts) for parts in others)]
        return [folder for folder in dict.fromkeys(folders) if folder and folder.is_dir()]


def find_coco(data: Path) -> CocoSource | None:
    """The COCO data set that a folder or a .json file is, if it is one."""
    if data.is_file():
        if data.suffix.lower() != ".json":
            return None
        in_notes = data.parent.name.lower() in NOTES_NAMES
        return CocoSource(data.parent.parent if in_notes else data.parent, data.parent, {data: ""}, False)
    folders = {entry.name.lower(): entry for entry in sorted(data.iterdir()) if entry.is_dir()}
    notes = next((folders[name] for name in NOTES_NAMES if name in folders), data)
    for places in ([notes], [data], [folders[name] for name in SPLIT_OF if name in folders]):
        if files := _coco_files(places):
            return CocoSource(data, notes, _name_splits(files, data))
    return None


def _coco_files(places: Iterable[Path]) -> list[Path]:
    files = [
        file for place in places for file in sorted(place.iterdir(), key=lambda file: natural_key(file.name))
    ]
    files = [
        file
        for file in files
        if file.suffix.lower() == ".json"
        and file.is_file()
        and not OTHER_TASKS.fullmatch(file.name)
        and _looks_coco(file)
    ]
    return [file for file in files if file.name.startswith("instances")] or files


def _looks_coco(path: Path) -> bool:
    with path.open("rb") as file:
        head = decode(file.read(HEAD_BYTES))
    if '"images"' not in head and '"annotations"' not in head:
        return False
    return not head.lstrip().startswith("[") and ('"images"' in head or not unread_tool(".json", head))


def _name_splits(files: list[Path], root: Path) -> dict[Path, str]:
    """The split of each file: a word in its name, its folder, or of several files each one's own name."""
    splits = {}
    for file in files:
        words = [word for word in _words(file.stem) if word in SPLIT_OF]
        if file.parent != root and (folder := SPLIT_OF.get(file.parent.name.lower())):
            words.append(folder)
        splits[file] = (
            SPLIT_OF[words[0]] if words else file.stem.removeprefix("instances_") if len(files) > 1 else ""
        )
    return splits


def _words(name: str) -> list[str]:
    return re.findall("[a-z]+", name.lower())
