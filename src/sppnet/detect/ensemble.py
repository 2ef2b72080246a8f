"""Several detectors as one, or one that sees mirror images too: NMS on the union of the scored windows
(paper section 4.4)."""

from dataclasses import dataclass, replace

from sppnet.boxes import mirror_boxes
from sppnet.data.image import ImageSource
from sppnet.detect.detector import Detector
from sppnet.detect.postprocess import ScoredBoxes
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
        several = [one for detector in self.detectors for one in self._look(detector, image, min_score)]
        found = self.detectors[0].postprocess(several, min_score=min_score)
        return found if len(self.detectors) > 1 else self.detectors[0].add_probabilities(found)

    def _look(self, detector: Detector, image: ImageSource, min_score: float) -> list[ScoredBoxes]:
        """The scored windows of the image, and of its mirror image where they lie in the image."""
        photo = LazyImage(image, detector.extractor)
        seen = [detector.candidates(photo, min_score)]
        if self.mirrored:
            mirror = LazyImage(image, detector.extractor, mirrored=True)
            found = detector.candidates(mirror, min_score)
            seen.append(replace(found, boxes=mirror_boxes(found.boxes, photo.size_hw[1])))
        return seen
