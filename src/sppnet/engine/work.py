"""What is done to the images of one block, by whichever process gets it.

Both are plain values, so that Ray can send them. A process reads its network once and keeps it for its next
block. Networks come from their files on every machine: a model is never sent, and never pickled.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from sppnet.detect.detector import Detector
from sppnet.detect.ensemble import Ensemble
from sppnet.engine.tables import detections_table, vectors_table
from sppnet.errors import ImageError, printable
from sppnet.image_vectors import SPPFeatures
from sppnet.nn.any_trunk import PUBLISHED
from sppnet.nn.device import find_device

Found = TypeVar("Found")


@dataclass(frozen=True)
class Detecting:
    """`sppnet detect predict`."""

    models: tuple[str, ...]
    """Files; several work as one detector."""
    min_score: float
    device: str = "cpu"

    def on(self, device: str) -> "Detecting":
        """The same on another device, its files named so that every folder finds them."""
        return replace(self, device=device, models=tuple(str(Path(path).resolve()) for path in self.models))

    def __call__(self, paths: Sequence[str], names: Sequence[str], first: int) -> Any:
        """A table of the images at `paths`, called `names`; see `tables`."""
        detector = load_detector(self.models, self.device)
        found, reasons = attempt(lambda path: detector(path, min_score=self.min_score), paths, names)
        return detections_table(names, found, reasons, first)


@dataclass(frozen=True)
class Extracting:
    """`sppnet features`."""

    parameters: tuple[tuple[str, Any], ...]
    """Of `SPPFeatures`, as its get_params() has them."""
    device: str = "cpu"
    described: str = "{}"
    """JSON that says how the vectors are made, for the files."""

    def on(self, device: str) -> "Extracting":
        """The same on another device, its files named so that every folder finds them."""
        named = tuple((name, _absolute(name, value)) for name, value in self.parameters)
        return replace(self, device=device, parameters=named)

    def __call__(self, paths: Sequence[str], names: Sequence[str], first: int) -> Any:
        """A table of the images at `paths`, called `names`; see `tables`."""
        extractor = load_extractor(self.parameters, self.device)
        vectors, reasons = attempt(extractor.vector, paths, names)
        return vectors_table(names, vectors, reasons, extractor.n_features_out_, first, self.described)


Work = Detecting | Extracting


def attempt(
    find: Callable[[str], Found], paths: Sequence[str], names: Sequence[str]
) -> tuple[list[Found | None], list[str | None]]:
    """What is found in each image, and why nothing, in the words of whoever named it."""
    found: list[Found | None] = []
    reasons: list[str | None] = []
    for path, name in zip(paths, names, strict=True):
        try:
            found.append(find(path))
            reasons.append(None)
        except ImageError as error:
            found.append(None)
            reasons.append(str(error).replace(printable(path), name))
    return found, reasons


@lru_cache(maxsize=1)
def load_detector(
    models: tuple[str, ...], device: str, proposals: str | None = None, mirror: bool = False
) -> Detector | Ensemble:
    """One detector, or several as one; proposals: as for `Detector.load`, mirror: see `Ensemble.mirrored`."""
    where = str(find_device(device))
    detectors = tuple(Detector.load(path, where, proposals=proposals) for path in models)
    return detectors[0] if len(detectors) == 1 and not mirror else Ensemble(detectors, mirror)


@lru_cache(maxsize=1)
def load_extractor(parameters: tuple[tuple[str, Any], ...], device: str) -> SPPFeatures:
    return SPPFeatures(**{**dict(parameters), "device": device}).fit()


def _absolute(name: str, value: Any) -> Any:
    is_file = name in ("model", "weights") and value not in (None, *PUBLISHED)
    return str(Path(value).resolve()) if is_file else value
