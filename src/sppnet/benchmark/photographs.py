"""The photographs of a benchmark: somebody's own, or scenes drawn for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sppnet.arrays import Floats
from sppnet.benchmark.pool import IMAGE_HW
from sppnet.data.detection_dataset import default_split, is_annotated, open_annotated
from sppnet.data.files import find_images
from sppnet.demo import generate_scenes
from sppnet.errors import ConfigError
from sppnet.metrics.recall import recall_curve
from sppnet.structures import GroundTruth

RECALL_AT = 2000
"""Boxes an image."""
IOUS = (0.5, 0.7)


@dataclass(frozen=True, eq=False)
class Photographs:
    """Files, and the objects in them where they are known."""

    paths: tuple[Path, ...]
    truths: tuple[GroundTruth, ...] | None

    def __len__(self) -> int:
        return len(self.paths)

    def recall_in_words(self, whose: str, boxes: Sequence[Floats]) -> str:
        """What share of the objects the first boxes of each photograph find; empty where none are known."""
        if self.truths is None or all((truth.difficult | truth.crowd).all() for truth in self.truths):
            return ""
        found = recall_curve(boxes, self.truths, (RECALL_AT,), IOUS)
        shares = " and ".join(f"{found.at(RECALL_AT, iou):.1%}" for iou in IOUS)
        return f"{whose} {shares} of {found.objects} objects with {found.boxes_per_image:,.0f} boxes"


def gather(images: Path | None, maximum: int, folder: Path, seed: int = 0) -> Photographs:
    """At most `maximum` photographs, spread over what is there.

    images: a folder; of an annotated one its test split. None: scenes of 500×375 are drawn to `folder`.
    Raises DataError or ImageError for what cannot be used, ConfigError for no photographs.
    """
    if maximum < 1:
        raise ConfigError(f"the number of photographs must be 1 or more; got {maximum}")
    if images is None:
        generate_scenes(folder, "test", maximum, seed, size_hw=IMAGE_HW)
        images = folder
    if not is_annotated(images):
        paths = find_images(images)
        return Photographs(tuple(paths[index] for index in spread(len(paths), maximum)), None)
    opened = open_annotated(images, default_split(images, ("test", "val", "trainval", "train")))
    chosen = opened.take(spread(len(opened), maximum))
    return Photographs(chosen.paths, chosen.truths)


def spread(count: int, maximum: int) -> list[int]:
    """At most `maximum` indices of `count` things, evenly apart."""
    return np.linspace(0, count - 1, min(count, maximum)).round().astype(int).tolist() if count else []
