"""The trunk that a training's configuration asks for."""

from sppnet.detect.config import DetectorConfig
from sppnet.errors import ConfigError
from sppnet.nn.any_trunk import AnyTrunk, is_detector, open_trunk
from sppnet.nn.detector_trunk import DetectorTrunk
from sppnet.nn.device import find_device


def frozen_trunk(config: DetectorConfig) -> AnyTrunk:
    """On its device, for evaluation. Raises ConfigError where it lacks weights, or what is asked for."""
    if config.weights is None and not is_detector(config.trunk) and config.finetune != "all":
        raise ConfigError(
            "a trunk that stays as it is needs trained weights: give --weights imagenet (downloads them) or "
            "a file, such as a classifier's best.safetensors; or train it (--finetune all)"
        )
    trunk = open_trunk(
        config.trunk, stride=config.stride, width=config.width, weights=config.weights,
        convention=config.trunk_input,
    )  # fmt: skip
    if isinstance(trunk, DetectorTrunk) and (config.proposals != "learned" or config.vectors != "pyramid"):
        _ = trunk.layout  # raises where it has none
    return trunk.to(find_device(config.device)).eval()
