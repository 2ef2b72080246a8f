"""The page in a real browser: an image dropped, a slider moved, a window drawn, by mouse and by keyboard.

The browser is driven over its DevTools protocol with real input events; nothing is downloaded.
"""

import base64
import itertools
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sppnet.classify.classifier import Classifier, Testing
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector, Parts
from sppnet.learn.ridge import BoxRegressor
from sppnet.learn.svm import LinearSVM
from sppnet.nn.network import SPPNet
from sppnet.nn.trunks import load_trunk
from sppnet.proposals.learned import WindowHead
from sppnet.proposals.windows import WindowConfig
from sppnet.serve.limits import Limits
from sppnet.serve.listen import open_server

client = pytest.importorskip("websockets.sync.client", reason="needs the package websockets")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium is installed (apt-get install chromium)"
)

CLASSES = ("cat", "dog")
WAIT = 60.0  # machines that run tests may be slow


class Browser:
    """One tab of a headless chromium."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None
        (tab,) = [t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self.session = self.ask("Target.attachToTarget", targetId=tab["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        self.socket.send(json.dumps(message | ({"sessionId": self.session} if self.session else {})))
        while True:
            answer = json.loads(self.socket.recv(timeout=WAIT))
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def run(self, script: str) -> Any:
        """The value of a script in the page."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, url: str) -> None:
        self.ask("Page.navigate", url=url)
        self.until("document.body?.dataset.ready === 'yes'")

    def until(self, script: str) -> None:
        until(
            lambda: self.run(f"Boolean({script})"),
            lambda: f"{script}; the page says {self.text('#status')!r}",
        )

    def text(self, place: str) -> str:
        return self.run(f"document.querySelector({place!r})?.innerText ?? ''")

    def texts(self, place: str) -> list[str]:
        return self.run(f"[...document.querySelectorAll({place!r})].map((one) => one.innerText)")

    def frame(self, place: str) -> tuple[float, float, float, float]:
        """x, y, width and height of an element, brought into view."""
        script = (
            f"(() => {{const e = document.querySelector({place!r}); e.scrollIntoView({{block: 'center'}});"
            "const f = e.getBoundingClientRect(); return [f.x, f.y, f.width, f.height]})()"
        )
        return tuple(self.run(script))

    def drop(self, path: Path, place: str = "#drop") -> None:
        x, y, width, height = self.frame(place)
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.ask("Input.dispatchDragEvent", type=kind, x=x + width / 2, y=y + height / 2, data=data)

    def press(self, key: str, times: int = 1, shift: bool = False) -> None:
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                code = {"Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40, "End": 35}[key]
                self.ask(
                    "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                    modifiers=8 if shift else 0,
                )  # fmt: skip

    def drag(self, place: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """With the mouse, between points in shares of an element."""
        x, y, width, height = self.frame(place)
        points = [(x + width * a, y + height * b) for a, b in (start, end)]
        middle = tuple((a + b) / 2 for a, b in zip(*points, strict=True))
        kinds = ("mousePressed", "mouseMoved", "mouseMoved", "mouseReleased")
        steps = zip(kinds, (points[0], middle, points[1], points[1]), strict=True)
        for kind, (px, py) in steps:
            self.ask(
                "Input.dispatchMouseEvent", type=kind, x=px, y=py, button="left", buttons=1, clickCount=1
            )

    def shot(self, path: Path, whole: bool = True) -> None:
        data = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """Errors and violated policies that the console has shown."""
        self.run("0")
        seen = [(event.get("method"), event.get("params", {})) for event in self.events]
        entries = [about["entry"] for kind, about in seen if kind == "Log.entryAdded"]
        thrown = [str(about["exceptionDetails"]) for kind, about in seen if kind == "Runtime.exceptionThrown"]
        wrong = [entry for entry in entries if entry["level"] == "error"]
        return thrown + [f"{entry['text']} {entry.get('url')}" for entry in wrong]

    def addresses(self) -> set[str]:
        """Everything the page asked for."""
        sent = [
            e["params"]["request"]["url"]
            for e in self.events
            if e.get("method") == "Network.requestWillBeSent"
        ]
        return {url for url in sent if not url.startswith(("data:", "blob:"))}


@contextmanager
def open_browser(home: Path) -> Iterator[Browser]:
    """A browser whose profile lies in `home`, gone at the end."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    words = [CHROMIUM, "--headless=new", *sandbox, "--disable-gpu", "--remote-debugging-port=0",
             "--window-size=1280,900", f"--user-data-dir={home}", "about:blank"]  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = home / "DevToolsActivePort"
        until(lambda: port_file.is_file() and port_file.read_text().count("\n") >= 1)
        port, path = port_file.read_text().split("\n")[:2]
        with client.connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait()


def until(condition: Any, complaint: Any = lambda: "waited too long") -> None:
    ends = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < ends, complaint()
        time.sleep(0.05)


@contextmanager
def serving(model: Any) -> Iterator[str]:
    """The URL of a server in a thread."""
    server, place = open_server(model, "127.0.0.1", 0, Limits())
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{place.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        place.close()


def make_detector() -> Detector:
    """Says yes to about half of all windows."""
    torch.manual_seed(0)
    config = DetectorConfig(
        trunk="zf5", stride=None, width=0.1, scales=(160,), levels=(1, 2, 3), most=60, finetune="none"
    )
    trunk = load_trunk("zf5", width=0.1).eval()
    length = trunk.channels * 14
    windows = WindowHead(trunk.channels, WindowConfig(sizes=(2, 4), shapes=(0.5, 1.0, 2.0), hidden=8)).eval()
    svm = LinearSVM(torch.randn(2, length) / 10, torch.zeros(2), CLASSES)
    regressor = BoxRegressor(torch.randn(2, 4, length) / 500, torch.zeros(2, 4), CLASSES)
    return Detector(Parts(CLASSES, config, trunk, windows, None, svm, regressor))


def make_classifier() -> Classifier:
    torch.manual_seed(0)
    network = SPPNet(load_trunk("zf5", width=0.0625), (1, 2, 3), 2, hidden=16).eval()
    nn.init.normal_(network.head.fc8.weight)
    return Classifier(network, CLASSES, Testing(scale_px=160), {})


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.jpg"
    small = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    Image.fromarray(small).resize((300, 200), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def detector_page(browser, photo) -> Iterator[Browser]:
    """The page of a detector, an image dropped on it."""
    with serving(make_detector()) as url:
        browser.events.clear()
        browser.open(url)
        browser.drop(photo)
        browser.until("document.querySelectorAll('#found .name').length > 0")
        yield browser


def test_a_dropped_image_is_shown_with_what_was_found(detector_page):
    width, height = detector_page.run("[canvas.width, canvas.height]")
    assert width / height == pytest.approx(300 / 200, rel=1e-2)
    assert set(detector_page.texts("#found .name")) <= set(CLASSES)
    assert detector_page.text("#status").startswith("Found ")
    assert {"convolve", "propose", "pool and score", "in all"} <= set(
        detector_page.texts("#times td:first-child")
    )


def drawing(page: Browser) -> str:
    return page.run("canvas.toDataURL()")


def test_sliders_show_fewer_at_once_and_more_again(detector_page):
    page = detector_page
    before, pixels = len(page.texts("#found .name")), drawing(page)
    page.run("document.querySelector('#score').focus()")
    page.press("End")
    page.until(f"document.querySelectorAll('#found .name').length < {before}")
    assert drawing(page) != pixels
    page.press("ArrowLeft", times=40)  # two, in steps of a twentieth
    assert len(page.texts("#found .name")) == before
    assert page.text("#score-value") == "0.00"
    page.run("document.querySelector('#overlap').focus()")
    page.press("End")
    page.until(f"document.querySelectorAll('#found .name').length > {before}")


SCORED = "document.querySelector('#window:not([hidden]):not(.stale)')"


def test_a_window_drawn_with_the_mouse_is_scored_without_convolving(detector_page):
    page = detector_page
    pixels = drawing(page)
    page.drag("canvas", (0.2, 0.25), (0.7, 0.75))
    page.until(SCORED)
    assert "nothing was convolved again" in page.text("#window-text")
    assert sorted(page.texts("#window-found .name")) == list(CLASSES)
    assert drawing(page) != pixels
    with_bins = drawing(page)
    page.run("document.querySelector('#levels input').click()")  # none
    assert drawing(page) not in (with_bins, pixels)


def test_a_window_is_moved_sized_and_removed_with_the_keyboard(detector_page):
    page = detector_page
    page.run("canvas.focus()")
    page.press("Escape")
    assert page.run("document.querySelector('#window').hidden")
    page.press("ArrowRight")
    page.until("!document.querySelector('#window').hidden")
    page.until(SCORED)
    cells = page.text("#window-text").split(" cells")[0]
    page.press("ArrowDown", times=12, shift=True)
    page.until(f"!document.querySelector('#window-text').innerText.startsWith({cells!r})")
    page.press("Escape")
    assert page.run("document.querySelector('#window').hidden")


def test_results_are_saved_as_json_and_png(detector_page, tmp_path):
    page = detector_page
    page.ask("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    for kind, name in (("json", "photo.json"), ("png", "photo-found.png")):
        page.run(f"document.querySelector('#save-{kind}').click()")
        until((tmp_path / name).is_file, lambda: list(tmp_path.iterdir()))
    saved = json.loads((tmp_path / "photo.json").read_text())
    assert (saved["width"], saved["height"]) == (300, 200)
    assert len(saved["detections"]) == len(page.texts("#found .name"))
    with Image.open(tmp_path / "photo-found.png") as drawn:
        assert drawn.size == (300, 200)


def test_a_file_that_is_no_image_is_told(detector_page, tmp_path):
    (tmp_path / "notes.jpg").write_text("no image")
    detector_page.drop(tmp_path / "notes.jpg")
    detector_page.until("document.querySelector('#status').classList.contains('wrong')")
    assert "notes.jpg" in detector_page.text("#status")
    assert "not an image" in detector_page.text("#status")


def test_nothing_comes_from_elsewhere_and_nothing_is_thrown(detector_page):
    origin = detector_page.run("location.origin")
    asked = detector_page.addresses()
    assert asked
    assert [url for url in asked if not url.startswith(origin)] == []
    wrong = [line for line in detector_page.complaints() if "/v1/detect" not in line]  # the 400 just above
    assert wrong == []


def test_everything_that_is_operated_has_a_name(detector_page):
    unnamed = detector_page.run(
        "[...document.querySelectorAll('input, button, canvas')].filter((e) => !(e.labels?.length ||"
        " e.getAttribute('aria-label') || e.innerText.trim())).map((e) => e.outerHTML)"
    )
    assert unnamed == []


def test_no_wider_than_a_phone(detector_page):
    page = detector_page
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.ask("Emulation.setDeviceMetricsOverride", **size)
    assert page.run("document.documentElement.scrollWidth") <= 360
    page.ask("Emulation.clearDeviceMetricsOverride")


def test_a_classifier_ranks_the_image_and_a_window_of_it(browser, photo):
    with serving(make_classifier()) as url:
        browser.open(url)
        browser.drop(photo)
        browser.until("document.querySelectorAll('#found .name').length === 2")
        assert browser.run("document.querySelector('#overlap-row').hidden")
        assert browser.texts("#found .value")[0].endswith("%")
        browser.drag("canvas", (0.1, 0.1), (0.5, 0.9))
        browser.until("document.querySelectorAll('#window-found .name').length === 2")
        assert "%" in browser.text("#window-found .value")
