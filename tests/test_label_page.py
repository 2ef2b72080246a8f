"""The label page in a real browser: drawing, suggestions, undo, a new class, reload, two tabs, keys alone."""

from collections.abc import Iterator

import numpy as np
import pytest

from browser import Browser, needs_chromium, open_browser, until
from labelling import SIZE, labelling, make_photos
from sppnet import Detector
from sppnet.label.sheets import LabelledBox
from sppnet.nn.efficientnet_lite import has_lite_weights

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


@pytest.fixture
def truths(tmp_path):
    return make_photos(tmp_path / "photos", 8)


@pytest.fixture
def page(browser, tmp_path, truths):
    """The page over eight photographs, of which nothing is known; and its session."""
    with labelling(tmp_path / "photos", classes=["apple"]) as (url, session):
        browser.events.clear()
        open_page(browser, url)
        yield browser, session
        browser.until("document.body.dataset.unsaved !== 'yes'")
        assert browser.complaints() == []
        browser.ask("Page.navigate", url="about:blank")  # a page that waits for news keeps the server


def open_page(browser: Browser, url: str) -> None:
    browser.ask("Page.navigate", url="about:blank")
    browser.open(url)
    browser.run("document.querySelector('#canvas').focus()")


def shares(browser: Browser, box) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where corners of a box lie on the canvas, in shares of it."""
    width, height = browser.run("[canvas.clientWidth, canvas.clientHeight]")
    scale = min((width - 8) / SIZE[0], (height - 8) / SIZE[1])
    x, y = (width - SIZE[0] * scale) / 2, (height - SIZE[1] * scale) / 2
    box = list(map(float, box))
    points = [((box[i] * scale + x) / width, (box[i + 1] * scale + y) / height) for i in (0, 2)]
    return points[0], points[1]


def draw(browser: Browser, box) -> None:
    browser.drag("#canvas", *shares(browser, box))


def click_at(browser: Browser, x: float, y: float) -> None:
    point = shares(browser, (x, y, x, y))[0]
    browser.drag("#canvas", point, point)


def listed(browser: Browser) -> list[str]:
    return [text.split("\n")[0] for text in browser.texts("#boxes button")]


def label_first(browser: Browser, session, truths) -> None:
    """The first photograph drawn and confirmed; the second is shown, with what is suggested."""
    draw(browser, truths[0].boxes[0])
    until(lambda: session.store.sheet(0).boxes)
    browser.press("Enter")
    browser.until("document.querySelector('#name').innerText === 'photo001.png'")
    browser.until("document.querySelector('#boxes button')")


def test_a_box_that_is_drawn_is_saved_at_once(page, truths):
    browser, session = page
    box = truths[0].boxes[0]
    draw(browser, box)
    until(lambda: session.store.sheet(0).boxes)
    (drawn,) = session.store.sheet(0).boxes
    assert drawn.box == pytest.approx(tuple(box), abs=0.6)
    assert session.store.sheet(0).state == "started"
    assert listed(browser) == ["apple"]


def test_handles_move_and_arrows_nudge(page):
    browser, session = page
    draw(browser, (20, 20, 60, 60))
    until(lambda: session.store.sheet(0).boxes)
    browser.drag("#canvas", shares(browser, (60, 60, 60, 60))[0], shares(browser, (80, 70, 80, 70))[0])
    until(lambda: session.store.sheet(0).boxes[0].box[2] > 75)
    assert session.store.sheet(0).boxes[0].box == pytest.approx((20, 20, 80, 70), abs=1)
    browser.drag("#canvas", shares(browser, (50, 40, 50, 40))[0], shares(browser, (55, 45, 55, 45))[0])
    until(lambda: session.store.sheet(0).boxes[0].box[0] > 23)
    before = session.store.sheet(0).boxes[0].box
    browser.drag("#canvas", *shares(browser, (40, 35, 70, 60)), shift=True)  # another within it
    until(lambda: len(session.store.sheet(0).boxes) == 2)
    assert session.store.sheet(0).boxes[0].box == before
    browser.press("Delete")
    until(lambda: len(session.store.sheet(0).boxes) == 1)
    browser.press(",")
    browser.press("ArrowRight", 2)
    until(lambda: session.store.sheet(0).boxes[0].box[0] > before[0] + 1.5)
    assert session.store.sheet(0).boxes[0].box[1] == before[1]


def test_what_is_suggested_is_accepted_with_enter(page, truths):
    browser, session = page
    label_first(browser, session, truths)
    assert all(text == "apple?" for text in listed(browser))
    browser.press("Enter")
    until(lambda: session.store.sheet(1).boxes)
    assert session.store.sheet(1).state == "started"
    browser.press("Enter")
    browser.until("document.querySelector('#name').innerText === 'photo002.png'")
    assert session.store.sheet(1).state == "done"


def test_a_box_that_is_drawn_over_a_suggestion_takes_its_place(page, truths):
    browser, session = page
    label_first(browser, session, truths)
    before = listed(browser)
    draw(browser, session.describe_photo(1)["suggestions"][0]["box"])
    until(lambda: session.store.sheet(1).boxes)
    assert listed(browser).count("apple?") == before.count("apple?") - 1
    assert "apple" in listed(browser)
    browser.press("z", control=True)
    until(lambda: listed(browser) == before)


def test_a_click_accepts_one_and_its_cross_refuses_it(page, truths):
    browser, session = page
    label_first(browser, session, truths)
    count = len(listed(browser))
    box = session.describe_photo(1)["suggestions"][0]["box"]
    click_at(browser, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    until(lambda: session.store.sheet(1).boxes)
    assert listed(browser).count("apple") == 1
    browser.run("document.querySelector('#undo').click()")
    browser.until(f"document.querySelectorAll('#boxes button').length === {count}")
    browser.run("document.querySelector('#canvas').focus()")
    browser.press(".")
    browser.press("x")
    browser.until(f"document.querySelectorAll('#boxes button').length === {count - 1}")
    until(lambda: len(session._refused.get(1, ())))


def test_undo_and_redo(page):
    browser, session = page
    draw(browser, (20, 20, 60, 60))
    draw(browser, (70, 20, 100, 60))
    until(lambda: len(session.store.sheet(0).boxes) == 2)
    browser.press("z", control=True)
    until(lambda: len(session.store.sheet(0).boxes) == 1)
    browser.press("y", control=True)
    until(lambda: len(session.store.sheet(0).boxes) == 2)
    browser.press(".")
    browser.press("Delete")
    until(lambda: len(session.store.sheet(0).boxes) == 1)
    browser.press("z", control=True)
    until(lambda: len(session.store.sheet(0).boxes) == 2)


def test_a_new_class_is_chosen_for_the_next_box(page):
    browser, session = page
    browser.run("document.querySelector('#class-name').focus()")
    browser.ask("Input.insertText", text="berry")
    browser.press("Enter")
    browser.until("document.querySelectorAll('#classes li').length === 2")
    draw(browser, (20, 20, 60, 60))
    until(lambda: session.store.sheet(0).boxes)
    assert session.store.sheet(0).boxes[0].name == "berry"
    browser.press("1")
    until(lambda: session.store.sheet(0).boxes[0].name == "apple")


def test_no_object_is_an_answer(page):
    browser, session = page
    browser.press("n")
    browser.until("document.querySelector('#name').innerText === 'photo001.png'")
    assert session.store.sheet(0).state == "done"
    assert session.store.sheet(0).boxes == ()


def test_boxes_are_there_after_a_reload(page):
    browser, session = page
    draw(browser, (20, 20, 60, 60))
    until(lambda: session.store.sheet(0).boxes)
    browser.until("document.body.dataset.unsaved === 'no'")
    browser.run("document.body.dataset.ready = 'no'")
    browser.ask("Page.reload")
    browser.until("document.body?.dataset.ready === 'yes'")
    assert listed(browser) == ["apple"]
    assert browser.text("#name") == "photo000.png"


def test_two_tabs_see_each_other_s_work(page):
    browser, session = page
    draw(browser, (20, 20, 60, 60))
    until(lambda: session.store.sheet(0).boxes)
    other = [*session.store.sheet(0).boxes, *session.store.sheet(0).boxes]
    sheet = session.change(
        0, other, True, session.store.sheet(0).revision, []
    )  # as the other's request would
    browser.until("document.querySelectorAll('#boxes button').length === 2")
    browser.until("document.querySelector('.tile').classList.contains('done')")
    draw(browser, (70, 20, 100, 60))
    until(lambda: session.store.sheet(0).revision > sheet.revision)
    assert len(session.store.sheet(0).boxes) == 3


def test_everything_by_keyboard(page, truths):
    browser, session = page
    browser.press("b")
    browser.press("ArrowLeft", 3)
    browser.press("ArrowDown", 2, alt=True)
    until(lambda: session.store.sheet(0).boxes)
    browser.press("c")  # nothing to copy yet
    browser.press("Enter")
    browser.until("document.querySelector('#name').innerText === 'photo001.png'")
    browser.press("c")
    until(lambda: session.store.sheet(1).boxes)
    assert session.store.sheet(1).boxes[0].box == session.store.sheet(0).boxes[0].box
    browser.press("Escape")
    browser.press("ArrowLeft")
    browser.until("document.querySelector('#name').innerText === 'photo000.png'")
    browser.press("?")
    browser.until("document.querySelector('#help').open")
    browser.press("Escape")
    browser.until("!document.querySelector('#help').open")
    for place in ("#accept, #confirm", "#order", "#class-name", "#train"):
        browser.tab_to(place)


def test_what_is_not_saved_is_said_and_tried_again(page, monkeypatch):
    browser, session = page

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    draw(browser, (20, 20, 60, 60))
    browser.until("document.querySelector('#status.wrong')")
    assert "No space left on device" in browser.text("#status")
    assert listed(browser) == ["apple"]
    monkeypatch.undo()
    until(lambda: session.store.sheet(0).boxes)
    browser.until("!document.querySelector('#status.wrong')")
    browser.events.clear()  # the console tells of the refused requests


def test_fingers_draw(page):
    browser, session = page
    browser.ask("Emulation.setTouchEmulationEnabled", enabled=True)
    try:
        browser.touch("#canvas", *shares(browser, (20, 20, 60, 60)))
        until(lambda: session.store.sheet(0).boxes)
    finally:
        browser.ask("Emulation.setTouchEmulationEnabled", enabled=False)
    assert session.store.sheet(0).boxes[0].box == pytest.approx((20, 20, 60, 60), abs=1)


@pytest.mark.skipif(not has_lite_weights("efficientnet_lite1"), reason="needs the weights extra")
def test_the_detector_is_trained_from_the_page(page, truths, monkeypatch):
    browser, session = page
    monkeypatch.setattr("browser.WAIT", 400.0)  # a process of its own begins with importing torch
    for photo, truth in enumerate(truths):
        box = LabelledBox("apple", tuple(map(float, truth.boxes[0])))
        session.change(photo, [box], True, None, np.empty((0, 4), np.float32))
    browser.click("#train")
    browser.until("document.querySelector('#train').disabled")
    browser.until("!document.querySelector('#trained').hidden || document.querySelector('#status.wrong')")
    model = browser.texts("#trained code")[0]
    assert Detector.load(model).classes == ("apple",)
    assert (
        browser.run("fetch(document.querySelector('#trained a').href).then((answer) => answer.status)") == 200
    )
    assert not browser.run("document.querySelector('#train').disabled")


def test_nothing_is_asked_of_others(page):
    browser, _ = page
    assert all(
        address.startswith("http://127.0.0.1:") for address in browser.addresses() if address != "about:blank"
    )
