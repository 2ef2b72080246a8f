"""Labelling replayed: an annotated data set, labelled through the page's API as a careful person would.

Photograph by photograph, in the page's order. A suggestion that overlaps an object of its class by 0.7 is
accepted as it is, one that overlaps one by half is moved onto it, any other is refused; what is missing is
drawn. The next photograph's maps are waited for before a photograph is confirmed: a person takes longer.
"""

import json
import shutil
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np

from sppnet.arrays import Floats
from sppnet.boxes import box_iou
from sppnet.data.detection_dataset import AnnotatedImages, default_split, open_annotated
from sppnet.errors import ConfigError, DataError
from sppnet.label.figures import TAKEN_IOU
from sppnet.label.learner import Trunk
from sppnet.label.model import RIGHT_IOU
from sppnet.label.server import open_label_server
from sppnet.label.session import Session
from sppnet.label.store import open_store
from sppnet.label.trunk import open_trunk
from sppnet.label.whole.class_session import ClassSession
from sppnet.progress import NullProgress, Progress
from sppnet.structures import GroundTruth

STAGES = (0, 1, 3, 10, 20, 40, 60, 100, 150, 200, 300, 500, 1000)
"""Photographs done where a row of the table ends and the next begins."""

WAIT_S = 300.0

OneStep = TypeVar("OneStep")


@dataclass(frozen=True)
class Step:
    """A photograph that was labelled."""

    boxes: int
    taken: int
    moved: int
    refused: int
    seconds: float
    """From its confirmation to new suggestions for the next."""


@dataclass(frozen=True)
class Stage:
    """Photographs after each other."""

    first: int
    last: int
    boxes: int
    taken: float
    """Share of the boxes that were accepted as suggested."""
    moved: float
    drawn: float
    """By hand."""
    refused_per_taken: float
    median_s: float
    p95_s: float


def run(
    data: Annotated[Path | None, "Annotated images: a VOC, COCO or YOLO folder."] = None,
    photographs: Annotated[int, "Photographs to label."] = 40,
    split: Annotated[str | None, "The split to take them from."] = None,
    trunk: Annotated[str, "Trunk, as for detect train."] = "auto",
    weights: Annotated[str | None, "Weights of the trunk, as for detect train."] = None,
    seed: Annotated[int, "Which photographs, and their order."] = 0,
    progress: Progress | None = None,
) -> list[Stage]:
    """The table, a row a stage. Raises DataError or ConfigError for what cannot be used."""
    if data is None:
        raise ConfigError("name the annotated photographs to label, as sppnet benchmark label FOLDER")
    images = open_annotated(data, split or default_split(data))
    chosen = np.random.default_rng(seed).permutation(len(images))[:photographs]
    images = images.take(chosen)
    return stages_of(replay(images, open_trunk(trunk, weights, photos=images.paths), progress))


def replay(images: AnnotatedImages, trunk: Trunk, progress: Progress | None = None) -> list[Step]:
    """Every photograph labelled once."""
    with serving_copies(
        images.paths, lambda root: Session(open_store(root, "voc", images.classes), trunk)
    ) as client:
        return list(_replay(client, images, progress or NullProgress()))


@contextmanager
def serving_copies(
    paths: Sequence[Path], open_session: Callable[[Path], Session | ClassSession]
) -> Iterator["Client"]:
    """A client of the page of a session on copies of photographs, whose folder `open_session` is given."""
    with tempfile.TemporaryDirectory(prefix="sppnet-label-") as folder:
        root = Path(folder)
        for number, path in enumerate(paths):
            shutil.copyfile(path, root / f"{number:05d}{path.suffix.lower()}")
        with serving(open_session(root)) as url:
            yield Client(url)


@contextmanager
def serving(session: Session | ClassSession) -> Iterator[str]:
    """The URL of a page in a thread."""
    server, place = open_label_server(session, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{place.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        place.close()


class Client:
    """The page's requests."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, content, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.loads(answer.read())
        return found

    def until(self, path: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """What a path answers once it is as wanted."""
        ends = time.monotonic() + WAIT_S
        while time.monotonic() < ends:
            sequence = self.ask("GET", "/v1/session")["sequence"]
            if wanted(found := self.ask("GET", path)):
                return found
            if path.endswith("suggestions") and not found["ready"]:
                time.sleep(0.05)  # nobody is told that a photograph is ready
            else:
                self.ask("GET", f"/v1/changes?since={sequence}")
        raise DataError(f"{path} did not become as wanted within {WAIT_S:g} seconds")


def _replay(client: Client, images: AnnotatedImages, progress: Progress) -> Iterator[Step]:
    progress.begin("labelling", len(images))
    photo: int | None = 0
    for version in range(len(images)):
        assert photo is not None
        following = client.ask("POST", f"/v1/photos/{photo}/show")["next"]
        for one in (photo, following):
            if one is not None:
                client.until(f"/v1/photos/{one}/suggestions", lambda found: bool(found["ready"]))
        shown = client.until(f"/v1/photos/{photo}", _is_of(version))
        truth = images.truths[photo]
        step, change = label(shown, truth[~(truth.difficult | truth.crowd)], images.classes)
        began = time.perf_counter()
        client.ask("PUT", f"/v1/photos/{photo}", change)
        if following is not None:
            client.until(f"/v1/photos/{following}/suggestions", _is_of(version + 1))
        yield Step(*step, time.perf_counter() - began)
        progress.advance(note=f"{step[1]} of {step[0]} boxes taken")
        photo = following


def _is_of(version: int) -> Callable[[dict[str, Any]], bool]:
    """Whether suggestions stand on so many confirmed photographs."""
    return lambda found: int(found["version"]) >= version


def label(
    shown: dict[str, Any], truth: GroundTruth, classes: Sequence[str]
) -> tuple[tuple[int, int, int, int], dict[str, Any]]:
    """Boxes, taken, moved and refused ones; and what is sent to the server."""
    free = np.ones(len(truth), np.bool_)
    boxes, refused, taken = [], [], 0
    for suggestion in shown["suggestions"]:
        own = free & (truth.labels == classes.index(suggestion["label"]))
        iou = np.where(own, _overlaps(suggestion["box"], truth.boxes), 0)
        best = int(iou.argmax()) if len(iou) else -1
        if best < 0 or iou[best] < RIGHT_IOU:
            refused.append(suggestion["box"])
            continue
        free[best] = False
        accepted = bool(iou[best] >= TAKEN_IOU)
        taken += accepted
        boxes.append((suggestion["label"], suggestion["box"] if accepted else truth.boxes[best].tolist()))
    moved = len(boxes) - taken
    boxes += [(classes[truth.labels[index]], truth.boxes[index].tolist()) for index in np.flatnonzero(free)]
    change = {
        "boxes": [{"label": name, "box": box} for name, box in boxes],
        "done": True, "revision": shown["revision"], "refused": refused,
    }  # fmt: skip
    return (len(truth), taken, moved, len(refused)), change


def _overlaps(box: Sequence[float], others: Floats) -> Floats:
    result: Floats = box_iou(np.array([box]), others)[0]
    return result


def stages_of(steps: Sequence[Step]) -> list[Stage]:
    """A row for every part of the photographs."""
    found = []
    for first, part in in_stages(steps):
        boxes, taken, moved, refused = (
            sum(getattr(step, name) for step in part) for name in ("boxes", "taken", "moved", "refused")
        )
        found.append(Stage(
            first, first + len(part), boxes, taken / max(1, boxes), moved / max(1, boxes),
            1 - (taken + moved) / max(1, boxes), refused / max(1, taken + moved),
            *waits([step.seconds for step in part]),
        ))  # fmt: skip
    return found


def in_stages(steps: Sequence[OneStep]) -> Iterator[tuple[int, Sequence[OneStep]]]:
    """The steps of each stage that was reached, and the number of the first."""
    for first, last in pairwise(STAGES):
        if part := steps[first:last]:
            yield first, part


def waits(seconds: Sequence[float]) -> tuple[float, float]:
    """Their median, and what 95 % of them do not exceed."""
    return float(np.median(seconds)), float(np.quantile(seconds, 0.95))
