"""The whole idea on images made here: train on two sizes, test at sizes never trained on, find objects."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sppnet.arrays import Doubles
from sppnet.classify.classifier import Classifier
from sppnet.classify.config import TrainingConfig
from sppnet.data.detection_dataset import open_annotated
from sppnet.data.folder import open_folder
from sppnet.destination import check_destination
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.detect.train import DetectorTraining
from sppnet.errors import ConfigError
from sppnet.evaluation import evaluate, evaluate_detector
from sppnet.metrics.detection import DetectionResult
from sppnet.nn.default_trunk import DEFAULT_LITE, default_trunk
from sppnet.progress import NullProgress, Progress
from sppnet.report.plots import draw_accuracy_by_size, draw_contact_sheet
from sppnet.training import train, train_detector

TEST_IMAGES = 20
"""Of each class."""
TRAINED_SIZES = (128, 96)
TESTED_SIZES = (80, 96, 112, 128, 160, 192, 224)
TRUNK, WIDTH = "zf5", 0.125

SCENES = {"train": 100, "test": 20}
"""Images with several objects each, to train a detector on and to test it."""
SCENE_SCALES = (256, 360)
DRAWN_SCENES = 6

MADE = ("images", "run", "scenes", "detector", "detections")
"""Folders of a demo."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo found and drew."""

    rows: list[tuple[str, bool, float]]
    """How it was tested, whether it trained at that size, and the accuracy."""
    pictures: list[Path]
    test_images: int
    trunk: str
    """Of the detector."""
    objects: DetectionResult
    """Of the detector, on scenes it never saw."""
    scenes: list[Path]
    """Of those with what it found drawn on them."""
    reports: list[Path]
    """Pages: two trainings, and how well the detector finds objects."""
    seconds: float


def run(
    out: Path,
    *,
    epochs: int = 14,
    images_per_class: int = 60,
    seed: int = 0,
    progress: Progress | None = None,
) -> DemoResult:
    """Everything below `out`, whose earlier demo, if any, is replaced."""
    started = time.perf_counter()
    progress = progress or NullProgress()
    data, folder = out / "images", out / "run"
    _check_place(out)
    for name in MADE:
        shutil.rmtree(out / name, ignore_errors=True)
    generate(data / "train", images_per_class, seed, progress)
    generate(data / "val", TEST_IMAGES, seed + 1, progress)
    config = TrainingConfig(
        trunk=TRUNK, width=WIDTH, hidden=128, dropout=0.3, sizes=",".join(map(str, TRAINED_SIZES)),
        epochs=epochs, batch_size=32, learning_rate=0.004, schedule="cosine", crop="random", seed=seed,
    )  # fmt: skip
    result = train(data, folder, config, progress=progress)
    assert result is not None
    classifier = Classifier.load(result.model)
    rows = _test_sizes(classifier, data, progress)
    pictures = [draw_accuracy_by_size(rows, out / "accuracy.png"), _draw_predictions(classifier, data, out)]
    trained, objects = _find_objects(result.model, out, seed, progress)
    scenes = _draw_scenes(trained.detector, out)
    reports = [page for page in (result.report, trained.report, _judged(out)) if page]
    seconds = time.perf_counter() - started
    images, trunk = result.validation.images, trained.detector.parts.trunk.name
    return DemoResult(rows, pictures, images, trunk, objects, scenes, reports, seconds)


def _test_sizes(classifier: Classifier, data: Path, progress: Progress) -> list[tuple[str, bool, float]]:
    images = open_folder(data, "val")
    rows = []
    for size in TESTED_SIZES:
        accuracy = evaluate(classifier, images, progress, views="crop", size_px=size).top1
        rows.append((f"{size}×{size} crop", size in TRAINED_SIZES, accuracy))
    for scale in (112, 160):
        accuracy = evaluate(classifier, images, progress, views="full", scale_px=scale).top1
        rows.append((f"full image, shorter side {scale}", False, accuracy))
    return rows


def _draw_predictions(classifier: Classifier, data: Path, out: Path) -> Path:
    """Two test images of each class in their own shapes, under what the classifier says."""
    images = open_folder(data, "val")
    chosen = [
        index for label in range(len(images.classes)) for index in np.flatnonzero(images.labels == label)[:2]
    ]
    shown = []
    for index in chosen:
        path, label = images[int(index)]
        prediction = classifier(path, top=1, scale_px=144)
        caption = f"{prediction.label} {prediction.scores[0]:.0%}"
        shown.append((path, caption, prediction.label == images.classes[label]))
    return draw_contact_sheet(shown, out / "predictions.png")


def _find_objects(
    weights: Path, out: Path, seed: int, progress: Progress
) -> tuple[DetectorTraining, DetectionResult]:
    """A detector, trained on scenes drawn here and tested on others."""
    data = out / "scenes"
    for number, (split, count) in enumerate(SCENES.items()):
        generate_scenes(data, split, count, seed + number, progress)
    config, folder = _detector_config(weights, seed), out / "detector"
    trained = train_detector(data, folder, config, cache=folder / "maps", progress=progress)
    images = open_annotated(data, "test")
    result = evaluate_detector(trained.detector, images, "voc07", progress, report=_judged(out))
    assert isinstance(result, DetectionResult)
    return trained, result


def _detector_config(weights: Path, seed: int) -> DetectorConfig:
    """On the default trunk where its ImageNet weights are installed, else on the classifier's, frozen."""
    if default_trunk(None)[0] == DEFAULT_LITE:
        return DetectorConfig(scales=SCENE_SCALES, mirror=False, seed=seed)
    return DetectorConfig(
        trunk=TRUNK, width=WIDTH, weights=str(weights), scales=SCENE_SCALES, finetune="none", C=0.01,
        positive_iou=0.7, seed=seed,
    )  # fmt: skip


def _judged(out: Path) -> Path:
    """The page of how well the detector finds objects."""
    return out / "detector" / "evaluation.html"


def _draw_scenes(detector: Detector, out: Path) -> list[Path]:
    """The first test scenes, with what the detector is rather sure of."""
    drawn = []
    for path in open_annotated(out / "scenes", "test").paths[:DRAWN_SCENES]:
        drawn.append(out / "detections" / f"{path.stem}.png")
        drawn[-1].parent.mkdir(exist_ok=True)
        detector(path).draw(path).save(drawn[-1])
    return drawn


# --- the images ----------------------------------------------------------------------------------

Plane = Doubles
Pattern = Callable[[Plane, Plane], Plane]
"""Coordinates x and y in periods of the pattern → its height, −1 to 1."""

PATTERNS: dict[str, Pattern] = {
    "checks": lambda x, y: np.sin(2 * np.pi * x) * np.sin(2 * np.pi * y),
    "columns": lambda x, y: np.sin(2 * np.pi * x),
    "dots": lambda x, y: np.where(np.hypot(x % 1 - 0.5, y % 1 - 0.5) < 0.3, 1.0, -1.0),
    "rings": lambda x, y: np.sin(2 * np.pi * np.hypot(x, y)),
    "rows": lambda x, y: np.sin(2 * np.pi * y),
    "slopes": lambda x, y: np.sin(2 * np.pi * (x + y) / np.sqrt(2)),
}


def _check_place(out: Path) -> None:
    """Raises ConfigError where nothing can be written, or something else than a demo would be replaced."""
    check_destination(out, "--out")
    others = [out / name for name in MADE if os.path.lexists(out / name)]
    if others and not (out / "images" / "train" / next(iter(PATTERNS))).is_dir():
        raise ConfigError(
            f"--out {out} holds {others[0]}, which no demo made and none will replace; choose a new folder"
        )


def generate(root: Path, images_per_class: int, seed: int, progress: Progress | None = None) -> None:
    """Write ROOT/class/0.jpg …: one pattern an image, of any two colours, on images of any size and shape."""
    progress = progress or NullProgress()
    progress.begin(f"drawing images into {root.name}", images_per_class * len(PATTERNS))
    for label, (name, pattern) in enumerate(PATTERNS.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(images_per_class):
            rng = np.random.default_rng((seed, label, index))
            _draw_image(pattern, rng).save(root / name / f"{index}.jpg", quality=88)
            progress.advance()


def _draw_image(pattern: Pattern, rng: np.random.Generator) -> Image.Image:
    width, height = (int(side) for side in rng.integers(120, 420, 2))
    pixels = _draw_pattern(pattern, (width, height), rng.uniform(4, 7), rng)
    return _photographed(pixels, rng)


def _draw_pattern(pattern: Pattern, size: tuple[int, int], periods: float, rng: np.random.Generator) -> Plane:
    """(height, width, 3) from 0 to 255, in two colours; periods: along the shorter side."""
    width, height = size
    period = min(size) / periods
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    shift = (
        rng.uniform(0, 1, 2)
        if pattern is not PATTERNS["rings"]
        else (-width / period / 2, -height / period / 2)
    )
    level = pattern(x / period + shift[0], y / period + shift[1])[..., None] * 0.5 + 0.5
    dark, bright = rng.uniform(0, 110, 3), rng.uniform(145, 255, 3)
    return np.asarray(dark + level * (bright - dark))


def _photographed(pixels: Plane, rng: np.random.Generator) -> Image.Image:
    noisy = pixels + rng.normal(0, 12, pixels.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


# --- images with several objects -----------------------------------------------------------------

Place = tuple[int, int, int, int]
"""x0, y0, width, height in pixels."""


def generate_scenes(
    root: Path,
    split: str,
    count: int,
    seed: int,
    progress: Progress | None = None,
    size_hw: tuple[int, int] | None = None,
) -> None:
    """Write ROOT/SPLIT/0.jpg … and ROOT/annotations/SPLIT.json (COCO): patterns on plain backgrounds.

    size_hw: of every image; by default each has its own.
    """
    progress = progress or NullProgress()
    progress.begin(f"drawing scenes to {split}", count)
    names = list(PATTERNS)
    (root / split).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, object]] = []
    objects: list[dict[str, object]] = []
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        picture, places = _draw_scene(index, rng, size_hw)
        file = root / split / f"{index}.jpg"
        picture.save(file, quality=88)
        images.append({"id": index, "file_name": file.name, "width": picture.width, "height": picture.height})
        for label, place in places:
            objects.append(
                {"id": len(objects) + 1, "image_id": index, "category_id": label, "bbox": place, "iscrowd": 0}
            )
        progress.advance()
    categories = [{"id": label, "name": name} for label, name in enumerate(names)]
    table = {"images": images, "annotations": objects, "categories": categories}
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"{split}.json").write_text(json.dumps(table))


def _draw_scene(
    index: int, rng: np.random.Generator, size_hw: tuple[int, int] | None
) -> tuple[Image.Image, list[tuple[int, Place]]]:
    """An image, and the label and place of its objects; every pattern comes first in its turn."""
    width, height = (int(side) for side in rng.integers(220, 420, 2)) if size_hw is None else size_hw[::-1]
    pixels = np.empty((height, width, 3))
    pixels[:] = rng.uniform(40, 215, 3)
    patterns, placed = list(PATTERNS.values()), list[tuple[int, Place]]()
    for number in range(rng.integers(2, 6)):
        place = _free_place(width, height, [taken for _, taken in placed], rng)
        if place is not None:
            label = int(rng.integers(len(patterns))) if number else index % len(patterns)
            x, y, *size = place
            drawn = _draw_pattern(patterns[label], (size[0], size[1]), rng.uniform(3, 5), rng)
            pixels[y : y + size[1], x : x + size[0]] = drawn
            placed.append((label, place))
    return _photographed(pixels, rng), placed


def _free_place(width: int, height: int, taken: list[Place], rng: np.random.Generator) -> Place | None:
    """Where nothing is yet; None if a few dozen throws find no such place."""
    for _ in range(40):
        across, down = (int(side) for side in rng.integers(64, 170, 2))
        x, y = (int(rng.integers(0, side - own)) for side, own in ((width, across), (height, down)))
        if not any(x < u + w and u < x + across and y < v + h and v < y + down for u, v, w, h in taken):
            return x, y, across, down
    return None
