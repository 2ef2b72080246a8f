"""Several detectors as one: suppression on the union of their scored windows (paper section 4.4)."""

from dataclasses import dataclass

from sppnet.data.image import ImageSource
from sppnet.detect.detector import Detector
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
        """Objects in an image, the surest first, without probabilities; as `Detector.__call__`.

        Raises ImageError.
        """
        photos = [LazyImage(image, detector.extractor) for detector in self.detectors]
        scored = [
            detector.candidates(photo, min_score)
            for detector, photo in zip(self.detectors, photos, strict=True)
        ]
        return self.detectors[0].postprocess(scored, min_score=min_score)
