"""The whole idea on images made here: train on two sizes, test at sizes never trained on."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from sppnet.classify.classifier import Classifier
from sppnet.classify.config import TrainingConfig
from sppnet.classify.evaluate import evaluate
from sppnet.classify.train import train
from sppnet.data.folder import open_folder
from sppnet.progress import Progress, Silent
from sppnet.report.plots import draw_accuracy_by_size, draw_contact_sheet

TEST_IMAGES = 20
"""Of each class."""
TRAINED_SIZES = (128, 96)
TESTED_SIZES = (80, 96, 112, 128, 160, 192, 224)


@dataclass(frozen=True)
class DemoResult:
    """What the demo found and drew."""

    rows: list[tuple[str, bool, float]]
    """How it was tested, whether it trained at that size, and the accuracy."""
    pictures: list[Path]
    test_images: int
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
    progress = progress or Silent()
    data, folder = out / "images", out / "run"
    for old in (data, folder):
        shutil.rmtree(old, ignore_errors=True)
    generate(data / "train", images_per_class, seed, progress)
    generate(data / "val", TEST_IMAGES, seed + 1, progress)
    config = TrainingConfig(
        trunk="zf5", width=0.125, hidden=128, dropout=0.3, sizes=",".join(map(str, TRAINED_SIZES)),
        epochs=epochs, batch_size=32, learning_rate=0.004, schedule="cosine", crop="random", seed=seed,
    )  # fmt: skip
    result = train(data, folder, config, progress=progress)
    assert result is not None
    classifier = Classifier.load(result.model)
    rows = _test_sizes(classifier, data, progress)
    pictures = [draw_accuracy_by_size(rows, out / "accuracy.png"), _draw_predictions(classifier, data, out)]
    return DemoResult(rows, pictures, result.validation.images, time.perf_counter() - started)


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
        shown.append(
            (
                path,
                f"{prediction.label} {prediction.scores[0]:.0%}",
                prediction.label == images.classes[label],
            )
        )
    return draw_contact_sheet(shown, out / "predictions.png")


# --- the images ----------------------------------------------------------------------------------

Plane = npt.NDArray[np.float64]
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


def generate(root: Path, images_per_class: int, seed: int, progress: Progress | None = None) -> None:
    """Write ROOT/class/0.jpg …: one pattern an image, of any two colours, on images of any size and shape."""
    progress = progress or Silent()
    progress.begin(f"drawing images into {root.name}", images_per_class * len(PATTERNS))
    for label, (name, pattern) in enumerate(PATTERNS.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(images_per_class):
            rng = np.random.default_rng((seed, label, index))
            _draw_image(pattern, rng).save(root / name / f"{index}.jpg", quality=88)
            progress.advance()


def _draw_image(pattern: Pattern, rng: np.random.Generator) -> Image.Image:
    width, height = (int(side) for side in rng.integers(120, 420, 2))
    period = min(width, height) / rng.uniform(4, 7)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    shift = (
        rng.uniform(0, 1, 2)
        if pattern is not PATTERNS["rings"]
        else (-width / period / 2, -height / period / 2)
    )
    level = pattern(x / period + shift[0], y / period + shift[1])[..., None] * 0.5 + 0.5
    dark, bright = rng.uniform(0, 110, 3), rng.uniform(145, 255, 3)
    pixels = dark + level * (bright - dark) + rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
