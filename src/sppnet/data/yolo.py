"""YOLO: one text file an image, of lines "class cx cy width height" in shares of the image's sides.

    ROOT/data.yaml  ROOT/images/train/*.jpg  ROOT/labels/train/*.txt
    ROOT/data.yaml  ROOT/train/images/*.jpg  ROOT/train/labels/*.txt
    ROOT/classes.txt  ROOT/images/*.jpg  ROOT/labels/*.txt, or images and labels side by side (labelImg)
    ROOT/obj.names  ROOT/obj.data  ROOT/train.txt  ROOT/obj_train_data/* (darknet, CVAT's YOLO 1.1)

The paths in data.yaml are those of the machine that wrote it, absolute or from some folder above.
They are sought by their last parts below the folder of data.yaml, so nothing outside is ever read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from sppnet.data.annotations import AnnotatedImage, BoxAnnotation, ParsedDataset, fit_box
from sppnet.data.files import is_image_name, natural_key, walk_files
from sppnet.data.image import read_header
from sppnet.data.lookup import Lookup, fold, shards_of
from sppnet.data.problems import Problems
from sppnet.data.split_names import SPLIT_OF
from sppnet.data.text import read_lines
from sppnet.data.yolo_labels import TOLD, CornerTally, Line, box_of, class_number, find_ways, read_label
from sppnet.data.yolo_settings import Settings, from_darknet, from_list, from_yaml, read_yaml
from sppnet.errors import DataError, ImageError

CLASSES = "classes.txt"
OTHER_LISTS = ("labels.txt", "class_names.txt", "names.txt", "predefined_classes.txt")
"""What else lists of classes are called in the folder of the data set; the last is labelImg's."""


@dataclass(frozen=True)
class YoloSource:
    """A folder in the YOLO layout."""

    layout: ClassVar[str] = "YOLO"

    root: Path
    notes: Path
    settings: Settings
    places: dict[str, tuple[Path, ...]]
    """Folders, lists and images of each split that is there."""
    missing: dict[str, str]
    lookup: Lookup = field(default_factory=Lookup, repr=False)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.places)

    def class_names(self) -> tuple[str, ...]:
        names = self.settings.names
        return tuple(dict.fromkeys(names[number] for number in sorted(names)))

    def read(self, splits: Sequence[str]) -> ParsedDataset:
        reading = ParsedDataset()
        for sentence in self.settings.problems:
            reading.problems.add(sentence)
        images: dict[Path, None] = {}
        for split in splits or self.splits:
            for place in self.places[split]:
                images.update(dict.fromkeys(self._images_of(place, reading.problems)))
        if not self.places:
            images.update(dict.fromkeys(self._images_without_splits()))
        labels = {image: label for image in images if (label := self.label_of(image))}
        if images and not labels:
            reading.problems.add(f"none of {len(images)} images has a label file, so none has an object")
        self._tell_orphans(images, reading.problems)
        self._read_images(list(images), labels, reading)
        return reading

    def tell_unused(self, reading: ParsedDataset) -> None:
        used = {image.path for image in reading.images}
        if self.places:
            unused = (path for path in walk_files(self.root) if is_image_name(path) and path not in used)
            bare = [path.relative_to(self.root).as_posix() for path in unused]
            outcome = f"they are left out; to read them, name their folder in {self.settings.file.name}"
            reading.problems.count("images are in no split", outcome, bare)

    def has_labels(self) -> bool:
        """Whether any image has a label file."""
        places = [place for found in self.places.values() for place in found] or [self.root]
        images = (image for place in places for image in self._images_of(place, Problems()))
        return any(map(self.label_of, images))

    # --- images --------------------------------------------------------------------------------

    def _images_without_splits(self) -> Iterator[Path]:
        if self.missing:
            raise DataError(next(iter(self.missing.values())))
        folder = self.lookup.entry(self.root, "images")
        found = walk_files(folder if folder and folder.is_dir() else self.root)
        return filter(is_image_name, found)

    def _images_of(self, place: Path, problems: Problems) -> Iterator[Path]:
        if place.is_dir():
            yield from filter(is_image_name, walk_files(place))
        elif is_image_name(place):
            yield place
        else:
            for line in read_lines(place):
                if found := self.lookup.file([place.parent, self.root], line):
                    yield found
                else:
                    what = f"images that {place.name} lists are not below {self.root.name}"
                    problems.count(what, "they are left out", line)

    # --- labels --------------------------------------------------------------------------------

    def label_folders(self, image: Path) -> Iterator[list[str]]:
        """Where the label file of an image may be: in labels/ for images/, in labels/ below it, beside it."""
        folders = list(image.relative_to(self.root).parts[:-1])
        for index in reversed(range(len(folders))):
            if fold(folders[index]) == "images":
                yield [*folders[:index], "labels", *folders[index + 1 :]]
        yield [*folders, "labels"]
        yield folders

    def label_of(self, image: Path) -> Path | None:
        """The label file that is there for an image."""
        name = image.with_suffix(".txt").name
        found = (self.lookup.below(self.root, [*folders, name]) for folders in self.label_folders(image))
        return next((path for path in found if path and path.is_file()), None)

    def _tell_orphans(self, images: dict[Path, None], problems: Problems) -> None:
        """Label files in the folders of labels that no image has the name of."""
        orphans = []
        for folder, image in {image.parent: image for image in images}.items():
            stems = {fold(path.stem) for path in folder.iterdir() if is_image_name(path)}
            places = (self.lookup.below(self.root, parts) for parts in self.label_folders(image))
            place = next((place for place in places if place and place.is_dir()), folder)
            files = (path for path in place.glob("*.txt") if fold(path.stem) not in stems)
            orphans += [path.relative_to(self.root).as_posix() for path in files if _looks_like_labels(path)]
        problems.count("label files have no image", "they are left out", sorted(orphans, key=natural_key))

    def _read_images(self, images: Sequence[Path], labels: dict[Path, Path], reading: ParsedDataset) -> None:
        owners: dict[Path, list[Path]] = {}
        for image, own in labels.items():
            owners.setdefault(own, []).append(image)
        ways, tally = find_ways(map(read_label, owners), self.settings.has_points), CornerTally()
        for image in images:
            label = labels.get(image)
            lines = read_label(label) if label else []
            tally.add(lines)
            if label is None or not lines:
                reading.images.append(AnnotatedImage(image, ()))
            elif len(owners[label]) > 1:
                outcome = "which is meant cannot be known, and they are left out"
                example = f"{image.name} ({label.name})"
                reading.problems.count("images share a label file with others", outcome, example)
            else:
                marks = tuple(self._marks(image, label, lines, ways, reading.problems))
                reading.images.append(AnnotatedImage(image, marks))
        if tally.are_corners:
            reading.problems.add(
                f"{tally.beyond} of {tally.count} boxes reach beyond their images, and all would be boxes if "
                "they were corners x0, y0, x1, y1; they are read as centre, width, height, as YOLO has them"
            )

    def _marks(
        self, image: Path, label: Path, lines: Sequence[Line], ways: dict[int, str], problems: Problems
    ) -> Iterator[BoxAnnotation]:
        try:
            size_hw = read_header(image).size_hw
        except ImageError as error:
            problems.add(f"{error}; so its size is not known, and its objects are left out")
            return
        name = label.relative_to(self.root).as_posix()
        for line in lines:
            place, way = f"{name}, line {line.number}", ways[len(line.columns)]
            class_name, shares = self.settings.names.get(class_number(line.columns[0])), box_of(line, way)
            if isinstance(shares, str):
                problems.add(f"{place}: {shares}; it is left out")
                continue
            if class_name is None:
                known = f"{min(self.settings.names)} to {max(self.settings.names)}"
                names = self.settings.file.name
                expected = f"a class number of {known} was expected, as {names} names them"
                problems.add(f"{place}: {expected}; got {line.columns[0]}; it is left out")
                continue
            if way in TOLD:
                what, outcome = TOLD[way]
                problems.count(what, outcome, f"{place} ({line.text})")
            (x0, y0, x1, y1), (height, width) = shares, size_hw
            box, done = fit_box((x0 * width, y0 * height, x1 * width, y1 * height), size_hw)
            if done:
                problems.add(f"{place}: the box of {class_name} {done}")
            if box:
                yield BoxAnnotation(class_name, box)


def _looks_like_labels(file: Path) -> bool:
    lines = read_label(file)
    return bool(lines) and all(len(line.columns) > 4 and class_number(line.columns[0]) >= 0 for line in lines)


# --- which data set ------------------------------------------------------------------------------


def find_yolo(data: Path) -> YoloSource | None:
    """The YOLO data set that a folder or a .yaml file is, if it is one."""
    if data.is_file():
        is_yaml = data.suffix.lower() in (".yaml", ".yml")
        return _source(data.parent, from_yaml(data, read_yaml(data))) if is_yaml else None
    files = [file for file in sorted(data.iterdir()) if file.suffix.lower() in (".yaml", ".yml")]
    for file in sorted(files, key=lambda file: file.stem.lower() != "data"):
        try:
            settings = read_yaml(file)
            if "names" in settings or "nc" in settings:
                return _source(data, from_yaml(file, settings))
        except DataError:
            if file.stem.lower() == "data":
                raise
    return _find_darknet(data) or _find_folders(data)


def _find_darknet(root: Path) -> YoloSource | None:
    names = next(iter(sorted(root.glob("*.names"))), None)
    if names is None:
        return None
    data = next(iter(sorted(root.glob("*.data"))), None)
    lookup, lists = Lookup(), dict[str, Path]()
    for key, split in SPLIT_OF.items():
        if (file := lookup.entry(root, f"{key}.txt")) and file.is_file():
            lists.setdefault(split, file)
    source = _source(root, from_darknet(names, data, lists))
    return source if source.places or source.has_labels() else None


def _find_folders(root: Path) -> YoloSource | None:
    """With the names in a classes.txt of the root or of the folder of labels or images."""
    lookup, splits = Lookup(), list(SPLIT_OF)
    below = [[], ["labels"], ["images"], *([split] for split in splits)]
    below += [["labels", split] for split in splits] + [[split, "labels"] for split in splits]
    tried = [[*parts, CLASSES] for parts in below] + [[name] for name in OTHER_LISTS]
    files = (lookup.below(root, parts) for parts in tried)
    listed = next((file for file in files if file and file.is_file()), None)
    if listed is None:
        return None
    entries: dict[str, tuple[str, ...]] = {}
    for split in splits:
        folders = (lookup.below(root, parts) for parts in (["images", split], [split, "images"], [split]))
        if place := next((place for place in folders if place and place.is_dir()), None):
            entries.setdefault(SPLIT_OF[split], (place.relative_to(root).as_posix(),))
    source = _source(root, from_list(listed, entries))
    both = all(lookup.below(root, [name]) for name in ("images", "labels"))
    return source if both or source.has_labels() else None


def _source(root: Path, settings: Settings) -> YoloSource:
    lookup = Lookup()
    places: dict[str, tuple[Path, ...]] = {}
    missing = {}
    for split, entries in settings.entries.items():
        found = {entry: _find_place(root, settings.base, entry, lookup) for entry in entries}
        places[split] = tuple(place for place in found.values() if place and _holds_images(place))
        if bare := [entry for entry, place in found.items() if place and place not in places[split]]:
            missing[split] = f"the {split} images, {', '.join(bare)}, are in a folder without images"
        if lost := [entry for entry, place in found.items() if not place]:
            missing[split] = (
                f"the {split} images, {', '.join(lost)}, are not below {root}, and nothing outside is read; "
                f"put {settings.file.name} beside its images, or correct its paths"
            )
    places = {split: found for split, found in places.items() if found}
    return YoloSource(root, root / "labels", settings, places, missing, lookup)


def _holds_images(place: Path) -> bool:
    return not place.is_dir() or any(map(is_image_name, place.rglob("*")))


def _find_place(root: Path, base: str, written: str, lookup: Lookup) -> Path | None:
    """What lies below the root under the last parts of a path, as many of them as possible.

    A folder named for a split is never dropped: images/ is not what test/images means.
    """
    own = shards_of(written)
    parts = [*shards_of(base), *own]
    if not parts:
        return root
    kept = max((len(own) - i for i, part in enumerate(own) if part.lower() in SPLIT_OF), default=1)
    tails = (parts[start:] for start in range(len(parts) - min(kept, len(own)) + 1))
    return next(filter(None, (lookup.below(root, tail) for tail in tails)), None)
