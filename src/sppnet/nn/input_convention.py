"""What networks expect of the pixels of an image, by the name of their family."""

from dataclasses import dataclass

from sppnet.errors import ConfigError, did_you_mean

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and std of red, green and blue in 0..1."""


@dataclass(frozen=True)
class InputConvention:
    """What a network expects of its pixels."""

    bgr: bool
    """Blue first."""
    peak: float
    """Value of white, before the mean is subtracted."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """In the network's order of channels."""
    fill: int
    """Grey value beside an image that does not fill the input, 0..255."""
    stretch: bool = False
    """Whether an image is stretched to a square; else it keeps its shape and is padded."""


CONVENTIONS = {
    "yolox": InputConvention(True, 255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 114),
    "yolox-legacy": InputConvention(False, 1.0, *IMAGENET, 114),
    "yolo": InputConvention(False, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 114),
    "nanodet": InputConvention(
        True, 255.0, (103.53, 116.28, 123.675), (57.375, 57.12, 58.395), 114, stretch=True
    ),
    "picodet": InputConvention(False, 1.0, *IMAGENET, 114, stretch=True),
    "imagenet": InputConvention(False, 1.0, *IMAGENET, 114),
}
"""yolox since version 0.1.1, yolox-legacy before it; yolo: RGB in 0..1; nanodet's as in its demo,
picodet's as in PaddleDetection; imagenet: classifiers of torchvision, timm and others."""


def find_convention(name: str) -> InputConvention:
    """Raises ConfigError for a name that is none of `CONVENTIONS`."""
    if name not in CONVENTIONS:
        raise ConfigError(f"unknown input convention {name!r}: {did_you_mean(name, CONVENTIONS)}")
    return CONVENTIONS[name]
