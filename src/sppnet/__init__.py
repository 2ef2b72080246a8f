"""Spatial pyramid pooling: images of any size, vectors of one length.

    import sppnet

    classifier = sppnet.Classifier.load("runs/flowers/best.safetensors")
    print(classifier("photo.jpg").label)
    detector = sppnet.Detector.load("runs/street/detector.safetensors")
    print(detector("photo.jpg").names)

Names are imported when they are first used, so that `import sppnet` is instant.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sppnet.classify.classifier import Classifier as Classifier
    from sppnet.classify.classifier import Prediction as Prediction
    from sppnet.classify.config import TrainingConfig as TrainingConfig
    from sppnet.data.detection_dataset import open_annotated as open_annotated
    from sppnet.data.image import read_image as read_image
    from sppnet.detect.config import DetectorConfig as DetectorConfig
    from sppnet.detect.detector import Detector as Detector
    from sppnet.detect.ensemble import Ensemble as Ensemble
    from sppnet.errors import SppnetError as SppnetError
    from sppnet.evaluation import evaluate as evaluate
    from sppnet.evaluation import evaluate_detector as evaluate_detector
    from sppnet.features.maps import FeatureMaps as FeatureMaps
    from sppnet.geometry.grid import CellGrid as CellGrid
    from sppnet.geometry.grid import bin_edges as bin_edges
    from sppnet.geometry.grid import boxes_to_cells as boxes_to_cells
    from sppnet.image_vectors import SPPFeatures as SPPFeatures
    from sppnet.malloc import keep_memory as keep_memory
    from sppnet.nn.network import SPPNet as SPPNet
    from sppnet.nn.network import warm_start_fc6 as warm_start_fc6
    from sppnet.nn.pyramid import SpatialPyramidPooling as SpatialPyramidPooling
    from sppnet.nn.trunks import Trunk as Trunk
    from sppnet.nn.trunks import load_trunk as load_trunk
    from sppnet.ops.pooling import pyramid_pool as pyramid_pool
    from sppnet.proposals.selective_search.search import selective_search as selective_search
    from sppnet.structures import Detections as Detections
    from sppnet.structures import Proposals as Proposals
    from sppnet.training import add_classes as add_classes
    from sppnet.training import train as train
    from sppnet.training import train_detector as train_detector

_HOMES = {
    "Classifier": "sppnet.classify.classifier",
    "Prediction": "sppnet.classify.classifier",
    "TrainingConfig": "sppnet.classify.config",
    "open_annotated": "sppnet.data.detection_dataset",
    "read_image": "sppnet.data.image",
    "DetectorConfig": "sppnet.detect.config",
    "Detector": "sppnet.detect.detector",
    "Ensemble": "sppnet.detect.ensemble",
    "SppnetError": "sppnet.errors",
    "evaluate": "sppnet.evaluation",
    "evaluate_detector": "sppnet.evaluation",
    "FeatureMaps": "sppnet.features.maps",
    "CellGrid": "sppnet.geometry.grid",
    "bin_edges": "sppnet.geometry.grid",
    "boxes_to_cells": "sppnet.geometry.grid",
    "SPPFeatures": "sppnet.image_vectors",
    "keep_memory": "sppnet.malloc",
    "SPPNet": "sppnet.nn.network",
    "warm_start_fc6": "sppnet.nn.network",
    "SpatialPyramidPooling": "sppnet.nn.pyramid",
    "Trunk": "sppnet.nn.trunks",
    "load_trunk": "sppnet.nn.trunks",
    "pyramid_pool": "sppnet.ops.pooling",
    "selective_search": "sppnet.proposals.selective_search.search",
    "Detections": "sppnet.structures",
    "Proposals": "sppnet.structures",
    "add_classes": "sppnet.training",
    "train": "sppnet.training",
    "train_detector": "sppnet.training",
}
__all__ = ["__version__"]
__all__ += list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    from sppnet.errors import did_you_mean

    raise AttributeError(f"module 'sppnet' has no attribute {name!r}; {did_you_mean(name, _HOMES)}")


def __dir__() -> list[str]:
    return sorted(__all__)
