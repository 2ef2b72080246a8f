"""A headless chromium, driven over its DevTools protocol with real input events."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

client = pytest.importorskip("websockets.sync.client", reason="needs the package websockets")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium is installed (apt-get install chromium)"
)

WAIT = 60.0  # machines that run tests may be slow
KEYS = {
    "Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35,
    "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40, "Delete": 46,
}  # fmt: skip
TYPED = {"Enter": "\r", " ": " "}
"""Keys that give a character, without which they press no button."""


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
        self.ask("Emulation.setFocusEmulationEnabled", enabled=True)  # the clipboard is for pages in front

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

    def press(
        self, key: str, times: int = 1, shift: bool = False, control: bool = False, alt: bool = False
    ) -> None:
        code = KEYS.get(key) or ord(key.upper())
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                typed = {"text": TYPED[key]} if key in TYPED and kind == "keyDown" else {}
                self.ask(
                    "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                    modifiers=8 * shift + 2 * control + alt, **typed,
                )  # fmt: skip

    def drag(
        self, place: str, start: tuple[float, float], end: tuple[float, float], shift: bool = False
    ) -> None:
        """With the mouse, between points in shares of an element."""
        x, y, width, height = self.frame(place)
        points = [(x + width * a, y + height * b) for a, b in (start, end)]
        middle = tuple((a + b) / 2 for a, b in zip(*points, strict=True))
        kinds = ("mousePressed", "mouseMoved", "mouseMoved", "mouseReleased")
        steps = zip(kinds, (points[0], middle, points[1], points[1]), strict=True)
        for kind, (px, py) in steps:
            self.ask(
                "Input.dispatchMouseEvent", type=kind, x=px, y=py, button="left", buttons=1, clickCount=1,
                modifiers=8 * shift,
            )  # fmt: skip

    def tab_to(self, place: str, most: int = 40) -> None:
        """Tab forward until an element has the focus."""
        for _ in range(most):
            self.press("Tab")
            if self.run(f"document.activeElement.matches({place!r})"):
                return
        raise AssertionError(f"{place} is not reached with the keyboard")

    def click(self, place: str) -> None:
        x, y, width, height = self.frame(place)
        for kind in ("mousePressed", "mouseReleased"):
            at = {"x": x + width / 2, "y": y + height / 2, "button": "left", "clickCount": 1}
            self.ask("Input.dispatchMouseEvent", type=kind, **at)

    def happened(self, method: str) -> dict[str, Any] | None:
        """What an event told; None before it has come."""
        return next((e["params"] for e in self.events if e.get("method") == method), None)

    def paste(self) -> None:
        """Ctrl-V, as an editor's command, of what is in the clipboard."""
        self.ask(
            "Input.dispatchKeyEvent", type="rawKeyDown", key="v", code="KeyV", windowsVirtualKeyCode=86,
            modifiers=2, commands=["paste"],
        )  # fmt: skip

    def touch(self, place: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """With a finger, between points in shares of an element."""
        x, y, width, height = self.frame(place)
        for kind, share in (("touchStart", 0), ("touchMove", 0.5), ("touchMove", 1), ("touchEnd", None)):
            points = []
            if share is not None:
                a, b = (start[i] + (end[i] - start[i]) * share for i in (0, 1))
                points = [{"x": x + width * a, "y": y + height * b}]
            self.ask("Input.dispatchTouchEvent", type=kind, touchPoints=points)

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
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    words = [CHROMIUM, "--headless=new", *sandbox, *camera, "--disable-gpu", "--remote-debugging-port=0",
             "--window-size=1280,900", f"--user-data-dir={home}", "about:blank"]  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = home / "DevToolsActivePort"
        until(lambda: port_file.is_file() and port_file.read_text().count("\n") >= 1)
        port, path = port_file.read_text().split("\n")[:2]
        with client.connect(
            f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None, ping_interval=None
        ) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait()


def until(condition: Any, complaint: Any = lambda: "waited too long") -> None:
    ends = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < ends, complaint()
        time.sleep(0.05)
