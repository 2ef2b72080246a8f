"""Labelling whole photographs replayed: a data set of classes, labelled through the page's API.

Photograph by photograph, in the page's order. A first suggestion that is right is accepted, any other is
replaced by the photograph's class; every suggestion is judged before that.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from sppnet.benchmark.label import Client, in_stages, serving_copies, waits
from sppnet.data.folder import ImageFolder, find_splits, open_folder
from sppnet.errors import ConfigError
from sppnet.label.whole.class_session import ClassSession
from sppnet.label.whole.class_store import open_class_store
from sppnet.label.whole.photo_vectors import PhotoVectors, open_vectors
from sppnet.progress import NullProgress, Progress


@dataclass(frozen=True)
class ClassStep:
    """A photograph that was labelled."""

    suggested: bool
    right: bool
    """Whether the first suggestion was its class."""
    seconds: float
    """From its label to new suggestions."""


@dataclass(frozen=True)
class ClassStage:
    """Photographs after each other."""

    first: int
    last: int
    suggested: float
    """Share of the photographs that had a suggestion."""
    right: float
    """Share of the photographs whose first suggestion was their class."""
    median_s: float
    p95_s: float


def run(
    data: Annotated[Path | None, "Images and their classes: class folders, or a table of labels."] = None,
    photographs: Annotated[int, "Photographs to label."] = 300,
    split: Annotated[str | None, "The split to take them from; train, where there are splits."] = None,
    trunk: Annotated[str, "Trunk, as for label."] = "auto",
    weights: Annotated[str | None, "Weights of the trunk, as for label."] = None,
    seed: Annotated[int, "Which photographs, and their order."] = 0,
    progress: Progress | None = None,
) -> list[ClassStage]:
    """The table, a row a stage. Raises DataError or ConfigError for what cannot be used."""
    if data is None:
        raise ConfigError("name the photographs to label, as sppnet benchmark label-classes FOLDER")
    if split is None and "train" in find_splits(data):
        split = "train"
    images = open_folder(data, split)
    chosen = np.random.default_rng(seed).permutation(len(images))[:photographs]
    return stages_of(replay(images.take(chosen), open_vectors(trunk, weights), progress))


def replay(images: ImageFolder, vectors: PhotoVectors, progress: Progress | None = None) -> list[ClassStep]:
    """Every photograph labelled once."""
    with serving_copies(
        images.paths, lambda root: ClassSession(open_class_store(root, "csv", images.classes), vectors)
    ) as client:
        return list(_replay(client, images, progress or NullProgress()))


def _replay(client: Client, images: ImageFolder, progress: Progress) -> Iterator[ClassStep]:
    progress.begin("labelling", len(images))
    photo: int | None = 0
    while photo is not None:
        client.until(f"/v1/photos/{photo}/suggestions", lambda found: bool(found["ready"]))
        client.until("/v1/session", lambda session: not session["learning"]["waiting"])
        shown = client.ask("GET", f"/v1/photos/{photo}")
        name = images.classes[images.labels[photo]]
        began = time.perf_counter()
        client.ask("PUT", f"/v1/photos/{photo}", {"label": name, "revision": shown["revision"]})
        client.until("/v1/session", lambda session: not session["learning"]["waiting"])
        seconds = time.perf_counter() - began
        first = next((one["label"] for one in shown["suggestions"]), None)
        yield ClassStep(first is not None, first == name, seconds)
        progress.advance()
        photo = client.ask("POST", f"/v1/photos/{photo}/show")["next"]


def stages_of(steps: Sequence[ClassStep]) -> list[ClassStage]:
    """A row for every part of the photographs."""
    return [
        ClassStage(
            first, first + len(part), float(np.mean([step.suggested for step in part])),
            float(np.mean([step.right for step in part])), *waits([step.seconds for step in part]),
        )
        for first, part in in_stages(steps)
    ]  # fmt: skip
