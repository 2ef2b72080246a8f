"""Labelling whole photographs: tables and folders on the disk, what is suggested, the API, the page."""

import csv
import json
import urllib.error
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from browser import needs_chromium, open_browser, until
from labelling import COLOURS, serving
from sppnet.benchmark.label_classes import replay, stages_of
from sppnet.data.folder import open_folder
from sppnet.data.image import read_image
from sppnet.errors import ConfigError, DataError
from sppnet.label.sheets import ConflictError, StoreError
from sppnet.label.whole.class_learner import ClassLearner
from sppnet.label.whole.class_session import ClassSession
from sppnet.label.whole.class_store import open_class_store
from sppnet.label.whole.photo_vectors import PhotoVectors, open_vectors
from sppnet.nn.efficientnet_lite import has_lite_weights

NAMES = tuple(COLOURS)


def make_photos(folder, count=9):
    """photo000.png and so on, of the colour of each class in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(-30, 30, (24, 30, 3)) + COLOURS[NAMES[number % 3]]
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"photo{number:03d}.png")
    return folder


def mean_colour(path):
    return read_image(path).mean(axis=(0, 1)).astype(np.float32)


def refusing(error):
    """In place of what writes files."""

    def write(*_):
        raise error

    return write


VECTORS = PhotoVectors("colours", mean_colour, "--trunk colours")


@pytest.fixture
def folder(tmp_path):
    return make_photos(tmp_path / "photos")


def lines_of(path, delimiter=","):
    with path.open(newline="") as file:
        return list(csv.reader(file, delimiter=delimiter))


# --- on the disk ----------------------------------------------------------------------------------


def test_a_table_is_what_training_reads(folder):
    store = open_class_store(folder, classes=["apple", "berry"])
    store.change(0, "apple")
    store.change(4, "berry")
    store.change(1, "apple")
    store.change(1, "berry")
    store.change(4, None)
    assert store.counts() == {"apple": 1, "berry": 1}
    images = open_folder(folder)
    found = {path.name: images.classes[label] for path, label in (images[i] for i in range(len(images)))}
    assert found == {"photo000.png": "apple", "photo001.png": "berry"}
    again = open_class_store(folder)
    assert again.labelled() == {0: "apple", 1: "berry"}
    assert again.classes == ("apple", "berry")


def test_a_table_that_is_there_goes_on_with_all_that_it_holds(folder):
    table = folder / "mine.csv"
    table.write_text(
        "Nr;Image;Class;remark\n1;photo002.png;lemon;a; \n2;photo000.png;;b\n3;gone.png;apple;c\n".replace(
            "a; ", "a"
        )
    )
    store = open_class_store(folder, classes=["berry"])
    assert store.labelled() == {2: "lemon"}
    assert store.classes == ("lemon", "berry")
    store.change(0, "lemon")
    store.change(3, "berry")
    assert lines_of(table, ";") == [
        ["Nr", "Image", "Class", "remark"],
        ["1", "photo002.png", "lemon", "a"],
        ["2", "photo000.png", "lemon", "b"],
        ["3", "gone.png", "apple", "c"],
        ["", "photo003.png", "berry", ""],
    ]


@pytest.mark.parametrize("content", ["photo000.png,apple\nphoto001.png,berry\n"])
def test_a_table_without_names_of_columns_is_refused(folder, content):
    (folder / "labels.csv").write_text(content)
    with pytest.raises(ConfigError, match=r"columns filename,label was expected.*photo000.png,apple"):
        open_class_store(folder)
    assert (folder / "labels.csv").read_text() == content


def test_what_another_program_wrote_is_not_overwritten(folder):
    store = open_class_store(folder, classes=["apple"])
    store.change(0, "apple")
    changed = "filename,label\nphoto005.png,lemon\n"
    (folder / "labels.csv").write_text(changed)
    with pytest.raises(StoreError, match="changed by another program"):
        store.change(1, "apple")
    assert (folder / "labels.csv").read_text() == changed
    assert store.sheet(1).name is None


def test_what_cannot_be_written_is_as_before(folder, monkeypatch):
    store = open_class_store(folder, classes=["apple", "berry"])
    store.change(0, "apple")
    with monkeypatch.context() as patch:
        patch.setattr(
            "sppnet.label.whole.class_files.write_file", refusing(OSError(28, "No space left on device"))
        )
        for photo in (0, 1):
            with pytest.raises(OSError, match="No space"):
                store.change(photo, "berry")
    store.change(2, "berry")
    assert lines_of(folder / "labels.csv")[1:] == [["photo000.png", "apple"], ["photo002.png", "berry"]]


def test_into_folders_photographs_are_moved(folder):
    store = open_class_store(folder, "folders", ["apple", "berry"])
    store.change(0, "apple")
    store.change(1, "berry")
    store.change(0, "berry")
    assert (folder / "berry" / "photo000.png").is_file()
    assert not (folder / "photo000.png").exists()
    again = open_class_store(folder)
    assert {again.names[photo]: name for photo, name in again.labelled().items()} == {
        "berry/photo000.png": "berry", "berry/photo001.png": "berry",
    }  # fmt: skip
    store.change(1, None)
    assert (folder / "photo001.png").is_file()
    assert store.header(1).size_hw == (24, 30)


def test_no_photograph_is_moved_over_another_or_out_of_the_folder(folder):
    store = open_class_store(folder, "folders", ["apple", "..", "a/b"])
    (folder / "apple").mkdir()
    (folder / "apple" / "photo000.png").write_bytes(b"another")
    with pytest.raises(StoreError, match=r"apple holds a photograph named photo000\.png already"):
        store.change(0, "apple")
    assert (folder / "apple" / "photo000.png").read_bytes() == b"another"
    for name in ("..", "a/b"):
        with pytest.raises(StoreError, match="cannot be the name of a folder"):
            store.change(1, name)
    assert (folder / "photo001.png").is_file()


def test_another_layout_than_there_is_is_refused(folder):
    open_class_store(folder, "csv", ["apple"]).change(0, "apple")
    with pytest.raises(ConfigError, match="has a table of classes"):
        open_class_store(folder, "folders")
    for wrong, words in ((folder / "photo000.png", "is not a folder"), (folder / "none", "is not a folder")):
        with pytest.raises(DataError, match=words):
            open_class_store(wrong)


def test_changes_are_checked(folder):
    store = open_class_store(folder, classes=["apple"])
    with pytest.raises(DataError, match="'pear' is no class of this folder"):
        store.change(0, "pear")
    sheet = store.change(0, "apple", 0)
    with pytest.raises(ConflictError, match=r"photo000.png was changed elsewhere"):
        store.change(0, None, sheet.revision - 1)
    with pytest.raises(DataError, match="1 to 100 letters"):
        store.add_class("  ")


# --- what is learned ------------------------------------------------------------------------------


def test_suggestions_begin_with_two_classes_and_are_right(folder):
    paths = sorted(folder.iterdir())
    learner = ClassLearner(9, lambda photo: mean_colour(paths[photo]))
    learner.start()
    try:
        learner.learn({0: "apple"})
        until(lambda: len(learner.vectors) == 9 and not learner.waiting)
        assert learner.suggestion(3) is None
        learner.learn({0: "apple", 1: "berry", 2: "lemon"})
        until(lambda: learner.version == 1)
        for photo in range(9):
            found = learner.suggestion(photo)
            assert found.names[0] == NAMES[photo % 3]
            assert found.scores == tuple(sorted(found.scores, reverse=True))
            assert found.doubt == found.scores[1] - found.scores[0]
        learner.learn({1: "berry"})  # all others were taken back
        until(lambda: not learner.waiting)
        assert learner.suggestion(3) is None
    finally:
        learner.close()


def test_a_photograph_that_cannot_be_read_is_told_and_the_others_go_on(folder):
    (folder / "photo004.png").write_bytes(b"no image")
    paths, told = sorted(folder.iterdir()), []
    learner = ClassLearner(9, lambda photo: mean_colour(paths[photo]), told.append)
    learner.start()
    try:
        learner.learn({0: "apple", 1: "berry", 4: "berry"})
        until(lambda: learner.version == 1 and len(learner.vectors) == 8)
        assert "photo004.png" in learner.problems[4]
        assert told[0] == 4
        assert learner.suggestion(3).names[0] == "apple"
    finally:
        learner.close()


def test_without_weights_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr("sppnet.label.whole.photo_vectors.default_trunk", lambda _: ("mobilenet_v2", None))
    with pytest.raises(ConfigError, match="install the weights extra"):
        open_vectors()


def test_installed_weights_make_vectors_of_whole_photographs(folder):
    if not has_lite_weights("efficientnet_lite1"):
        pytest.skip("the weights extra is not installed")
    vectors = open_vectors()
    assert vectors.make(folder / "photo000.png").shape == (320 * 14,)
    assert vectors.options == "--trunk efficientnet_lite1:8 --weights imagenet --levels 1,2,3"


# --- the API --------------------------------------------------------------------------------------


@contextmanager
def labelling(folder, **options):
    """The URL of a page in a thread, and its session."""
    with serving(ClassSession(open_class_store(folder, **options), VECTORS)) as served:
        yield served


@pytest.fixture
def served(folder):
    with labelling(folder, classes=NAMES) as (url, session):
        yield url, session


def ask(url, method="GET", body=None, headers=None):
    content = None if body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **(headers or {})}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, content, sent, method=method)) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def give(url, photo, label, **more):
    return ask(f"{url}/v1/photos/{photo}", "PUT", {"label": label, **more})


def test_what_is_labelled_is_learned_and_counted(served):
    url, session = served
    for photo in (0, 1, 2):
        status, kept = give(url, photo, NAMES[photo], revision=0)
        assert (status, kept) == (200, {"label": NAMES[photo], "revision": 1, "state": "done"})
    until(lambda: ask(f"{url}/v1/photos/3")[1]["suggestions"][:1] and not session.learner.waiting)
    shown = ask(f"{url}/v1/photos/4")[1]
    assert shown["suggestions"][0]["label"] == "berry"
    assert (shown["width"], shown["height"], shown["label"]) == (30, 24, None)
    give(url, 4, "berry")
    give(url, 3, "lemon")  # a person knows better
    described = ask(f"{url}/v1/session")[1]
    assert described["objects"] == {"apple": 1, "berry": 2, "lemon": 2}
    assert session.figures.right[-2:] == [True, False]
    assert described["figures"]["right"] == round(np.mean(session.figures.right), 4)
    assert described["command"].startswith(f"sppnet classify train {session.store.root} --out ")
    assert ask(f"{url}/v1/photos")[1]["states"][:6] == ["done"] * 5 + ["suggested"]


def test_the_next_photograph_is_the_next_open_one_or_the_one_in_most_doubt(served):
    url, session = served
    for photo in (0, 1, 2):
        give(url, photo, NAMES[photo])
    until(lambda: session.learner.version and len(session.learner.vectors) == 9)
    assert ask(f"{url}/v1/photos/2/show", "POST")[1] == {"next": 3}
    assert ask(f"{url}/v1/photos/8/show", "POST")[1] == {"next": 3}
    until(lambda: not session.learner.waiting)
    doubts = {photo: session.learner.suggestion(photo).doubt for photo in range(3, 9)}
    most = max(doubts, key=doubts.get)
    assert ask(f"{url}/v1/photos/0/show?order=helpful", "POST")[1] == {"next": most}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        pytest.param({"label": "pear"}, 422, "no class of this folder", id="unknown class"),
        pytest.param({"label": 3}, 422, "a text or null", id="a number"),
        pytest.param([], 422, "a text or null", id="a list"),
        pytest.param({"label": None, "revision": 7}, 409, "changed elsewhere", id="old revision"),
    ],
)
def test_bad_changes_are_refused(served, body, status, words):
    url, _ = served
    answered, told = ask(f"{url}/v1/photos/0", "PUT", body)
    assert answered == status
    assert words in told["error"]


def test_other_sites_and_numbers_are_refused(served):
    url, session = served
    foreign = ask(f"{url}/v1/photos/0", "PUT", {"label": "apple"}, {"Origin": "http://elsewhere.example"})
    assert foreign[0] == 403
    assert ask(f"{url}/v1/photos/9")[0] == 404
    assert not session.store.labelled()


def test_a_read_only_folder_is_said(served, folder, monkeypatch):
    url, _ = served
    error = PermissionError(13, "Permission denied", str(folder / "labels.csv"))
    monkeypatch.setattr("sppnet.label.whole.class_files.write_file", refusing(error))
    status, told = give(url, 0, "apple")
    assert (status, "not saved: Permission denied" in told["error"]) == (507, True)


def test_an_earlier_session_goes_on(folder):
    store = open_class_store(folder, classes=NAMES)
    for photo in (0, 1):
        store.change(photo, NAMES[photo])
    with labelling(folder) as (url, session):
        until(lambda: session.learner.version == 1)
        assert ask(f"{url}/v1/session")[1]["done"] == 2
        assert ask(f"{url}/v1/photos/3")[1]["suggestions"][0]["label"] == "apple"


def test_the_replay_labels_every_photograph_and_is_soon_right(tmp_path):
    folder = tmp_path / "photos"
    store = open_class_store(make_photos(folder, 24), "folders", NAMES)
    for photo in range(24):
        store.change(photo, NAMES[photo % 3])
    images = open_folder(folder).take(np.random.default_rng(0).permutation(24))
    steps = replay(images, VECTORS)
    assert len(steps) == 24
    assert all(step.suggested and step.right for step in steps[10:])
    stages = stages_of(steps)
    assert [(one.first, one.last) for one in stages] == [(0, 1), (1, 3), (3, 10), (10, 20), (20, 24)]
    assert (stages[0].suggested, stages[-1].right) == (0, 1)


# --- the page -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


@needs_chromium
def test_the_page_by_keyboard(browser, folder):
    with labelling(folder, classes=NAMES) as (url, session):
        browser.events.clear()
        browser.open(url)
        for number in range(3):
            browser.until(f"document.querySelector('#name').innerText === 'photo00{number}.png'")
            browser.press(str(number + 1))
        browser.until("document.querySelector('#name').innerText === 'photo003.png'")
        browser.until("document.querySelector('#accept').innerText === 'Accept “apple”'")
        browser.press("Enter")
        until(lambda: session.store.labelled().get(3) == "apple")
        browser.until("document.querySelector('#name').innerText === 'photo004.png'")
        browser.press("z", control=True)
        until(lambda: session.store.sheet(3).name is None)
        browser.until("document.querySelector('#name').innerText === 'photo003.png'")
        assert browser.texts("#classes button")[0].split("\n")[0] == "apple?"
        browser.press("ArrowLeft")
        browser.until("document.querySelector('#status').innerText === 'Labelled lemon.'")
        browser.press("Delete")
        until(lambda: session.store.sheet(2).name is None)
        assert browser.complaints() == []
        browser.ask("Page.navigate", url="about:blank")


@needs_chromium
def test_a_class_is_added_on_the_page_and_another_tab_is_told(browser, folder):
    with labelling(folder) as (url, session):
        browser.events.clear()
        browser.open(url)
        browser.run("document.querySelector('#class-name').value = 'apple'")
        browser.click("#add-class button")
        browser.until("document.querySelectorAll('#classes button').length === 1")
        browser.click("#classes button")
        until(lambda: session.store.labelled() == {0: "apple"})
        browser.until("document.querySelector('#name').innerText === 'photo001.png'")
        session.change(1, "apple", None)  # as another tab does
        browser.until("document.querySelector('#status').innerText === 'Changed in another tab.'")
        assert browser.complaints() == []
        browser.ask("Page.navigate", url="about:blank")
