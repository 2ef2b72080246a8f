"""The ONNX files that YOLOX's project released: COCO's 80 classes, Apache-2.0."""

from pathlib import Path

from sppnet.errors import ConfigError
from sppnet.nn.pretrained import is_here, published_file
from sppnet.nn.published_url import YOLOX_RELEASE

YOLOX_NAMES = "yolox_nano", "yolox_tiny", "yolox_s", "yolox_m", "yolox_l", "yolox_x"


def released_file(name: str, weights: object) -> Path:
    """The ONNX file of a name: with weights "coco" from torch's cache, downloaded once; or the file given."""
    if weights == "coco":
        return published_file(_address(name))
    if not isinstance(weights, str | Path) or not str(weights).lower().endswith(".onnx"):
        raise ConfigError(
            f"{name} is an ONNX file: give --weights coco (downloaded once), or the file itself, as --trunk "
            f"{name}.onnx; got {weights}"
        )
    return Path(weights)


def is_released_here(name: str) -> bool:
    """Whether the file of a name is in torch's cache."""
    return is_here(_address(name))


def _address(name: str) -> str:
    return f"{YOLOX_RELEASE}/{name}.onnx"
