"""Small photographs of coloured blocks, a trunk that sees colours, and a label page over them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from browser import until
from sppnet.detect.roi_features import RoIFeatures
from sppnet.features.lazy_image import LazyImage
from sppnet.label.learner import Trunk
from sppnet.label.server import open_label_server
from sppnet.label.session import Session
from sppnet.label.store import Store, open_store
from sppnet.label.whole.class_session import ClassSession
from sppnet.structures import GroundTruth, Proposals

S = TypeVar("S", Session, ClassSession)

SIZE = (120, 90)
COLOURS = {"apple": (200, 30, 30), "berry": (40, 40, 210), "lemon": (220, 210, 40)}


def make_photos(
    folder: Path, count: int, names: tuple[str, ...] = ("apple",), seed: int = 0
) -> list[GroundTruth]:
    """photo000.png and so on, each with a block of each name; what is where."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, truths = np.random.default_rng(seed), []
    for number in range(count):
        pixels = rng.integers(90, 150, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
        boxes = []
        for place, name in enumerate(names):
            x, y = rng.integers(0, 12) + 40 * place, rng.integers(0, 50)
            width, height = rng.integers(18, 26, 2)
            pixels[y : y + height, x : x + width] = COLOURS[name]
            boxes.append((x, y, x + width, y + height))
        Image.fromarray(pixels).save(folder / f"photo{number:03d}.png")
        truths.append(GroundTruth.of(boxes, range(len(names))))
    return truths


def propose(photo: LazyImage) -> Proposals:
    height, width = photo.size_hw
    boxes = [
        (x, y, x + side, y + side)
        for side in (16, 22, 28, 40)
        for y in range(0, height - side, 5)
        for x in range(0, width - side, 5)
    ]
    return Proposals.of(boxes)


def describe(photo: LazyImage, boxes: np.ndarray) -> RoIFeatures:
    """Mean colours of the four quarters of each box, and of a frame around it."""
    pixels = photo.pixels.astype(np.float64)
    table = np.zeros((pixels.shape[0] + 1, pixels.shape[1] + 1, 3))
    table[1:, 1:] = pixels.cumsum(0).cumsum(1)

    low, high = np.zeros(2), np.array(pixels.shape[1::-1])

    def mean(*box):
        x0, y0 = np.clip(np.floor(box[:2]), low, high - 1).astype(int)
        x1, y1 = np.clip(np.ceil(box[2:]), (x0 + 1, y0 + 1), high).astype(int)
        total = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
        return total / ((x1 - x0) * (y1 - y0)) / 255

    rows = []
    for x0, y0, x1, y1 in np.asarray(boxes, np.float64).reshape(-1, 4):
        cx, cy, w, h = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 4, (y1 - y0) / 4
        parts = [(x0, y0, cx, cy), (cx, y0, x1, cy), (x0, cy, cx, y1), (cx, cy, x1, y1)]
        parts += [(x0 - w, y0, x0, y1), (x1, y0, x1 + w, y1), (x0, y0 - h, x1, y0), (x0, y1, x1, y1 + h)]
        rows.append(np.concatenate([mean(*part) for part in parts] + [[1.0]]))
    vectors = torch.from_numpy(np.array(rows, np.float32).reshape(len(rows), 25))
    return RoIFeatures(vectors, vectors, np.arange(len(rows)))


def make_trunk() -> Trunk:
    return Trunk("colours", propose, describe, lambda path: LazyImage(path, None))


@contextmanager
def labelling(folder: Path, **options) -> Iterator[tuple[str, Session]]:
    """The URL of a label page in a thread, and its session."""
    with serving(Session(open_store(folder, **options), make_trunk())) as served:
        yield served


@contextmanager
def serving(session: S) -> Iterator[tuple[str, S]]:
    """The URL of the page of a session, in a thread."""
    server, place = open_label_server(session, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{place.getsockname()[1]}", session
    finally:
        server.should_exit = True
        thread.join()
        place.close()


def read_again(store: Store) -> Store:
    """The folder as another program finds it."""
    return open_store(store.root)
