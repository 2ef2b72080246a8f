"""What a classifier's training and its evaluation tell: pages for people."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sppnet.data.files import Omission
from sppnet.metrics.classification import ClassificationResult, ScoredImage
from sppnet.report import page
from sppnet.report.chart import Series, line_chart, matrix_chart
from sppnet.report.page import Figure

SHOWN = 8
"""Images of each kind that are drawn."""
SHOWN_PX = 320
"""Longer side of those, at most."""
CONFUSED = 12
"""Pairs of classes that are listed."""
MAX_IN_MATRIX = 100
"""Classes beyond which a matrix would tell less than its list of pairs."""

IDLE = {
    "fc": ("view", "C"),
    "svm": (
        "freeze_trunk", "hidden", "dropout", "shape", "crop", "epochs", "batch_size", "learning_rate",
        "momentum", "weight_decay", "schedule", "patience",
    ),
}  # fmt: skip
"""Settings that decide nothing, by kind of head."""


def training_page(
    run: str,
    command: str,
    config: Mapping[str, Any],
    validation: ClassificationResult,
    epochs: Sequence[Mapping[str, float]],
    seconds: Mapping[str, float],
    skipped: Sequence[str] = (),
    omitted: Sequence[Omission] = (),
    held_out: bool = True,
) -> str:
    """The page of a training.

    run: its name. epochs: rows of metrics.csv, none for SVMs. seconds: of every stage.
    skipped: why images to train on could not be read. omitted: what was left out of the data set before.
    held_out: whether the validation images were not trained on.
    """
    return page.page(
        "classification.html",
        f"Classifier: {run}",
        f"Training of a classifier of {len(validation.classes)} classes",
        figures=_main_figures(validation, "validation images"),
        command=command,
        config=_effective(config),
        seconds=seconds,
        curves=_curves(epochs),
        held_out=held_out,
        left_out=[("evaluation", (), validation.skipped), ("training", omitted, skipped)],
        **_judgement(validation),
    )


def evaluation_page(
    model: str,
    command: str,
    settings: Mapping[str, Any],
    result: ClassificationResult,
    seconds: Mapping[str, float],
) -> str:
    """The page of an evaluation. settings: what was measured, and how."""
    return page.page(
        "classification.html",
        f"Evaluation: {model}",
        f"Evaluation of a classifier of {len(result.classes)} classes",
        figures=_main_figures(result, "images"),
        command=command,
        settings=settings,
        seconds=seconds,
        curves=[],
        held_out=True,
        left_out=[("evaluation", result.omitted, result.skipped)],
        **_judgement(result),
    )


def read_epochs(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv; none where there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: _number(value) for name, value in row.items()} for row in rows]


def stage_times(epochs: Sequence[Mapping[str, float]], seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds by stage: the epochs, resumed ones too, as one; of the others what this run measured."""
    others = {name: spent for name, spent in seconds.items() if not name.startswith("epoch ")}
    return ({"epochs": sum(row.get("seconds", 0.0) for row in epochs)} if epochs else {}) | others


# --- parts ---------------------------------------------------------------------------------------


def _effective(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without the settings that its kind of head has no use for."""
    idle = IDLE.get(str(config.get("head")), ())
    return {name: value for name, value in config.items() if name not in idle}


def _main_figures(result: ClassificationResult, images: str) -> dict[str, str]:
    return {
        "top-1": page.share(result.top1),
        "top-5": page.share(result.top5),
        "mean over classes": page.share(result.mean_per_class),
        images: f"{result.images:,}",
    }


def _curves(epochs: Sequence[Mapping[str, float]]) -> list[Figure]:
    if not epochs:
        return []
    loss = line_chart("loss", "epoch", [_series("training", "loss", epochs)])
    accuracy = [_series("training", "train_top1", epochs), _series("validation", "val_top1", epochs)]
    top1 = line_chart("top-1", "epoch", accuracy, (0.0, 1.0), percent=True)
    rate = line_chart("learning rate", "epoch", [_series("rate", "learning_rate", epochs)])
    return [
        (loss, "Mean cross-entropy over the images of an epoch, as they were met."),
        (top1, "Images met in training, with dropout; validation on central crops, after the epoch."),
        (rate, "At the start of the epoch."),
    ]


def _series(name: str, column: str, epochs: Sequence[Mapping[str, float]]) -> Series:
    return Series(name, [(row["epoch"], row[column]) for row in epochs if column in row])


def _judgement(result: ClassificationResult) -> dict[str, Any]:
    """What both pages tell of a result."""
    right, totals = result.confusion.diagonal().tolist(), result.confusion.sum(axis=1).tolist()
    return {
        "classes": [
            [name, f"{total:,}", f"{hits:,}", page.share(part)]
            for (name, part), hits, total in zip(result.per_class.items(), right, totals, strict=True)
        ],
        "recognised": list(result.per_class.values()),
        "matrix": (matrix_chart(result.classes, result.confusion) if len(right) <= MAX_IN_MATRIX else None),
        "confused": _confused(result),
        "best": [_draw(one, result.classes) for one in best_images(result.judged)],
        "worst": [_draw(one, result.classes) for one in worst_images(result.judged)],
    }


def _confused(result: ClassificationResult) -> list[list[str]]:
    """Rows of a table: what images show, what was said, how often."""
    wrong = result.confusion * ~np.eye(len(result.classes), dtype=bool)
    pairs = sorted(np.argwhere(wrong).tolist(), key=lambda pair: -wrong[pair[0], pair[1]])[:CONFUSED]
    return [[result.classes[i], result.classes[j], str(wrong[i, j])] for i, j in pairs]


def best_images(judged: Sequence[ScoredImage], count: int = SHOWN) -> list[ScoredImage]:
    """Right and sure: the surest of every class, then the second of every class, and so on."""
    by_class: dict[int, list[ScoredImage]] = defaultdict(list)
    for one in sorted((one for one in judged if one.guess == one.label), key=lambda one: -one.score):
        by_class[one.label].append(one)
    ranked = [(place, -one.score, one) for own in by_class.values() for place, one in enumerate(own)]
    return [one for _, _, one in sorted(ranked, key=lambda item: item[:2])[:count]]


def worst_images(judged: Sequence[ScoredImage], count: int = SHOWN) -> list[ScoredImage]:
    """Wrong, and most surely so: the guess scored furthest above the right class."""
    wrong = [one for one in judged if one.guess != one.label]
    return sorted(wrong, key=lambda one: one.own_score - one.score)[:count]


def _draw(one: ScoredImage, classes: Sequence[str]) -> Figure:
    said, shows = classes[one.guess], classes[one.label]
    words = f"{said} {one.score:.2f}"
    if one.guess != one.label:
        words = f"said {words}, shows {shows} {one.own_score:.2f}"
    return page.photograph(one.path, words, f"photograph of {shows}", lambda image: image, SHOWN_PX)


def _number(text: str) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return float("nan")
