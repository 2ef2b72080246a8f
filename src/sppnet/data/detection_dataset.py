"""Photographs in which objects are marked with boxes, in whatever layout they come.

    VOC    Annotations/*.xml, JPEGImages/, ImageSets/Main/*.txt, or XML files beside the images
    COCO   a .json file, or annotations/*.json and images/
    YOLO   data.yaml, images/ and labels/, or classes.txt, or darknet's obj.names

Nothing is ever written. What is odd in the files is put right where it is plain what was meant, left
out where it is not, and told in one sentence each: `AnnotatedImages.problems`. Opening a data set logs
a warning that counts them.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sppnet.data.annotations import AnnotatedImage, AnnotationSource, BoxAnnotation, ParsedDataset
from sppnet.data.class_list import read_class_list
from sppnet.data.coco import find_coco
from sppnet.data.files import is_hidden, natural_key, path_key
from sppnet.data.foreign import unread_annotations
from sppnet.data.lookup import Lookup
from sppnet.data.problems import alike_classes, repeated_boxes, tiny_boxes
from sppnet.data.split_names import SPLIT_ORDER
from sppnet.data.text import read_lines
from sppnet.data.voc import find_voc
from sppnet.data.yolo import find_yolo
from sppnet.errors import DataError, did_you_mean, printable
from sppnet.structures import GroundTruth

LAYOUTS = (
    "VOC (Annotations/*.xml with JPEGImages/, or XML files beside the images)",
    "COCO (a .json file, or annotations/*.json)",
    "YOLO (data.yaml, classes.txt or obj.names with images and labels)",
)

MAX_FOLDERS = 3
"""Folders of one folder each that are passed through."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class AnnotatedImages:
    """Image files and the objects in them; `images[i]` is (path, truth)."""

    root: Path
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    truths: tuple[GroundTruth, ...]
    problems: tuple[str, ...]
    """What was odd in the files, and what was made of it: one sentence each."""

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.truths):
            raise DataError(f"{len(self.paths)} images need as many truths; got {len(self.truths)}")
        labels = np.concatenate([truth.labels for truth in self.truths]) if self.truths else np.zeros(0)
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise DataError(f"labels must be 0..{len(self.classes) - 1}; got {labels.min()}..{labels.max()}")

    def __repr__(self) -> str:
        return f"AnnotatedImages({self.root}: {len(self)} images, {len(self.classes)} classes)"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Path, GroundTruth]:
        return self.paths[index], self.truths[index]

    def take(self, indices: Iterable[int]) -> "AnnotatedImages":
        """The images of these indices, with all classes and problems."""
        chosen = [int(index) for index in indices]
        return AnnotatedImages(
            self.root,
            self.classes,
            tuple(self.paths[i] for i in chosen),
            tuple(self.truths[i] for i in chosen),
            self.problems,
        )

    def of_classes(self, names: tuple[str, ...]) -> "AnnotatedImages":
        """All images, with the objects of these classes alone."""
        labels = np.array([names.index(name) if name in names else -1 for name in self.classes], np.int64)
        truths = []
        for truth in self.truths:
            own = truth[labels[truth.labels] >= 0]
            truths.append(GroundTruth(own.boxes, labels[own.labels], own.difficult, own.crowd))
        return AnnotatedImages(self.root, names, self.paths, tuple(truths), self.problems)

    def counts(self, plain: bool = False) -> dict[str, int]:
        """Objects of every class, in the order of `classes`; plain: without difficult ones and crowds."""
        totals: Counter[int] = Counter()
        for truth in self.truths:
            odd = (truth.difficult | truth.crowd) if plain else np.zeros(len(truth.labels), np.bool_)
            totals.update(truth.labels[~odd].tolist())
        return {name: totals[label] for label, name in enumerate(self.classes)}


def open_annotated(data: str | Path, split: str | None = None) -> AnnotatedImages:
    """The images of a data set in the VOC, COCO or YOLO layout, in natural order.

    data: a folder; or COCO's .json, or YOLO's .yaml file.
    split: "train", "val", "trainval", "test" or what the data set calls its own; None reads all.
    Classes are those of a classes.txt in the folder or beside the annotations, one a line; else in
    COCO's or YOLO's own order, else all that VOC files name, sorted; so all splits have the same.
    A warning is logged that counts the problems.
    Raises DataError if the layout is another, there is no such split, or no image in it.
    """
    images = read_annotated(data, split)
    if not len(images):
        first = f"; {images.problems[0]}" if images.problems else ""
        part = f" in its {split} split" if split else ""
        raise DataError(f"{data} holds no images with {find_source(data).layout} annotations{part}{first}")
    if problems := images.problems:
        things = "thing is" if len(problems) == 1 else "things are"
        logger.warning(
            "%s: %d %s read otherwise than written, or left out: %s%s; `sppnet check` lists all",
            data, len(problems), things, problems[0], " …" if len(problems) > 1 else "",
        )  # fmt: skip
    return images


def read_annotated(data: str | Path, split: str | None = None) -> AnnotatedImages:
    """As `open_annotated`, but of a split that holds nothing without an error, and without a warning."""
    source = find_source(data)
    reading = source.read(_parts_of(split, source, data))
    for sentence in source.missing.values():
        reading.problems.add(f"{sentence}; they are left out")
    if split is None:
        source.tell_unused(reading)
    classes = _listed_classes(source, reading) or source.class_names()
    images = sorted(_without_repeats(reading), key=lambda image: path_key(image.path))
    labels = {name: label for label, name in enumerate(classes)}
    truths = tuple(_truth(image.marks, labels) for image in images)
    paths = tuple(image.path for image in images)
    foreign = _foreign_classes(images, classes)
    odd = (*foreign, *alike_classes(classes), *tiny_boxes(truths))
    problems = map(printable, (*reading.problems, *odd, *repeated_boxes(paths, truths)))
    return AnnotatedImages(source.root, classes, paths, truths, tuple(dict.fromkeys(problems)))


def find_annotated_splits(data: str | Path) -> tuple[str, ...]:
    """What `open_annotated` can be asked for: "train", "val", "trainval", "test", then others.

    Empty for a data set without splits. Raises DataError if `data` is no annotated data set.
    """
    return _offered(find_source(data))


def default_split(data: str | Path, wanted: tuple[str, ...] = ("trainval", "train")) -> str | None:
    """The first of the wanted splits that a data set has; None if it has no splits."""
    offered = find_annotated_splits(data)
    found = next((name for name in wanted if name in offered), None)
    if found is None and offered:
        raise DataError(f"{data} has the splits {', '.join(offered)}; choose one with --split")
    return found


def is_annotated(data: str | Path) -> bool:
    """Whether `open_annotated` knows the layout."""
    here = Path(data)
    return here.exists() and _find(here) is not None


def find_annotated_below(data: str | Path) -> list[Path]:
    """Data sets in the folders of a folder that is none."""
    inner = [Path(data), *_only_folders(Path(data))][-1]
    return [entry for entry in sorted(inner.iterdir()) if entry.is_dir() and _find_at(entry)]


def find_source(data: str | Path) -> AnnotationSource:
    """The files of a data set; raises DataError naming what was looked for."""
    here = Path(data)
    if not here.exists():
        raise DataError(f"{data} does not exist; check the path")
    if source := _find(here):
        return source
    if here.is_file():
        raise DataError(
            f"{data} is neither a COCO .json nor a YOLO .yaml file; name the folder of the data set"
        )
    inside = find_annotated_below(here)
    held = unread_annotations(here) or f"It holds {_contents(here)}"
    hint = f". Did you mean {inside[0]}?" if inside else f". {held}"
    raise DataError(f"{data} is no annotated data set; looked for {'; '.join(LAYOUTS)}{hint}")


def _find(here: Path) -> AnnotationSource | None:
    """The data set that a folder is, or that the only folder in it is, as in unpacked archives."""
    return next(filter(None, map(_find_at, (here, *_only_folders(here)))), None)


def _only_folders(here: Path) -> Iterator[Path]:
    """The folder within, the one within that, and so on, while there is but one."""
    for _ in range(MAX_FOLDERS if here.is_dir() else 0):
        inside = [entry for entry in here.iterdir() if entry.is_dir() and not is_hidden(entry.name)]
        if len(inside) != 1:
            return
        here = inside[0]
        yield here


def _find_at(here: Path) -> AnnotationSource | None:
    finders: tuple[Callable[[Path], AnnotationSource | None], ...] = (find_voc, find_coco, find_yolo)
    return next(filter(None, (finder(here) for finder in finders)), None)


def _contents(folder: Path) -> str:
    names = sorted((entry.name for entry in folder.iterdir()), key=natural_key)
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "") or "nothing"


# --- splits --------------------------------------------------------------------------------------


def _offered(source: AnnotationSource) -> tuple[str, ...]:
    named = set(source.splits)
    if {"train", "val"} <= named:
        named.add("trainval")
    others = sorted(named.difference(SPLIT_ORDER), key=natural_key)
    return (*(name for name in SPLIT_ORDER if name in named), *others)


def _parts_of(split: str | None, source: AnnotationSource, data: str | Path) -> tuple[str, ...]:
    """The source's own splits that make up the one asked for; none for all there are."""
    if split is None:
        return ()
    if split in source.splits:
        return (split,)
    if split in source.missing:
        raise DataError(source.missing[split])
    offered = _offered(source)
    if split in offered:
        return ("train", "val")
    if not offered:
        raise DataError(f"{data} has no splits, so no {split}; read it whole and hold out a part")
    held = ", ".join(offered)
    raise DataError(f"{data} has no {split} split (it holds {held}); {did_you_mean(split, offered)}")


# --- classes and truths --------------------------------------------------------------------------


def _listed_classes(source: AnnotationSource, reading: ParsedDataset) -> tuple[str, ...]:
    """The lines of the first classes.txt that is there and not empty."""
    lookup = Lookup()
    known = {mark.name for image in reading.images for mark in image.marks}
    for folder in (source.root, source.notes):
        file = lookup.entry(folder, "classes.txt")
        if file and file.is_file() and read_lines(file):
            listed = read_class_list(file, known)
            for sentence in listed.problems:
                reading.problems.add(sentence)
            return tuple(dict.fromkeys(listed.names.values()))
    return ()


def _truth(marks: tuple[BoxAnnotation, ...], labels: dict[str, int]) -> GroundTruth:
    own = [mark for mark in marks if mark.name in labels]
    return GroundTruth(
        np.array([mark.box for mark in own], np.float32).reshape(-1, 4),
        np.array([labels[mark.name] for mark in own], np.int64),
        np.array([mark.difficult for mark in own], np.bool_),
        np.array([mark.crowd for mark in own], np.bool_),
    )


def _without_repeats(reading: ParsedDataset) -> list[AnnotatedImage]:
    """Of several entries for one file, as where splits overlap, the first; a problem if they differ."""
    found: dict[Path, AnnotatedImage] = {}
    for image in reading.images:
        if found.setdefault(image.path, image).marks != image.marks:
            reading.problems.add(f"{image.path} is annotated twice, and not alike; the first counts")
    return list(found.values())


def _foreign_classes(images: Iterable[AnnotatedImage], classes: tuple[str, ...]) -> list[str]:
    """One sentence that counts the objects of classes that are not asked for."""
    known = set(classes)
    names = Counter(mark.name for image in images for mark in image.marks if mark.name not in known)
    if not names:
        return []
    listed = ", ".join(f"{name} {count}" for name, count in names.most_common())
    return [f"{names.total()} objects are of other classes than classes.txt lists and are left out: {listed}"]
