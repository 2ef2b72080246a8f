"""The trunk that a training's configuration asks for."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from sppnet.data.image import read_image
from sppnet.data.transforms import resize_shorter, to_tensor
from sppnet.detect.config import DetectorConfig
from sppnet.detect.run_folder import StageStore
from sppnet.errors import ConfigError, DataError, ImageError
from sppnet.nn.any_trunk import AnyTrunk, is_detector, open_trunk
from sppnet.nn.detector_trunk import DetectorTrunk
from sppnet.nn.device import find_device
from sppnet.nn.quantisation import quantise_trunk
from sppnet.nn.trunks import Trunk
from sppnet.progress import Progress

CALIBRATED = 16
"""Photographs that the engine int8 is rounded and measured on; three sizes of each were no better."""


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


def prepare_trunk(
    config: DetectorConfig, paths: Sequence[Path], store: StageStore, progress: Progress
) -> AnyTrunk:
    """`frozen_trunk`, quantised where the engine int8 is asked for. paths: of the photographs to train on."""
    trunk = frozen_trunk(config)
    if config.engine != "int8" or not isinstance(trunk, Trunk):
        return trunk
    stage = store.ended("int8")
    if stage is not None:
        trunk.int8 = stage.tensors["int8"]
        return trunk
    chosen = list(dict.fromkeys(paths[index * len(paths) // CALIBRATED] for index in range(CALIBRATED)))
    progress.begin("measuring the ranges of activations", len(chosen))
    quantise_trunk(trunk, _inputs(trunk, chosen, sorted(config.scales)[len(config.scales) // 2], progress))
    assert trunk.int8 is not None
    store.keep("int8", {}, {"int8": trunk.int8})
    return trunk


def _inputs(trunk: Trunk, paths: Sequence[Path], scale_px: int, progress: Progress) -> Iterator[Tensor]:
    """(1, 3, h, w) of each photograph that can be read; raises DataError if none can."""
    count = 0
    for path in paths:
        try:
            image = resize_shorter(read_image(path), scale_px)
        except ImageError:
            continue  # training will name it
        finally:
            progress.advance()
        count += 1
        yield to_tensor(image, trunk.mean, trunk.std)[None]
    if not count:
        raise DataError(f"none of {len(paths)} photographs could be read, such as {paths[0]}")
