"""The page in a real browser: an image dropped, pasted or photographed, a slider moved, a window drawn, with
mouse, finger or keyboard alone. Nothing is downloaded.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from browser import Browser, needs_chromium, open_browser, until
from served import CLASSES, make_classifier, make_detector, serving

pytestmark = needs_chromium


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
def detector_url() -> Iterator[str]:
    with serving(make_detector()) as url:
        yield url


FOUND = "document.querySelectorAll('#found .name').length > 0"


@pytest.fixture(scope="module")
def detector_page(browser, detector_url, photo) -> Browser:
    """The page of a detector, an image dropped on it."""
    browser.events.clear()
    browser.open(detector_url)
    browser.drop(photo)
    browser.until(FOUND)
    return browser


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


# --- other ways in -------------------------------------------------------------------------------


@pytest.fixture
def fresh(browser, detector_url) -> Browser:
    """The page of a detector, without an image."""
    browser.open(detector_url)
    assert not browser.run(FOUND)
    return browser


def test_an_image_is_pasted(fresh, detector_url):
    fresh.ask("Browser.grantPermissions", origin=detector_url, permissions=["clipboardReadWrite"])
    fresh.run(
        "(async () => {const sheet = new OffscreenCanvas(120, 80);"
        "sheet.getContext('2d').fillRect(9, 9, 50, 40);"
        "const blob = await sheet.convertToBlob({type: 'image/png'});"
        "await navigator.clipboard.write([new ClipboardItem({'image/png': blob})])})()"
    )
    fresh.paste()
    fresh.until(FOUND)
    assert fresh.run("canvas.width / canvas.height") == pytest.approx(120 / 80, rel=1e-2)


def test_a_photograph_is_taken_with_the_camera(fresh):
    fresh.click("#photograph")
    fresh.until("document.querySelector('#view').videoWidth > 0")
    stream = fresh.run("window.stream = document.querySelector('#view').srcObject; stream.active")
    assert stream
    fresh.click("#take")
    fresh.until(FOUND)
    assert "photograph.jpg" in fresh.run("canvas.getAttribute('aria-label')")
    assert not fresh.run("stream.active || document.querySelector('#live').open")


def test_a_camera_is_left_with_escape(fresh):
    fresh.click("#photograph")
    fresh.until("document.querySelector('#live').open")
    fresh.run("window.stream = document.querySelector('#view').srcObject")
    fresh.press("Escape")
    fresh.until("!document.querySelector('#live').open && !stream.active")
    assert fresh.text("#status") == ""
    assert not fresh.run(FOUND)


def test_a_camera_that_is_refused_is_told(fresh):
    fresh.run(
        "navigator.mediaDevices.getUserMedia = async () => {throw new DOMException('', 'NotAllowedError')}"
    )
    fresh.click("#photograph")
    fresh.until("document.querySelector('#status').classList.contains('wrong')")
    assert "not allowed" in fresh.text("#status")
    assert "Choose an image instead" in fresh.text("#status")


@pytest.fixture
def phone(browser, detector_url, photo) -> Iterator[Browser]:
    """A touch screen with an image on it."""
    browser.ask("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=1)
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.ask("Emulation.setDeviceMetricsOverride", **size)
    browser.open(detector_url)
    browser.drop(photo)
    browser.until(FOUND)
    yield browser
    browser.ask("Emulation.clearDeviceMetricsOverride")
    browser.ask("Emulation.setTouchEmulationEnabled", enabled=False)


def test_a_finger_scrolls_until_it_is_told_to_draw(phone):
    assert phone.run(
        "document.querySelector('#photograph').hidden"
    )  # a phone's camera is behind its file input
    phone.touch("canvas", (0.2, 0.3), (0.7, 0.8))
    assert phone.run("document.querySelector('#window').hidden")
    phone.click("#draw")
    phone.touch("canvas", (0.2, 0.3), (0.7, 0.8))
    phone.until(SCORED)
    assert sorted(phone.texts("#window-found .name")) == list(CLASSES)


def test_everything_is_done_with_the_keyboard_alone(fresh, photo, tmp_path):
    fresh.ask("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    fresh.ask("Page.setInterceptFileChooserDialog", enabled=True)
    fresh.events.clear()
    fresh.tab_to("#file")
    assert fresh.run("getComputedStyle(document.querySelector('label[for=file]')).outlineStyle") == "solid"
    fresh.press("Enter")
    until(lambda: fresh.run("0") or fresh.happened("Page.fileChooserOpened"))
    node = fresh.happened("Page.fileChooserOpened")["backendNodeId"]
    fresh.ask("DOM.setFileInputFiles", files=[str(photo)], backendNodeId=node)
    fresh.ask("Page.setInterceptFileChooserDialog", enabled=False)
    fresh.until(FOUND)
    fresh.tab_to("#canvas")
    fresh.press("ArrowRight")
    fresh.until(SCORED)
    count = len(fresh.texts("#found .name"))
    fresh.tab_to("#score")
    fresh.press("End")
    fresh.until(f"document.querySelectorAll('#found .name').length < {count}")
    fresh.tab_to("#levels input:checked")
    fresh.tab_to("#save-json")
    fresh.press("Enter")
    until((tmp_path / "photo.json").is_file, lambda: list(tmp_path.iterdir()))
