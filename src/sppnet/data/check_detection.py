"""What is in a data set of annotated images, and what is wrong with it.

Like `check`, which is about folders of classes: every image is decoded and nothing is changed.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sppnet.boxes import box_area
from sppnet.data.check import (
    DamagedFile,
    Duplicates,
    Entry,
    SideRange,
    examine_all,
    find_damaged,
    find_duplicates,
    most_extreme,
    relative_name,
    side_range,
)
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


@dataclass(frozen=True)
class AnnotatedReport:
    """What `check_annotated` found. Paths are relative to `root`, sizes are of upright images."""

    root: str
    layout: str
    splits: dict[str, SplitCounts]
    """Those of the data set; "" for images in none."""
    boxes: dict[str, BoxRange]
    """Of every class that has objects."""
    width: SideRange | None
    height: SideRange | None
    """None where no image could be read, as for `width`."""
    most_extreme: tuple[str, int, int] | None
    """The image whose sides differ most: path, width, height."""
    modes: dict[str, int]
    """Pillow's names of the pixel layouts, the most common first."""
    damaged: tuple[DamagedFile, ...]
    duplicates: tuple[Duplicates, ...]
    problems: dict[str, tuple[str, ...]]
    """What was odd in the annotations of each split, and what was made of it; "" for the whole data set."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_annotated(data: str | Path, workers: int = 2, progress: Progress | None = None) -> AnnotatedReport:
    """Reads every image of a VOC, COCO or YOLO data set and reports on it.

    Raises DataError as `open_annotated` does.
    """
    source, splits = find_source(data), open_splits(data)
    sets = splits.sets
    truths = {
        Entry(path, split, _text(truth)): truth
        for split, images in sets.items()
        for path, truth in zip(images.paths, images.truths, strict=True)
    }
    findings = dict(zip(truths, examine_all(list(truths), workers, progress), strict=True))
    sizes = {entry.path: finding.size_hw for entry, finding in findings.items() if not finding.reason}
    return AnnotatedReport(
        root=str(source.root),
        layout=source.layout,
        splits={split: _count(images) for split, images in sets.items()},
        boxes=_box_ranges(sets),
        width=side_range(width for _, width in sizes.values()),
        height=side_range(height for height, _ in sizes.values()),
        most_extreme=most_extreme(source.root, sizes),
        modes=dict(Counter(each.mode for each in findings.values() if not each.reason).most_common()),
        damaged=find_damaged(source.root, findings),
        duplicates=find_duplicates(source.root, findings),
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
