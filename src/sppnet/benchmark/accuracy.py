"""Speed against accuracy: trained detectors on the photographs of one split, a row each.

mAP is of the whole split. Times are from an image file to boxes, one photograph at a time, each photograph by
all models in turn. Memory is that of a process of its own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, TypeAlias

import torch

from sppnet.benchmark import detect
from sppnet.benchmark.detection_peers import OnnxDetector, check_peers, evaluate_peer
from sppnet.benchmark.photographs import spread
from sppnet.benchmark.results import Timing, summarise, time_interleaved
from sppnet.benchmark.subprocess_runner import run_in_subprocess
from sppnet.data.detection_dataset import AnnotatedImages, default_split, open_annotated
from sppnet.detect.detector import Detector
from sppnet.detect.evaluate import evaluate_detector, match_classes
from sppnet.errors import ConfigError, DataError
from sppnet.metrics.detection import DetectionResult
from sppnet.nn.onnx_trunk import OnnxTrunk
from sppnet.progress import NullProgress, Progress, track

Finder: TypeAlias = Detector | OnnxDetector


@dataclass(frozen=True, kw_only=True)
class AccuracyRow:
    """One model."""

    model: str
    trunk: str
    scales: tuple[int, ...]
    engine: str
    """What ran the trunk."""
    map: float | None
    """VOC 2007, 11 points; None for a peer that knows none of the classes."""
    classes: tuple[str, ...]
    """Those that the mean is over."""
    median_s: float
    """Of the photographs, each of which is the median of its rounds."""
    q1_s: float
    q3_s: float
    peak_bytes: int | None = None
    """Most memory that a process of its own held; None where not measured."""
    grown_bytes: int | None = None
    """How much of that came after the second photograph."""


@dataclass(frozen=True, kw_only=True)
class AccuracyResult:
    """The rows by time, the fastest first, and what they were measured on."""

    data: str
    split: str | None
    classes: tuple[str, ...]
    """Of the split, those with objects to find."""
    images: int
    """That were evaluated."""
    skipped: tuple[str, ...]
    """Images that could not be read, and why."""
    timed: int
    """Photographs."""
    threads: int
    rows: tuple[AccuracyRow, ...]

    def to_json(self) -> dict[str, object]:
        return {"benchmark": "accuracy", **asdict(self)}


def run(
    data: Annotated[Path | None, "Annotated images: a VOC, COCO or YOLO folder or file."] = None,
    model: Annotated[Sequence[str], "Detectors made by training, with commas between."] = (),
    split: Annotated[str | None, "The split to measure on. By default test or val, if there."] = None,
    images: Annotated[int, "Photographs of the split that are timed."] = 24,
    rounds: Annotated[int, "Timed repetitions of each photograph."] = 3,
    peer_onnx: Annotated[
        Path | None, "The ONNX file of a detector like YOLOX, as one more row: by its own decoding."
    ] = None,
    memory: bool = True,
    progress: Progress | None = None,
) -> AccuracyResult:
    """Evaluate all models, time them in turn, then run each in a process of its own.

    memory: whether to do the last. Raises ConfigError, DataError and ModelError for what cannot be compared.
    """
    if data is None:
        raise ConfigError("name the annotated photographs, as sppnet benchmark accuracy FOLDER --model FILE")
    if min(images, rounds) < 1:
        raise ConfigError(f"images and rounds must be 1 or more; got {images} and {rounds}")
    progress = progress or NullProgress()
    files = _by_name(model, peer_onnx)
    finders = {
        name: OnnxDetector(path) if path == peer_onnx else Detector.load(path) for name, path in files.items()
    }
    split = split or default_split(data, ("test", "val"))
    opened = open_annotated(data, split)
    matched = {name: _match(name, find, opened) for name, find in finders.items()}
    results = {name: _evaluate(finders[name], own, progress) for name, own in matched.items()}
    first = next(result for result in results.values() if result)
    paths = [first.photos[index].path for index in spread(first.images, images)]
    timings = _time(finders, paths, rounds, progress)
    rows = [_row(name, finders[name], results[name], timing) for name, timing in timings.items()]
    if memory:
        rows = [
            _with_memory(row, finders[row.model], files[row.model], paths)
            for row in track(rows, "memory", len(rows), progress)
        ]
    return AccuracyResult(
        data=str(data), split=split, classes=_classes_to_find(opened), images=first.images,
        skipped=first.skipped, timed=len(paths), threads=torch.get_num_threads(),
        rows=tuple(sorted(rows, key=lambda row: row.median_s)),
    )  # fmt: skip


# --- what is compared ----------------------------------------------------------------------------


def _by_name(models: Sequence[str], peer_onnx: Path | None) -> dict[str, Path]:
    """Files by their names, with as many folders before each as tell them apart; the peer last."""
    if not models:
        raise ConfigError("name one detector or more, as --model a.safetensors,b.safetensors; got none")
    if peer_onnx is not None:
        check_peers([str(peer_onnx)])
    files = [*map(Path, models), *([] if peer_onnx is None else [peer_onnx])]
    if repeated := [str(path) for path, count in Counter(files).items() if count > 1]:
        raise ConfigError(f"name each model once; got {', '.join(repeated)} more than once")
    parts = 1
    while len(names := {str(Path(*path.parts[-parts:])): path for path in files}) < len(files):
        parts += 1
    return names


def _match(name: str, find: Finder, images: AnnotatedImages) -> AnnotatedImages | None:
    """The images with the objects of classes that the model knows; None for a peer that knows none.

    Raises DataError for a detector that knows none.
    """
    if isinstance(find, Detector):
        try:
            return match_classes(images, find.classes)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
    known = find.known_among(images.classes)
    return match_classes(images, known) if set(known) & set(_classes_to_find(images)) else None


def _classes_to_find(images: AnnotatedImages) -> tuple[str, ...]:
    return tuple(name for name, count in images.counts(plain=True).items() if count)


# --- measuring -----------------------------------------------------------------------------------


def _evaluate(find: Finder, images: AnnotatedImages | None, progress: Progress) -> DetectionResult | None:
    if images is None:
        return None
    if isinstance(find, OnnxDetector):
        return evaluate_peer(find, images, progress)
    result = evaluate_detector(find, images, "voc07", progress)
    assert isinstance(result, DetectionResult)
    return result


def _time(
    finders: Mapping[str, Finder], paths: Sequence[Path], rounds: int, progress: Progress
) -> dict[str, Timing]:
    """Every photograph by each model in turn, once before it is timed."""
    times: dict[str, list[float]] = {name: [] for name in finders}
    for path in track(paths, "timing", len(paths), progress):
        calls = {name: partial(find, path) for name, find in finders.items()}
        for name, timing in time_interleaved(calls, rounds).items():
            times[name].append(timing.median_s)
    return {name: summarise(each) for name, each in times.items()}


def _row(name: str, find: Finder, result: DetectionResult | None, timing: Timing) -> AccuracyRow:
    if isinstance(find, Detector):
        trunk, scales, engine = find.parts.trunk, find.extractor.scales, find.extractor.engine_name
    else:
        trunk, scales, engine = find.trunk, (find.trunk.size_px,), ""
    return AccuracyRow(
        model=name, trunk=trunk.name, scales=tuple(scales),
        engine="onnx" if isinstance(trunk, OnnxTrunk) else engine,
        map=result.map if result else None,
        classes=tuple(one for one, ap in result.per_class.items() if ap is not None) if result else (),
        median_s=timing.median_s, q1_s=timing.q1_s, q3_s=timing.q3_s,
    )  # fmt: skip


def _with_memory(row: AccuracyRow, find: Finder, path: Path, paths: Sequence[Path]) -> AccuracyRow:
    """As `sppnet benchmark detect` measures it: our detectors have two photographs at work at a time."""
    side = (path, "") if isinstance(find, OnnxDetector) else (detect.OURS, path)
    held = run_in_subprocess(detect.__name__, *map(str, side), "0", *map(str, paths))
    return replace(row, peak_bytes=held["bytes"], grown_bytes=held["bytes"] - held["first_bytes"])
