"""What is in a data set of annotated images, and what is wrong with it.

Like `check`, which is about folders of classes: every image is decoded and nothing is changed.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sppnet.boxes import box_area
from sppnet.data.check import Entry, ImageSummary, relative_name, summarise
from sppnet.data.detection_dataset import AnnotatedImages, find_source
from sppnet.data.splits import Splits, open_splits
from sppnet.progress import Progress
from sppnet.structures import GroundTruth


@dataclass(frozen=True)
class BoxRange:
    """Sides of squares with the areas of the boxes, in pixels."""

    min: float
    median: float
    max: float


@dataclass(frozen=True)
class SplitCounts:
    """What one split holds."""

    images: int
    objects: dict[str, int]
    """Of every class, difficult ones and crowds too."""
    difficult: int
    crowds: int
    without_objects: tuple[str, ...]
    """Images in which nothing is marked."""


@dataclass(frozen=True, kw_only=True)
class AnnotatedReport(ImageSummary):
    """What `check_annotated` found."""

    layout: str
    splits: dict[str, SplitCounts]
    """Those of the data set; "" for images in none."""
    boxes: dict[str, BoxRange]
    """Of every class that has objects."""
    problems: dict[str, tuple[str, ...]]
    """What was odd in the annotations of each split, and what was made of it; "" for the whole data set."""


def check_annotated(data: str | Path, workers: int = 2, progress: Progress | None = None) -> AnnotatedReport:
    """Reads every image of a VOC, COCO or YOLO data set and reports on it.

    Raises DataError as `open_annotated` does.
    """
    source, splits = find_source(data), open_splits(data)
    sets = splits.sets
    entries = [
        Entry(path, split, _text(truth))
        for split, images in sets.items()
        for path, truth in zip(images.paths, images.truths, strict=True)
    ]
    return AnnotatedReport(
        **summarise(source.root, entries, workers, progress),
        layout=source.layout,
        splits={split: _count(images) for split, images in sets.items()},
        boxes=_box_ranges(sets),
        problems=_problems(splits),
    )


def _problems(splits: Splits) -> dict[str, tuple[str, ...]]:
    """Those of the whole data set are under "", and those that all splits have."""
    own = {name: images.problems for name, images in splits.sets.items() if name}
    common = set.intersection(*map(set, own.values())) if len(own) > 1 else set()
    whole = (*splits.problems, *(each for each in next(iter(own.values()), ()) if each in common))
    parts = {name: tuple(each for each in found if each not in common) for name, found in own.items()}
    return {**({"": whole} if whole or "" in splits.sets else {}), **parts}


def _text(truth: GroundTruth) -> str:
    """Equal for images in which the same is marked."""
    return repr(sorted(zip(truth.labels.tolist(), truth.boxes.tolist(), strict=True)))


def _count(images: AnnotatedImages) -> SplitCounts:
    return SplitCounts(
        images=len(images),
        objects=images.counts(),
        difficult=sum(int(truth.difficult.sum()) for truth in images.truths),
        crowds=sum(int(truth.crowd.sum()) for truth in images.truths),
        without_objects=tuple(
            relative_name(path, images.root)
            for path, truth in zip(images.paths, images.truths, strict=True)
            if not len(truth)
        ),
    )


def _box_ranges(sets: dict[str, AnnotatedImages]) -> dict[str, BoxRange]:
    truths = [truth for images in sets.values() for truth in images.truths]
    classes = next(iter(sets.values())).classes
    labels = np.concatenate([truth.labels for truth in truths])
    sides = np.sqrt(np.concatenate([box_area(truth.boxes) for truth in truths]))
    own = {name: sides[labels == label] for label, name in enumerate(classes)}
    return {
        name: BoxRange(*(round(float(value), 1) for value in (each.min(), np.median(each), each.max())))
        for name, each in own.items()
        if len(each)
    }
