"""The film of the label page in the README, from the real page in a headless chromium.

    python tools/label_film.py PHOTOS_IN_COCO_LAYOUT docs/images/label.webp --trunk yolox_nano.onnx

Somebody draws every chess piece of the first photograph; from the second on suggestions are accepted and
corrected. Hands are faster than a person's; what is suggested is what the page suggested.
"""

import argparse
import io
import json
import shutil
import sys
import tempfile
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from browser import Browser, open_browser, until
from sppnet.boxes import box_iou
from sppnet.label.server import open_label_server
from sppnet.label.session import Session
from sppnet.label.store import open_store
from sppnet.label.trunk import open_trunk

SIZE, SHOWN_WIDTH, NAME = (1080, 760), 810, "piece"
ARROW = [(0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (12, 12)]


def read_objects(folder: Path) -> dict[str, np.ndarray]:
    """(n, 4) boxes of each photograph, all as one class."""
    data = json.loads(next(folder.glob("*.json")).read_text())
    names = {image["id"]: image["file_name"] for image in data["images"]}
    found: dict[str, list[list[float]]] = {name: [] for name in names.values()}
    for one in data["annotations"]:
        x, y, width, height = map(float, one["bbox"])
        found[names[one["image_id"]]].append([x, y, x + width, y + height])
    return {name: np.array(boxes, np.float32).reshape(-1, 4) for name, boxes in found.items()}


class Film:
    """Frames of the page, each with the pointer where the mouse was last."""

    def __init__(self, browser: Browser) -> None:
        self.browser, self.pointer = browser, (SIZE[0] - 40, SIZE[1] - 40)
        self.frames: list[Image.Image] = []
        self.durations: list[int] = []

    def take(self, milliseconds: int) -> None:
        data = self.browser.ask("Page.captureScreenshot", format="png")["data"]
        frame = Image.open(io.BytesIO(b64decode(data))).convert("RGB")
        ImageDraw.Draw(frame).polygon(
            [(self.pointer[0] + x, self.pointer[1] + y) for x, y in ARROW], "black", "white", 2
        )
        height = round(frame.height * SHOWN_WIDTH / frame.width)
        self.frames.append(frame.resize((SHOWN_WIDTH, height), Image.Resampling.LANCZOS))
        self.durations.append(milliseconds)

    def save(self, path: Path) -> None:
        first, *others = self.frames
        first.save(
            path, save_all=True, append_images=others, duration=self.durations, loop=0, quality=62, method=6
        )


class Hand:
    """A person at the page."""

    def __init__(self, film: Film, size_hw: tuple[int, int]) -> None:
        self.film, self.browser = film, film.browser
        x, y, width, height = self.browser.frame("#canvas")
        self.scale = min((width - 8) / size_hw[1], (height - 8) / size_hw[0])
        self.origin = (
            x + (width - size_hw[1] * self.scale) / 2,
            y + (height - size_hw[0] * self.scale) / 2,
        )

    def place(self, point: np.ndarray) -> tuple[float, float]:
        """Of a point of the photograph on the screen."""
        x, y = (float(side) * self.scale + self.origin[axis] for axis, side in enumerate(point))
        return x, y

    def drag(self, start: np.ndarray, end: np.ndarray, milliseconds: int) -> None:
        points = [self.place(start), self.place((start + end) / 2), self.place(end)]
        for kind, (x, y) in zip(("mousePressed", "mouseMoved", "mouseMoved"), points, strict=True):
            self._mouse(kind, x, y)
            if kind == "mouseMoved" and milliseconds:
                self.film.take(milliseconds // 2)
        self._mouse("mouseReleased", *points[2])

    def click(self, point: np.ndarray) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self._mouse(kind, *self.place(point))

    def _mouse(self, kind: str, x: float, y: float) -> None:
        self.film.pointer = (x, y)
        self.browser.ask(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1
        )


def correct(film: Film, hand: Hand, session: Session, photo: int, objects: np.ndarray) -> None:
    """What is wrong is removed, what is loose is drawn anew, and what is missing is drawn."""
    boxes = np.array([box.box for box in session.store.sheet(photo).boxes], np.float32).reshape(-1, 4)
    iou = box_iou(boxes, objects)
    good = iou.max(axis=1, initial=0) >= 0.65
    for box in boxes[~good]:
        hand.click((box[:2] + box[2:]) / 2)
        film.take(350)
        film.browser.press("Delete")
        film.take(350)
    missing = objects[iou[good].max(axis=0, initial=0) < 0.65]
    for box in missing:
        film.browser.press("Escape")
        hand.drag(box[:2], box[2:], 240)
    until(lambda: len(session.store.sheet(photo).boxes) == good.sum() + len(missing))


def label(film: Film, session: Session, truths: list[np.ndarray]) -> None:
    browser = film.browser
    for photo, objects in enumerate(truths):
        browser.until(f"document.querySelector('#name').innerText === {session.store.name(photo)!r}")
        hand = Hand(film, session.store.header(photo).size_hw)
        if photo:
            until(lambda photo=photo: session.learner.version >= photo)
            until(lambda photo=photo: session.describe_suggestions(photo)["version"] >= photo)
            browser.until("!document.querySelector('#accept').disabled")
            until(lambda: browser.run("new Promise((wake) => setTimeout(wake, 1200)).then(() => true)"))
            film.take(1900)
            browser.press("Enter")
            until(lambda photo=photo: session.store.sheet(photo).boxes)
            film.take(900)
            correct(film, hand, session, photo, objects)
        else:
            film.take(900)
            for number, box in enumerate(objects):
                browser.press("Escape")
                hand.drag(box[:2], box[2:], 320 if number < 3 else 160)
        browser.press("Escape")
        film.take(800)
        browser.press("Enter")


@contextmanager
def serving(folder: Path, trunk: str) -> Iterator[tuple[str, Session]]:
    """The page over photographs without annotations."""
    store = open_store(folder, "voc", [NAME])
    session = Session(store, open_trunk(trunk, photos=store.paths))
    server, place = open_label_server(session, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{place.getsockname()[1]}", session
    finally:
        server.should_exit = True
        thread.join()
        place.close()


def shoot(browser: Browser, url: str, session: Session, truths: list[np.ndarray]) -> Film:
    width, height = SIZE
    browser.ask(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
    )
    browser.open(url)
    browser.run("document.querySelector('#canvas').focus()")
    until(lambda: session.learner.is_ready(1))
    film = Film(browser)
    label(film, session, truths)
    film.take(1500)
    browser.ask("Page.navigate", url="about:blank")
    return film


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trunk", default="auto")
    parser.add_argument("--objects", type=int, nargs=2, default=(7, 16), help="of each photograph")
    parser.add_argument("--photographs", type=int, default=5)
    arguments = parser.parse_args()
    objects = read_objects(arguments.photos)
    least, most = arguments.objects
    counts = sorted((len(boxes), name) for name, boxes in objects.items() if least <= len(boxes) <= most)
    chosen = [name for _, name in counts[: arguments.photographs]]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "chess"
        folder.mkdir()
        for number, name in enumerate(chosen, 1):
            shutil.copyfile(arguments.photos / name, folder / f"board {number}.jpg")
        with (
            serving(folder, arguments.trunk) as (url, session),
            open_browser(Path(temporary) / "chromium") as browser,
        ):
            film = shoot(browser, url, session, [objects[name] for name in chosen])
    film.save(arguments.out)
    print(f"{arguments.out}: {len(film.frames)} frames, {arguments.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
