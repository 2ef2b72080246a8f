"""The HTTP API of the label page: who may ask, what is told of what goes wrong, labelling from end to end."""

import json
import os
import urllib.error
import urllib.request

import pytest

from browser import until
from labelling import labelling, make_photos, make_trunk
from sppnet.benchmark.label import Step, label, replay, stages_of
from sppnet.data.detection_dataset import open_annotated
from sppnet.label.figures import Figures, Record
from sppnet.label.sheets import LabelledBox
from sppnet.label.store import open_store
from sppnet.label.training import write_snapshot
from sppnet.structures import GroundTruth


def ask(url, method="GET", body=None, headers=None):
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, content, {"Content-Type": "application/json", **(headers or {})}, method=method
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


BOX = {"label": "apple", "box": [10, 10, 30, 30]}


@pytest.fixture
def folder(tmp_path):
    make_photos(tmp_path / "photos", 6)
    return tmp_path / "photos"


@pytest.fixture
def served(folder):
    with labelling(folder, classes=["apple"]) as (url, session):
        yield url, session


def test_a_confirmed_photograph_is_on_the_disk_and_learned_from(served, folder):
    url, session = served
    status, shown = ask(f"{url}/v1/photos/0")
    assert (status, shown["state"], shown["boxes"], shown["suggestions"]) == (200, "open", [], [])
    _, kept = ask(f"{url}/v1/photos/0", "PUT", {"boxes": [{**BOX, "key": "k"}], "done": True, "revision": 0})
    assert (kept["state"], kept["revision"], kept["boxes"][0]["key"]) == ("done", 1, "k")
    assert (folder / "Annotations" / "photo000.xml").is_file()
    ask(f"{url}/v1/photos/1/show", "POST")
    until(lambda: ask(f"{url}/v1/photos/1")[1]["version"] == 1)
    described = ask(f"{url}/v1/session")[1]
    assert described["done"] == 1
    assert described["objects"] == {"apple": 1}
    assert described["figures"]["photographs"] == 1
    assert session.learner.seconds > 0


def test_the_next_photograph_is_told(served):
    url, _ = served
    assert ask(f"{url}/v1/photos/2/show", "POST")[1] == {"next": 3}
    assert ask(f"{url}/v1/photos/5/show", "POST")[1] == {"next": 0}
    assert ask(f"{url}/v1/photos/5/show?order=helpful", "POST")[1]["next"] in range(5)


def test_a_tab_that_waits_is_told_of_what_another_did(served):
    url, _ = served
    sequence = ask(f"{url}/v1/session")[1]["sequence"]
    ask(f"{url}/v1/photos/4", "PUT", {"boxes": [BOX], "done": False})
    changed = ask(f"{url}/v1/changes?since={sequence}")[1]["changed"]
    assert {"id": 4, "state": "started", "revision": 1} in changed


def test_of_two_tabs_the_later_one_is_told_and_loses_nothing_of_the_first(served):
    url, session = served
    ask(f"{url}/v1/photos/0", "PUT", {"boxes": [BOX], "done": False, "revision": 0})
    status, told = ask(f"{url}/v1/photos/0", "PUT", {"boxes": [], "done": False, "revision": 0})
    assert status == 409
    assert "changed elsewhere" in told["error"]
    assert len(session.store.sheet(0).boxes) == 1


def test_refused_suggestions_do_not_come_again(served, tmp_path):
    url, _ = served
    apple = make_photos(tmp_path / "same", 1)[0].boxes[0].tolist()
    ask(f"{url}/v1/photos/0", "PUT", {"boxes": [{"label": "apple", "box": apple}], "done": True})
    ask(f"{url}/v1/photos/1/show", "POST")
    until(lambda: ask(f"{url}/v1/photos/1")[1]["suggestions"])
    suggested = [one["box"] for one in ask(f"{url}/v1/photos/1")[1]["suggestions"]]
    ask(f"{url}/v1/photos/1", "PUT", {"boxes": [], "done": False, "refused": suggested})
    assert ask(f"{url}/v1/photos/1/suggestions")[1]["suggestions"] == []


@pytest.mark.parametrize(
    ("headers", "method", "status"),
    [
        ({"Host": "evil.example"}, "GET", 403),
        ({"Host": "evil.example"}, "POST", 403),
        ({"Origin": "http://evil.example"}, "POST", 403),
        ({"Content-Type": "text/plain"}, "POST", 415),
    ],
)
def test_other_sites_cannot_ask_through_the_user_s_browser(served, headers, method, status):
    url, session = served
    place, body = ("/v1/classes", {"name": "pear"}) if method == "POST" else ("/v1/session", None)
    assert ask(url + place, method, body, headers)[0] == status
    assert "pear" not in session.store.classes


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"boxes": "none"}, 422, "expected"),
        ({"boxes": [{"label": "apple", "box": [1, 2, 3]}]}, 422, "expected"),
        ({"boxes": [{"label": "pear", "box": [1, 2, 30, 40]}]}, 422, "no class"),
        ({"boxes": [{"label": "apple", "box": [1, 2, 1, 40]}]}, 422, "a pixel wide"),
        ({"boxes": [], "pad": "x" * 5000}, 413, "at most"),
    ],
)
def test_what_is_no_change_is_refused(served, body, status, told, monkeypatch):
    url, session = served
    monkeypatch.setattr("sppnet.label.requests.MAX_BODY_BYTES", 4096)
    found, answer = ask(f"{url}/v1/photos/0", "PUT", body)
    assert found == status
    assert told in answer["error"]
    assert session.store.sheet(0).state == "open"


def test_what_cannot_be_written_is_said(served, folder, monkeypatch):
    url, _ = served

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    status, told = ask(f"{url}/v1/photos/0", "PUT", {"boxes": [BOX], "done": True})
    assert status == 507
    assert "No space left on device" in told["error"]
    monkeypatch.undo()
    (folder / "photo003.png").unlink()
    for status, told in (ask(f"{url}/v1/photos/3"), ask(f"{url}/v1/photos/3/image")):
        assert status == 410
        assert "photo003.png" in told["error"]
    assert ask(f"{url}/v1/photos/99")[0] == 404


def test_a_session_that_starts_again_learns_from_what_is_there(folder):
    truths = make_photos(folder, 6)
    store = open_store(folder, classes=["apple"])
    with labelling(folder, classes=["apple"]) as (url, _):
        for photo in (0, 1):
            boxes = [{"label": "apple", "box": truths[photo].boxes[0].tolist()}]
            ask(f"{url}/v1/photos/{photo}", "PUT", {"boxes": boxes, "done": True})
    with labelling(folder) as (url, session):
        ask(f"{url}/v1/photos/2/show", "POST")
        until(lambda: ask(f"{url}/v1/photos/2")[1]["version"] == 2)
        assert session.figures.records == []  # they were not suggested in this session
    assert store.classes == ("apple",)


# --- figures, replay, training ---------------------------------------------------------------------


def test_figures_are_shares_of_the_last_photographs():
    figures = Figures([Record(2, 1, 3, 2, 10.0), Record(2, 2, 2, 2, 10.0)])
    told = figures.to_json()
    assert told["taken"] == 0.75
    assert told["precision"] == 0.8
    assert told["recall"] == 1.0
    assert told["boxes_a_minute"] == 12.0
    assert told["curve"] == [0.5, 0.75]


@pytest.mark.parametrize(("late", "stop"), [(2, True), (4, False)])
def test_the_hint_to_stop_comes_where_nothing_is_gained(late, stop):
    records = [Record(4, 2, 4, 2, 1.0)] * 20 + [Record(4, late, 4, 4, 1.0)] * 20
    assert Figures(records).to_json()["stop"] == stop
    assert not Figures(records[:30]).to_json()["stop"]


def test_a_careful_person_accepts_moves_refuses_and_draws():
    truth = GroundTruth.of([(0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)], [0, 0, 0])
    suggestions = [
        {"label": "apple", "box": [0, 0, 10, 9]}, {"label": "apple", "box": [20, 0, 30, 6]},
        {"label": "apple", "box": [0, 1, 10, 10]}, {"label": "berry", "box": [40, 0, 50, 10]},
    ]  # fmt: skip
    counts, change = label({"suggestions": suggestions, "revision": 3}, truth, ("apple", "berry"))
    assert counts == (3, 1, 1, 2)
    assert [one["box"] for one in change["boxes"]] == [[0, 0, 10, 9], [20, 0, 30, 10], [40, 0, 50, 10]]
    assert change["refused"] == [[0, 1, 10, 10], [40, 0, 50, 10]]


def test_the_replay_labels_every_photograph_and_draws_less_and_less(folder, tmp_path):
    truths = make_photos(tmp_path / "more", 14)
    store = open_store(tmp_path / "more", classes=["apple"])
    for photo, truth in enumerate(truths):
        store.change(photo, [store_box(truth.boxes[0])], True)
    steps = replay(open_annotated(tmp_path / "more"), make_trunk())
    assert [step.boxes for step in steps] == [1] * 14
    assert steps[0].taken == 0
    assert sum(step.taken + step.moved for step in steps[6:]) >= 6
    rows = stages_of(steps)
    assert [(row.first, row.last) for row in rows] == [(0, 1), (1, 3), (3, 10), (10, 14)]
    assert rows[0].drawn == 1


def store_box(corners):
    return LabelledBox("apple", tuple(map(float, corners)))


def test_stages_count_what_was_taken():
    (row,) = stages_of([Step(4, 2, 1, 3, 0.5)])
    assert (row.taken, row.moved, row.drawn, row.refused_per_taken) == (0.5, 0.25, 0.25, 1.0)


def test_a_training_sees_the_confirmed_photographs_alone(folder, tmp_path):
    store = open_store(folder, classes=["apple"])
    store.change(0, [store_box((1, 2, 30, 40))], True)
    store.change(1, [store_box((1, 2, 30, 40))], False)
    store.change(2, [], True)
    write_snapshot(store, sorted(store.done()), tmp_path / "data")
    images = open_annotated(tmp_path / "data")
    assert [len(truth) for truth in images.truths] == [1, 0]
    assert images.truths[0].boxes.tolist() == [[1, 2, 30, 40]]


def test_a_training_without_boxes_is_refused(served):
    url, _ = served
    status, told = ask(f"{url}/v1/training", "POST")
    assert status == 422
    assert "confirm some first" in told["error"]
    assert ask(f"{url}/v1/training")[1]["running"] is False
