"""A model file of either kind."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sppnet.classify.classifier import Classifier
    from sppnet.detect.detector import Detector


def open_model(path: Path, device: str = "cpu") -> "Classifier | Detector":
    """The classifier or the detector that a file holds; raises ModelError."""
    from sppnet.classify.classifier import Classifier
    from sppnet.detect.detector import KIND, Detector
    from sppnet.nn.device import find_device
    from sppnet.nn.model_file import read_header

    where = str(find_device(device))
    if read_header(path).get("kind") == KIND:
        return Detector.load(path, where)
    return Classifier.load(path, where)
