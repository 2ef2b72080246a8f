"""The whole idea on images made here: train on two sizes, test at sizes never trained on."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from sppnet.classify.classifier import Classifier
from sppnet.classify.config import TrainingConfig
from sppnet.classify.evaluate import evaluate
from sppnet.classify.progress import Progress, Silent
from sppnet.classify.train import train
from sppnet.data.folder import open_folder
from sppnet.report.plots import draw_accuracy_by_size, draw_contact_sheet

TEST_IMAGES = 20
"""Of each class."""
TRAINED_SIZES = (160, 128)
TESTED_SIZES = (96, 112, 128, 144, 160, 192, 224, 288)


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
    epochs: int = 16,
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
        trunk="zf5", width=0.125, hidden=128, sizes=",".join(map(str, TRAINED_SIZES)), epochs=epochs,
        batch_size=32, learning_rate=0.02, schedule="cosine", crop="random", seed=seed,
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
    for scale in (128, 256):
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
        prediction = classifier(path, top=1, scale_px=160)
        shown.append(
            (
                path,
                f"{prediction.label} {prediction.scores[0]:.0%}",
                prediction.label == images.classes[label],
            )
        )
    return draw_contact_sheet(shown, out / "predictions.png")


# --- the images ----------------------------------------------------------------------------------

Draw = Callable[[ImageDraw.ImageDraw, float, float, float, float, str], None]


def _polygon(corners: int, inner: float = 1.0) -> Draw:
    """A regular polygon, or a star whose inner corners lie at `inner` of the radius."""

    def draw(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, turn: float, colour: str) -> None:
        count = corners if inner == 1 else 2 * corners
        radii = [radius if i % 2 == 0 or inner == 1 else radius * inner for i in range(count)]
        angles = [turn + 2 * np.pi * i / count for i in range(count)]
        pen.polygon(
            [(x + r * np.cos(a), y + r * np.sin(a)) for r, a in zip(radii, angles, strict=True)], colour
        )

    return draw


def _ellipse(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, turn: float, colour: str) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), colour)


def _ring(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, turn: float, colour: str) -> None:
    pen.ellipse(
        (x - radius, y - radius, x + radius, y + radius), outline=colour, width=max(2, round(radius / 3))
    )


SHAPES: dict[str, Draw] = {
    "cross": _polygon(4, 0.3),
    "disc": _ellipse,
    "ring": _ring,
    "square": _polygon(4),
    "star": _polygon(5, 0.45),
    "triangle": _polygon(3),
}


def generate(root: Path, images_per_class: int, seed: int, progress: Progress | None = None) -> None:
    """Write ROOT/class/0.jpg …: one shape an image, of any colour, turn and size, on images of any size and shape."""
    progress = progress or Silent()
    progress.begin(f"drawing images into {root.name}", images_per_class * len(SHAPES))
    for label, (name, shape) in enumerate(SHAPES.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(images_per_class):
            rng = np.random.default_rng((seed, label, index))
            _draw_image(shape, rng).save(root / name / f"{index}.jpg", quality=88)
            progress.advance()


def _draw_image(shape: Draw, rng: np.random.Generator) -> Image.Image:
    width, height = (int(side) for side in rng.integers(120, 420, 2))
    noise = rng.integers(40, 216, (height // 24 + 2, width // 24 + 2, 3)).astype(np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    image = image.filter(ImageFilter.GaussianBlur(4))
    radius = min(width, height) * rng.uniform(0.24, 0.4)
    x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    hue = f"hsv({rng.integers(360)},{rng.integers(60, 100)}%,{rng.choice([25, 100])}%)"
    shape(ImageDraw.Draw(image), x, y, radius, rng.uniform(0, 2 * np.pi), hue)
    return image
