"""From one layout of annotated images to another: VOC, COCO, YOLO.

Image files are copied byte for byte, or linked. Boxes keep every digit that float32 has. What a layout
has no word for is told: YOLO knows neither difficult objects nor crowds, and VOC no crowds.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np
import yaml

from sppnet.data.convert_names import FileNames
from sppnet.data.detection_dataset import AnnotatedImages, find_source, read_annotated
from sppnet.data.image import read_header
from sppnet.data.splits import open_splits
from sppnet.destination import STAGING, check_destination, check_name, whole_or_nothing
from sppnet.errors import ConfigError, DataError, ImageError
from sppnet.progress import NullProgress, Progress
from sppnet.structures import GroundTruth

Layout = Literal["voc", "coco", "yolo"]


@dataclass(frozen=True)
class Conversion:
    """What was written."""

    splits: dict[str, int]
    """Images of each; a data set without splits has one, named ""."""
    objects: int
    skipped: tuple[str, ...]
    """Images that could not be read, and so were left out."""
    notes: tuple[str, ...]
    """What the layout could not hold, and what was odd in the original."""


@dataclass(frozen=True)
class _Item:
    """An image in its new place."""

    path: Path
    size_hw: tuple[int, int]
    truth: GroundTruth


ImagesOfSplit = dict[str, list[_Item]]
"""The images of every split."""


def convert_annotated(
    data: str | Path,
    to: Layout,
    out: str | Path,
    split: str | None = None,
    link: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Writes the data set into `out`, which must be empty or not there yet.

    split: only this one; None keeps all there are apart from each other.
    link: make symbolic links to the images and not copies.
    Raises DataError if `data` cannot be read, ConfigError for an `out` that is not empty or within
    `data`. Nothing is ever written into `data`.
    """
    if to not in get_args(Layout):
        raise ConfigError(f"the layout must be {', '.join(get_args(Layout))}; got {to!r}")
    source, target = find_source(data), Path(out)
    _check_target(target, Path(data) if Path(data).is_dir() else source.root)
    sets, whole = _read_splits(data, split)
    skipped: list[str] = []
    names = FileNames()
    classes = next(iter(sets.values())).classes
    notes = [note for images in sets.values() for note in images.problems]
    with whole_or_nothing(target) as unfinished:
        parts = _place_images(sets, to, unfinished, link, names, skipped, progress or NullProgress())
        kept = {name: [_fit_layout(item, to) for item in items] for name, items in parts.items()}
        WRITERS[to](unfinished, kept, classes)
    objects = sum(len(item.truth) for items in kept.values() for item in items)
    return Conversion(
        {name: len(items) for name, items in kept.items()},
        objects,
        tuple(skipped),
        tuple(dict.fromkeys([*_losses(parts, to), *names.problems, *whole, *notes])),
    )


def _check_target(target: Path, root: Path) -> None:
    check_name(target, "--out")
    if target.exists() and (not target.is_dir() or any(each.name != STAGING for each in target.iterdir())):
        raise ConfigError(f"{target} is not an empty folder; name a new one, nothing is overwritten")
    check_destination(target, "--out")
    if target.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"{target} lies within the data set {root}, which is not written to; name another")


def _read_splits(data: str | Path, split: str | None) -> tuple[dict[str, AnnotatedImages], tuple[str, ...]]:
    """The images to convert, each in one split; and what was odd in the data set as a whole."""
    if split is not None:
        images = read_annotated(data, split)
        if not len(images):
            raise DataError(f"{data} has no images in its {split} split; choose another")
        return {split: images}, ()
    splits = open_splits(data)
    sets = {name: images for name, images in splits.sets.items() if len(images)}
    others = sets.pop("", None) if len(sets) > 1 else None
    left_out = (f"{len(others)} images are in no split and are left out",) if others else ()
    return sets, (*left_out, *splits.problems)


# --- images --------------------------------------------------------------------------------------


def _place_images(
    sets: dict[str, AnnotatedImages],
    to: Layout,
    target: Path,
    link: bool,
    names: FileNames,
    skipped: list[str],
    progress: Progress,
) -> ImagesOfSplit:
    progress.begin("writing", sum(map(len, sets.values())))
    parts: ImagesOfSplit = {}
    for split, images in sets.items():
        name = "train" if to == "yolo" and split == "trainval" else split  # YOLO's own name for it
        folder = target / ("JPEGImages" if to == "voc" else "images") / (name if to == "yolo" else "")
        folder.mkdir(parents=True, exist_ok=True)
        parts[name] = items = []
        for path, truth in zip(images.paths, images.truths, strict=True):
            try:
                header = read_header(path)
            except ImageError as error:
                skipped.append(str(error))
            else:
                new = folder / names.choose(path.relative_to(images.root), header.format)
                _place(path, new, link)
                items.append(_Item(new, header.size_hw, truth))
            progress.advance()
    return parts


def _place(source: Path, target: Path, link: bool) -> None:
    if link:
        target.symlink_to(source.resolve())
    else:
        shutil.copyfile(source, target)


# --- what a layout can hold ----------------------------------------------------------------------


def _fit_layout(item: _Item, to: Layout) -> _Item:
    truth = item.truth
    if to == "yolo":
        truth = truth[~(truth.difficult | truth.crowd)]
    elif to == "voc":
        none = np.zeros(len(truth), np.bool_)
        truth = GroundTruth(truth.boxes, truth.labels, truth.difficult | truth.crowd, none)
    return _Item(item.path, item.size_hw, truth)


def _losses(parts: ImagesOfSplit, to: Layout) -> Iterable[str]:
    truths = [item.truth for items in parts.values() for item in items]
    difficult = sum(int(truth.difficult.sum()) for truth in truths)
    crowds = sum(int(truth.crowd.sum()) for truth in truths)
    if to == "yolo" and (difficult or crowds):
        yield f"YOLO cannot mark {difficult} difficult objects and {crowds} crowds; they are left out"
    elif to == "voc" and crowds:
        yield f"VOC cannot mark {crowds} crowds; they are marked difficult"


# --- layouts -------------------------------------------------------------------------------------


def _write_voc(target: Path, parts: ImagesOfSplit, classes: Sequence[str]) -> None:
    notes, sets = target / "Annotations", target / "ImageSets" / "Main"
    notes.mkdir(parents=True)
    _write_lines(target / "classes.txt", classes)
    for split, items in parts.items():
        for item in items:
            tree = ElementTree(_voc_tree(item, classes))
            indent(tree)
            tree.write(notes / f"{item.path.stem}.xml", encoding="utf-8", xml_declaration=True)
        if split:
            sets.mkdir(parents=True, exist_ok=True)
            _write_lines(sets / f"{split}.txt", [item.path.stem for item in items])


def _voc_tree(item: _Item, classes: Sequence[str]) -> Element:
    root = Element("annotation")
    SubElement(root, "filename").text = item.path.name
    size = SubElement(root, "size")
    for side, length in zip(("width", "height"), item.size_hw[::-1], strict=True):
        SubElement(size, side).text = str(length)
    boxes, truth = item.truth.boxes.astype(np.float64).tolist(), item.truth
    for (x0, y0, x1, y1), label, difficult in zip(boxes, truth.labels, truth.difficult, strict=True):
        thing = SubElement(root, "object")
        SubElement(thing, "name").text = classes[label]
        SubElement(thing, "difficult").text = str(int(difficult))
        box = SubElement(thing, "bndbox")
        # From 1, with the last pixel inside.
        for corner, value in zip(("xmin", "ymin", "xmax", "ymax"), (x0 + 1, y0 + 1, x1, y1), strict=True):
            SubElement(box, corner).text = str(_plain(value))
    return root


def _write_coco(target: Path, parts: ImagesOfSplit, classes: Sequence[str]) -> None:
    notes = target / "annotations"
    notes.mkdir(parents=True)
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    for split, items in parts.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, item in enumerate(items, 1):
            height, width = item.size_hw
            images.append({"id": number, "file_name": item.path.name, "width": width, "height": height})
            annotations += _coco_annotations(item.truth, number, len(annotations) + 1)
        data = {"images": images, "annotations": annotations, "categories": categories}
        name = f"instances_{split}.json" if split else "instances.json"
        (notes / name).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def _coco_annotations(truth: GroundTruth, image: int, first: int) -> list[dict[str, Any]]:
    boxes = truth.boxes.astype(np.float64).tolist()
    rows = zip(boxes, truth.labels.tolist(), truth.difficult.tolist(), truth.crowd.tolist(), strict=True)
    return [
        {
            "id": number,
            "image_id": image,
            "category_id": label + 1,
            "bbox": [_plain(value) for value in (x0, y0, x1 - x0, y1 - y0)],
            "area": _plain((x1 - x0) * (y1 - y0)),
            "iscrowd": int(crowd),
            **({"ignore": 1} if difficult else {}),
        }
        for number, ((x0, y0, x1, y1), label, difficult, crowd) in enumerate(rows, first)
    ]


def _write_yolo(target: Path, parts: ImagesOfSplit, classes: Sequence[str]) -> None:
    settings = {split or "train": f"images/{split}".rstrip("/") for split in parts}
    text = yaml.safe_dump(
        {**settings, "names": dict(enumerate(classes))}, allow_unicode=True, sort_keys=False
    )
    (target / "data.yaml").write_text(text, encoding="utf-8")
    for split, items in parts.items():
        folder = target / "labels" / split
        folder.mkdir(parents=True, exist_ok=True)
        for item in items:
            _write_lines(folder / f"{item.path.stem}.txt", _yolo_lines(item))


def _yolo_lines(item: _Item) -> list[str]:
    height, width = item.size_hw
    lines = []
    for (x0, y0, x1, y1), label in zip(
        item.truth.boxes.astype(np.float64).tolist(), item.truth.labels, strict=True
    ):
        shares = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
        # With all digits: then a box on the border comes back on the border.
        lines.append(f"{label} {' '.join(map(str, shares))}")
    return lines


def _plain(value: float) -> int | float:
    """Whole numbers without a decimal point, which not every reader takes."""
    return int(value) if value.is_integer() else value


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, ImagesOfSplit, Sequence[str]], None]] = {
    "voc": _write_voc,
    "coco": _write_coco,
    "yolo": _write_yolo,
}
