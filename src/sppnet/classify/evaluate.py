"""How often a classifier is right."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from sppnet.classify.classifier import Classifier
from sppnet.classify.views import score_images
from sppnet.data.files import composed
from sppnet.data.folder import ImageFolder
from sppnet.data.image import ImageArray, read_image
from sppnet.errors import DataError, ImageError
from sppnet.metrics.classification import ClassificationResult, ScoredImage, evaluate_scores
from sppnet.progress import NullProgress, Progress
from sppnet.threads import ordered_attempts

Item = TypeVar("Item")

AHEAD = 32  # images decoded while the network works
TOGETHER = 32  # images of one view size, convolved in one batch


def evaluate(
    classifier: Classifier,
    folder: ImageFolder,
    progress: Progress | None = None,
    *,
    read: Callable[[Path], ImageArray] = read_image,
    learning: bool = False,
    **overrides: Any,
) -> ClassificationResult:
    """Accuracy on a folder, whose classes must be the classifier's. overrides: fields of `Testing`.

    read: the image of a file; called on worker threads.
    learning: whether the network goes on learning, so that no faster copy of it is made.

    Images that cannot be read are left out and named in the result.
    """
    progress = progress or NullProgress()
    testing = classifier.testing.asked(**overrides)
    labels = _labels(classifier, folder)
    progress.begin(f"evaluating ({testing.views})", len(folder))
    scores, known, paths, skipped = [], [], [], []
    network = classifier.network.eval()
    scorer = network if learning else network.for_scoring(len(folder))
    with torch.inference_mode():
        for group in _batched(enumerate(ordered_attempts(read, folder.paths, ahead=AHEAD)), TOGETHER):
            readable = [(index, image) for index, image in group if not isinstance(image, ImageError)]
            skipped += [str(image) for _, image in group if isinstance(image, ImageError)]
            if readable:
                shown = [image for _, image in readable]
                scores.append(
                    score_images(scorer, shown, testing.views, testing.all_scales, testing.size_px).cpu()
                )
            known += [labels[folder.labels[index]] for index, _ in readable]
            paths += [folder.paths[index] for index, _ in readable]
            progress.advance(len(group))
    if not scores:
        raise DataError(
            f"none of the {len(folder)} images of {folder.root} could be read; the first: {skipped[0]}"
        )
    every = torch.cat(scores)
    result = evaluate_scores(every, known, classifier.classes, skipped)
    return replace(result, judged=_judge_each(every, known, paths), omitted=folder.omitted)


def _judge_each(scores: Tensor, labels: list[int], paths: list[Path]) -> tuple[ScoredImage, ...]:
    table = scores.numpy()  # its argmax takes the first of equal scores, as the confusion matrix does
    guesses = table.argmax(axis=1).tolist()
    return tuple(
        ScoredImage(path, label, guess, float(row[guess]), float(row[label]))
        for path, label, guess, row in zip(paths, labels, guesses, table, strict=True)
    )


def _labels(classifier: Classifier, folder: ImageFolder) -> list[int]:
    """The classifier's number of each class of the folder."""
    places = {composed(name): place for place, name in enumerate(classifier.classes)}
    unknown = sorted(set(folder.classes) - places.keys())
    if unknown:
        raise DataError(
            f"{folder.root} has classes the model was not trained on: {', '.join(unknown[:5])}"
            f"{f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''}; it knows "
            f"{', '.join(classifier.classes[:5])}{', …' if len(classifier.classes) > 5 else ''}. Move the "
            "images of others away, or train on these classes too"
        )
    return [places[name] for name in folder.classes]


def _batched(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last perhaps shorter (itertools.batched comes with Python 3.12)."""
    while group := list(islice(items, size)):
        yield group
