"""Scales and mirror images of a frozen solution that is to fit a time."""

import time
from dataclasses import asdict, dataclass, replace

from sppnet.detect.config import DEFAULT_SCALES, DetectorConfig
from sppnet.detect.joint.duration import read_time
from sppnet.detect.label_assignment import TrainingImages
from sppnet.detect.run_folder import StageStore
from sppnet.errors import ImageError
from sppnet.features.extractor import FeatureExtractor
from sppnet.progress import Progress

RESERVE = 0.9
"""Share of the time that is planned: a computer is not equally fast all the time."""

UNIT_PX = 400
"""Shorter side of the photograph whose convolution is timed."""

OTHER_STAGES, OTHER_PER_SCALE = 2.0, 0.5
"""What all other stages take of an image, and more for each scale, in convolutions of UNIT_PX: rough figures.
The stages of 137 photographs took 29 s where 30 were asked for, and 85 where 120 were."""

TIMED = 3
"""Photographs that are convolved to find out how fast this computer is; the first warms it up."""


@dataclass(frozen=True)
class Settings:
    """What decides how long a frozen solution takes."""

    scales: tuple[int, ...]
    mirror: bool

    def __str__(self) -> str:
        return f"scales {','.join(map(str, self.scales))}, {'with' if self.mirror else 'no'} mirror images"

    def units(self) -> float:
        """The time of a photograph, with its mirror image, in convolutions of UNIT_PX."""
        convolved = sum((scale / UNIT_PX) ** 2 for scale in self.scales)
        return (1 + self.mirror) * (convolved + OTHER_STAGES + OTHER_PER_SCALE * len(self.scales))


CHOICES = (
    Settings((688, 400, 230), True), Settings((480, 280), True), Settings((400, 230), True),
    Settings((480, 280), False), Settings((400, 230), False), Settings((320,), False),
)  # fmt: skip
"""The most accurate first."""


def choose_settings(seconds: float, photographs: int, unit: float) -> Settings:
    """The most accurate that fit, or else the fastest; unit: seconds of a convolution of UNIT_PX."""
    for one in CHOICES:
        if photographs * one.units() * unit <= RESERVE * seconds:
            return one
    return CHOICES[-1]


def measure_unit(photos: TrainingImages, extractor: FeatureExtractor) -> float:
    """Seconds that a photograph takes to be read and convolved at UNIT_PX; 0 where none can be read."""
    at_unit, seconds = extractor.at((UNIT_PX,)), []
    for index in range(min(TIMED, len(photos.images))):
        began = time.perf_counter()
        try:
            at_unit(photos.photo(index).pixels)
        except ImageError:  # said where photographs are read
            continue
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:] or seconds, default=0.0)


def plan_stage(
    store: StageStore, photos: TrainingImages, config: DetectorConfig, progress: Progress
) -> DetectorConfig:
    """The configuration with settings that fit `config.time`; scales that were asked for stay."""
    extractor = photos.extractor
    if config.scales != DEFAULT_SCALES or config.time is None or not isinstance(extractor, FeatureExtractor):
        return config
    stage = store.ended("plan")
    if stage is not None:
        return replace(config, scales=tuple(stage.header["scales"]), mirror=stage.header["mirror"])
    progress.begin("planning", 1)
    unit = measure_unit(photos, extractor)
    chosen = choose_settings(read_time(config.time), len(photos.images), unit)
    chosen = replace(chosen, mirror=chosen.mirror and config.mirror)
    progress.advance(note=str(chosen))
    store.keep("plan", asdict(chosen), {})
    return replace(config, scales=chosen.scales, mirror=chosen.mirror)
