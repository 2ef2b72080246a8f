"""Boxes with what is known about them: what a person marked, and what a detector found.

Boxes are (n, 4) float32 xyxy in pixels, 0-based and half-open: a box of the whole image is
(0, 0, width, height). Labels count from 0 in the order of the class names; background is no class.
"""

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from sppnet.arrays import Flags, Floats, Ints
from sppnet.boxes import check_boxes, to_xywh
from sppnet.drawing import draw_boxes
from sppnet.errors import DataError, ImageError, MissingExtraError

Drawable: TypeAlias = str | Path | Image.Image | npt.NDArray[np.uint8]
"""A path, a PIL image, or an array (h, w, 3) uint8 RGB."""


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The objects of one image; empty arrays for an image without any."""

    boxes: Floats
    """(n, 4), none of them empty."""
    labels: Ints
    """(n,) indices of the classes."""
    difficult: Flags
    """(n,) objects that evaluation neither asks for nor counts as wrong (VOC)."""
    crowd: Flags
    """(n,) boxes around many objects (COCO); never trained on."""

    def __post_init__(self) -> None:
        _check_columns(self, labels=np.int64, difficult=np.bool_, crowd=np.bool_)

    @staticmethod
    def of(boxes: npt.ArrayLike, labels: npt.ArrayLike) -> "GroundTruth":
        """Plain objects, none difficult, none a crowd."""
        n = len(np.reshape(labels, -1))
        return GroundTruth(
            np.reshape(np.asarray(boxes, np.float32), (n, 4)),
            np.reshape(np.asarray(labels, np.int64), n),
            np.zeros(n, np.bool_),
            np.zeros(n, np.bool_),
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> "GroundTruth":
        """Some of the objects: an integer, a slice, a mask or indices."""
        chosen = _rows(index)
        return GroundTruth(
            self.boxes[chosen], self.labels[chosen], self.difficult[chosen], self.crowd[chosen]
        )


@dataclass(frozen=True, eq=False)
class Proposals:
    """Boxes of one image that may hold an object, best first."""

    boxes: Floats
    """(n, 4)"""
    scores: Floats
    """(n,) falling; zeros where boxes come without."""

    def __post_init__(self) -> None:
        _check_columns(self, scores=np.float32)

    @staticmethod
    def of(boxes: npt.ArrayLike) -> "Proposals":
        """Boxes without scores."""
        array = check_boxes(boxes)
        return Proposals(array, np.zeros(len(array), np.float32))

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found in one image."""

    boxes: Floats
    """(n, 4)."""
    scores: Floats
    """(n,) the higher the surer."""
    labels: Ints
    """(n,) indices into `classes`."""
    classes: tuple[str, ...] = field(repr=False)
    probabilities: Floats = field(default_factory=lambda: np.empty(0, np.float32))
    """(n,) that each is right, estimated on photographs held out of training; NaN where that is not known."""

    def __post_init__(self) -> None:
        if not len(self.probabilities):
            object.__setattr__(self, "probabilities", np.full(len(self.boxes), np.nan))
        _check_columns(self, labels=np.int64, scores=np.float32, probabilities=np.float32)
        labels = self.labels
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise DataError(f"labels must be 0..{len(self.classes) - 1}; got {labels.min()}..{labels.max()}")
        object.__setattr__(self, "classes", tuple(self.classes))

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> "Detections":
        """Some of them: an integer, a slice, a mask or indices, as `found[found.probabilities > 0.5]`."""
        chosen = _rows(index)
        return Detections(
            self.boxes[chosen], self.scores[chosen], self.labels[chosen], self.classes,
            self.probabilities[chosen],
        )  # fmt: skip

    @property
    def names(self) -> list[str]:
        """The class of each."""
        return [self.classes[label] for label in self.labels]

    def in_words(self) -> list[str]:
        """ "raccoon 93%" of each; where probabilities are not known the score, "raccoon 1.31"."""
        rows = zip(self.names, self.scores, self.probabilities, strict=True)
        return [f"{name} {p:.0%}" if p == p else f"{name} {score:.2f}" for name, score, p in rows]

    def draw(self, image: Drawable) -> Image.Image:
        """A copy of the image with boxes, classes and probabilities on it, the surest on top.

        Scores stand where probabilities are not known.

        A path or a PIL image is set upright by its EXIF orientation, and transparency laid on white;
        for stranger images than that give the array that `sppnet.read_image` makes of them.
        Raises ImageError if the image cannot be read.
        """
        best_last = self[np.argsort(self.scores, kind="stable")]
        return Image.fromarray(
            draw_boxes(_pixels(image), best_last.boxes, best_last.in_words(), best_last.labels)
        )

    def to_json(self) -> dict[str, Any]:
        """{"detections": [{"label", "score", "probability", "box": [x0, y0, x1, y1]}, …]}

        A probability is null where it is not known.
        """
        odds = [None if p != p else p for p in self.probabilities.tolist()]
        rows = zip(self.names, self.scores.tolist(), odds, self.boxes.tolist(), strict=True)
        keys = "label", "score", "probability", "box"
        return {"detections": [dict(zip(keys, row, strict=True)) for row in rows]}

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Rows of a COCO results file: the box is x0, y0, width, height, and categories count from 1."""
        rows = zip(self.labels.tolist(), to_xywh(self.boxes).tolist(), self.scores.tolist(), strict=True)
        return [
            {"image_id": image_id, "category_id": label + 1, "bbox": box, "score": score}
            for label, box, score in rows
        ]

    def to_supervision(self) -> Any:
        """`supervision.Detections`, with the names of the classes under data["class_name"].

        The confidence is the probability, or the score where one of them is not known.
        """
        supervision = _import_extra("supervision")
        known = not np.isnan(self.probabilities).any()
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=(self.probabilities if known else self.scores).copy(),
            class_id=self.labels.copy(),
            data={"class_name": np.array(self.names, dtype=np.str_)},
        )

    def to_pandas(self) -> Any:
        """`pandas.DataFrame` with the columns label, score, probability, x0, y0, x1, y1."""
        corners = dict(zip(("x0", "y0", "x1", "y1"), self.boxes.T.copy(), strict=True))
        numbers = {"score": self.scores.copy(), "probability": self.probabilities.copy()}
        return _import_extra("pandas").DataFrame({"label": self.names, **numbers, **corners})


def _rows(index: Any) -> Any:
    """An index that keeps the first axis."""
    return [int(index)] if isinstance(index, int | np.integer) else index


def _check_columns(table: Any, **kinds: Any) -> None:
    """Put checked, read-only arrays in place of the boxes of a table and of its columns of these kinds."""
    boxes = check_boxes(table.boxes)
    object.__setattr__(table, "boxes", boxes)
    for name, kind in kinds.items():
        array = np.array(getattr(table, name), dtype=kind)
        if array.shape != (len(boxes),):
            raise DataError(f"{len(boxes)} boxes need {name} of shape ({len(boxes)},); got {array.shape}")
        array.setflags(write=False)
        object.__setattr__(table, name, array)


def _import_extra(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, package) from error


def _pixels(image: Drawable) -> npt.NDArray[np.uint8]:
    """(h, w, 3). Not `data.image`, which knows every kind of image, but stands above this file."""
    if isinstance(image, np.ndarray):
        return image
    try:
        if not isinstance(image, Image.Image):
            with Image.open(image) as opened:
                opened.load()
                return _pixels(opened)
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright.convert("RGBA"))
        return np.array(upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"cannot draw on {image}: {error}") from error
