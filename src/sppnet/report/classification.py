"""What a classifier's training and its evaluation tell: pages for people."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sppnet import __version__
from sppnet.data.files import Omission, writable_name
from sppnet.data.image import read_image
from sppnet.errors import ImageError
from sppnet.metrics.classification import ClassificationResult, ScoredImage
from sppnet.report import page
from sppnet.report.chart import Series, line_chart, matrix_chart
from sppnet.report.page import Html

SHOWN = 8
"""Images of each kind that are drawn."""
SHOWN_PX = 320
"""Longer side of those, at most."""
CONFUSED = 12
"""Pairs of classes that are listed."""
MAX_IN_MATRIX = 100
"""Classes beyond which a matrix would tell less than its list of pairs."""

SCORES = "Numbers are scores: probabilities, or the margins of SVMs, which are above 0 for a yes."

NOT_HELD_OUT = (
    "No class has two images, so none is held out: these figures are of the images that were trained on, and "
    "say little of others."
)

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
    lead = f"Training of a classifier of {len(validation.classes)} classes, by sppnet {__version__}."
    parts = [
        page.figures(_main_figures(validation, "validation images")),
        page.section(
            "How it was made",
            page.command_block(command),
            page.details("All settings", page.settings(_effective(config))),
        ),
        page.section("Time", page.times(seconds)),
        page.section("Learning", *_curves(epochs)),
        page.section("Validation", *([] if held_out else [page.paragraph(NOT_HELD_OUT)])),
        *_judgement(validation),
        _left_out(skipped, "training", omitted),
    ]
    return page.page(f"Classifier: {run}", lead, parts)


def evaluation_page(
    model: str,
    command: str,
    settings: Mapping[str, Any],
    result: ClassificationResult,
    seconds: Mapping[str, float],
) -> str:
    """The page of an evaluation. how: what was measured, and in which way."""
    lead = f"Evaluation of a classifier of {len(result.classes)} classes, by sppnet {__version__}."
    parts = [
        page.figures(_main_figures(result, "images")),
        page.section("How it was measured", page.command_block(command), page.settings(settings)),
        page.section("Time", page.times(seconds)),
        *_judgement(result, result.omitted),
    ]
    return page.page(f"Evaluation: {model}", lead, parts)


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


def _curves(epochs: Sequence[Mapping[str, float]]) -> list[Html]:
    if not epochs:
        return []
    loss = line_chart("loss", "epoch", [_series("training", "loss", epochs)])
    accuracy = [_series("training", "train_top1", epochs), _series("validation", "val_top1", epochs)]
    top1 = line_chart("top-1", "epoch", accuracy, (0.0, 1.0), percent=True)
    rate = line_chart("learning rate", "epoch", [_series("rate", "learning_rate", epochs)])
    captions = (
        (loss, "Mean cross-entropy over the images of an epoch, as they were met."),
        (top1, "Images met in training, with dropout; validation on central crops, after the epoch."),
        (rate, "At the start of the epoch."),
    )
    return [page.grid((page.figure(chart, words) for chart, words in captions), "large")]


def _series(name: str, column: str, epochs: Sequence[Mapping[str, float]]) -> Series:
    return Series(name, [(row["epoch"], row[column]) for row in epochs if column in row])


def _judgement(result: ClassificationResult, omitted: Sequence[Omission] = ()) -> list[Html]:
    return [
        page.section("Classes", _class_table(result)),
        page.section("What is taken for what", _matrix(result), _confused(result)),
        page.section("The surest of the right ones", *_drawn(best_images(result.judged), result.classes)),
        page.section("The worst mistakes", *_drawn(worst_images(result.judged), result.classes)),
        _left_out(result.skipped, "evaluation", omitted),
    ]


def _class_table(result: ClassificationResult) -> Html:
    right, totals = result.confusion.diagonal().tolist(), result.confusion.sum(axis=1).tolist()
    rows = [
        [name, f"{total:,}", f"{hits:,}", page.share(part)]
        for (name, part), hits, total in zip(result.per_class.items(), right, totals, strict=True)
    ]
    columns = ["class", "images", "right", "top-1"]
    return page.table("How often each class is recognised", columns, rows, list(result.per_class.values()))


def _matrix(result: ClassificationResult) -> Html:
    k = len(result.classes)
    if k > MAX_IN_MATRIX:
        return page.paragraph(f"A matrix of {k} classes would be too small to read; the list tells.")
    caption = "Rows: what images show. Columns: what the classifier said. Blue: right. Orange: wrong."
    return page.figure(matrix_chart(result.classes, result.confusion), caption)


def _confused(result: ClassificationResult) -> Html:
    wrong = result.confusion * ~np.eye(len(result.classes), dtype=bool)
    pairs = sorted(np.argwhere(wrong).tolist(), key=lambda pair: -wrong[pair[0], pair[1]])[:CONFUSED]
    if not pairs:
        return page.paragraph("No image was taken for another class.")
    rows = [[result.classes[i], result.classes[j], str(wrong[i, j])] for i, j in pairs]
    return page.table("The most frequent mistakes", ["shows", "was said to be", "times"], rows)


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


def _drawn(images: Sequence[ScoredImage], classes: Sequence[str]) -> list[Html]:
    if not images:
        return []
    return [page.paragraph(SCORES), page.grid(_draw(one, classes) for one in images)]


def _draw(one: ScoredImage, classes: Sequence[str]) -> Html:
    said, shows = classes[one.guess], classes[one.label]
    caption = f"{said} {one.score:.2f}"
    if one.guess != one.label:
        caption = f"said {caption}, shows {shows} {one.own_score:.2f}"
    caption += f" · {writable_name(one.path.name)}"
    try:
        content = page.picture(read_image(one.path), f"photograph of {shows}", SHOWN_PX)
    except ImageError as error:  # it went away since it was judged
        content = page.paragraph(str(error))
    return page.figure(content, caption)


def _left_out(skipped: Sequence[str], of: str, omitted: Sequence[Omission] = ()) -> Html:
    reasons = [page.paragraph(omission.reason) for omission in omitted]
    if skipped:
        reasons.append(page.listing(f"{len(skipped)} could not be read", skipped))
    return page.section(f"Images left out of {of}", *reasons)


def _number(text: str) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return float("nan")
