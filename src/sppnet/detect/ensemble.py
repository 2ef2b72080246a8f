"""Several detectors as one, or one that sees mirror images too: NMS on the union of the scored windows
(paper section 4.4)."""

from dataclasses import dataclass, replace

import numpy as np

from sppnet.arrays import Floats
from sppnet.boxes import mirror_boxes
from sppnet.data.image import ImageSource
from sppnet.detect.detector import Detector
from sppnet.detect.postprocess import ScoredBoxes, without_copies
from sppnet.errors import ConfigError
from sppnet.features.lazy_image import LazyImage
from sppnet.structures import Detections
from sppnet.torch_defaults import own_defaults


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Image → Detections, as a `Detector`. Suppression is the first one's.

    Raises ConfigError unless all know the same classes in the same order.
    """

    detectors: tuple[Detector, ...]
    mirrored: bool = False
    """Whether each looks at the mirror image of an image too, which doubles its time."""

    def __post_init__(self) -> None:
        if not self.detectors:
            raise ConfigError("an ensemble needs one detector or more; got none")
        for other in self.detectors[1:]:
            if other.classes != self.classes:
                raise ConfigError(
                    "detectors are combined only if they know the same classes in the same order; got "
                    f"{', '.join(self.classes)} and {', '.join(other.classes)}"
                )

    @property
    def classes(self) -> tuple[str, ...]:
        return self.detectors[0].classes

    @property
    def least_score(self) -> float:
        """As of a `Detector`."""
        return min(detector.least_score for detector in self.detectors)

    @own_defaults()
    def __call__(self, image: ImageSource, *, min_score: float = 0.0) -> Detections:
        """Objects in an image, the surest first; as `Detector.__call__`, but of several detectors without
        probabilities.

        Raises ImageError.
        """
        looks = [look for detector in self.detectors for look in self._looks(detector, image)]
        first, several = self.detectors[0], [look.candidates(min_score) for look in looks]
        found = first.select(several, min_score=min_score)
        refined = np.stack([look.refine(found) for look in looks])
        found = replace(found, boxes=refined.mean(axis=0, dtype=np.float32))
        found = without_copies(found, first.parts.refined)
        return found if len(self.detectors) > 1 else first.add_probabilities(found)

    def _looks(self, detector: Detector, image: ImageSource) -> list["_Look"]:
        """At the image, and at its mirror image."""
        photo = LazyImage(image, detector.extractor)
        mirrors = [LazyImage(image, detector.extractor, mirrored=True)] if self.mirrored else []
        return [_Look(detector, photo), *(_Look(detector, mirror, photo.size_hw[1]) for mirror in mirrors)]


@dataclass(frozen=True, eq=False)
class _Look:
    """A detector at an image, or at its mirror image; boxes lie where the image has them."""

    detector: Detector
    photo: LazyImage
    mirrored_width: int | None = None
    """Of the image whose mirror image the photo is."""

    def candidates(self, min_score: float) -> ScoredBoxes:
        found = self.detector.candidates(self.photo, min_score)
        return replace(found, boxes=self._mirrored(found.boxes))

    def refine(self, found: Detections) -> Floats:
        there = replace(found, boxes=self._mirrored(found.boxes))
        return self._mirrored(self.detector.refine(self.photo, there))

    def _mirrored(self, boxes: Floats) -> Floats:
        return boxes if self.mirrored_width is None else mirror_boxes(boxes, self.mirrored_width)
