"""Reports: what is on the pages, that they hold together, and that no text of the data becomes markup."""

import html.parser
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

from sppnet.metrics.classification import ScoredImage, evaluate_scores
from sppnet.metrics.coco import CocoResult
from sppnet.metrics.detection import EvaluatedImage, evaluate_detections
from sppnet.report import classification, detection, page
from sppnet.report.chart import Series, curve_chart, line_chart, matrix_chart, thinned, ticks
from sppnet.report.error_analysis import analyse_image, best_images, worst_images
from sppnet.structures import Detections, GroundTruth

EVIL = "<script>alert('&\"')</script>"
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Reader(html.parser.HTMLParser):
    """Checks that tags close in order, and remembers them and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if self.open[-1:] != ["style"] else ""

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def check_page(text: str) -> Reader:
    """What is promised of every page."""
    reader = Reader(text)
    count = Counter(tag for tag, _ in reader.tags)
    assert (count["h1"], count["main"], count["script"], count["link"]) == (1, 1, 0, 0)
    assert count["caption"] == count["table"]
    assert all(re.match(r"data:image/jpeg;base64,", one["src"]) and one["alt"] for one in reader.all("img"))
    assert all(one["role"] == "img" and one["aria-label"] for one in reader.all("svg"))
    assert {re.sub(r"https?://www.w3.org\S*", "", one) for one in re.findall(r"https?://\S+", text)} <= {""}
    scrolled = [one for one in reader.all("div") if one.get("class") == "wide"]  # by keyboard too
    assert all((one["tabindex"], one["role"]) == ("0", "region") and one["aria-label"] for one in scrolled)
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    assert reader.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in reader.all("meta")
    return reader


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "a<b>&.png"
    Image.fromarray(np.full((60, 80, 3), 128, np.uint8)).save(path)
    return path


@pytest.fixture
def judged(photo):
    """Four images of two classes, one with an evil name; three are right."""
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]], np.float32)
    labels = [0, 1, 1, 0]
    result = evaluate_scores(scores, labels, [EVIL, "cat"], ["bad<i>.jpg cannot be read"])
    images = tuple(
        ScoredImage(photo, label, int(row.argmax()), float(row.max()), float(row[label]))
        for row, label in zip(scores, labels, strict=True)
    )
    return replace(result, judged=images)


@pytest.fixture
def found(photo):
    """A photograph with two objects: one found, the other missed, and a wrong box."""
    classes = (EVIL, "cat", "none of these")
    truth = GroundTruth.of([[0, 0, 20, 20], [40, 0, 60, 20]], [0, 1])
    boxes = np.array([[1, 0, 20, 20], [40, 30, 60, 50]], np.float32)
    detections = Detections(boxes, np.array([0.9, 0.4]), np.array([0, 1]), classes)
    return EvaluatedImage(photo, truth, detections)


CONFIG = {"levels": [1, 2, 3, 6], "weights": None, "freeze_trunk": True, "data": EVIL}
EPOCHS = [
    {"epoch": 1.0, "loss": 2.5, "train_top1": 0.2, "val_top1": 0.25, "learning_rate": 0.1, "seconds": 5.0},
    {"epoch": 2.0, "loss": 1.5, "train_top1": 0.5, "val_top1": 0.75, "learning_rate": 0.1, "seconds": 6.5},
]
TUNING = [
    {"step": 10, "learning_rate": 0.01, "loss": 2.0, "error": 0.5},
    {"step": 20, "learning_rate": 0.01, "loss": 1.0, "error": 0.25},
]
TRUNK_TUNING = [
    {"step": 0, "learning_rate": 0.01, "loss": None, "error": 0.25},
    {"step": 5, "learning_rate": 0.01, "loss": 0.75, "error": 0.25},
    {"step": 10, "learning_rate": 0.01, "loss": 0.5, "error": 0.2},
]
MINING = [
    {"round": 1, "positives": 1200, "negatives": 3700, "joined": 3700, "dropped": 0},
    {"round": 2, "positives": 1200, "negatives": 4000, "joined": 300, "dropped": 100},
]


# --- pages ---------------------------------------------------------------------------------------


def test_a_classifier_s_training_tells_all(judged):
    times = {"epochs": 11.5, "evaluating (full)": 2.0}
    text = classification.training_page(
        "runs/a", "sppnet classify train x", CONFIG, judged, EPOCHS, times, ["x.jpg"]
    )
    reader = check_page(text)
    for words in (
        "top-175.0 %", "sppnet classify train x", "1, 2, 3, 6", "11.5 s", "13.5 s", "Learning",
        "taken for what", "The worst mistakes", "said " + EVIL, "1 could not be read", "a<b>&.png",
    ):  # fmt: skip
        assert words in reader.text, words
    says = [one["aria-label"] for one in reader.all("svg")]
    assert says[:2] == [
        "loss: training ends at 1.5",
        "top-1: training ends at 50.0 %; validation ends at 75.0 %",
    ]
    assert len(reader.all("img")) == 4


def test_a_training_of_svms_has_no_curves(judged):
    config = {**CONFIG, "head": "svm", "C": 0.1, "epochs": 70}
    text = classification.training_page("runs/a", "sppnet", config, judged, [], {"training SVMs": 1.0})
    told = check_page(text).text
    assert "Learning" not in told
    assert "epochs" not in told
    assert "C0.1" in told
    assert "training SVMs: 1.0 s." in told


def test_an_evaluation_of_a_classifier_tells_how(judged):
    text = classification.evaluation_page(
        "a/best", "sppnet", {"views": "10", "data": EVIL}, judged, {"x": 1.0}
    )
    reader = check_page(text)
    assert "views10" in reader.text
    assert "75.0 %" in reader.text


def test_a_detector_s_training_shows_what_it_learned_from_and_how():
    text = detection.training_page(
        "runs/d", "sppnet detect train x", CONFIG, {EVIL: 3, "cat": 1200}, 0.917, 12,
        TUNING, TRUNK_TUNING, MINING, {"svm": 100.0, "boxes": 20.0}, f1={EVIL: 0.25, "cat": 0.5},
    )  # fmt: skip
    reader = check_page(text)
    assert [one["aria-label"] for one in reader.all("svg")] == [
        "loss: training ends at 1",
        "error: held out ends at 25.0 %",
        "loss: training ends at 0.5",
        "error: held out ends at 20.0 %",
    ]
    for words in (
        "2 min 00 s",
        "objects1,203",
        "found by proposals91.7 %",
        "cat1,200",
        "F1, held out37.5 %",
        "cat50.0 %",
        "21,2004,000300100",
    ):
        assert words in reader.text, words
    bare = detection.training_page("d", "sppnet", CONFIG, {"cat": 1}, 1, 1, [], [], [], {"svm": 1.0})
    bare = check_page(bare)
    assert "F1" not in bare.text
    assert "Fine-tuning" not in bare.text
    assert "Hard negatives" not in bare.text
    assert (
        "let go"
        not in check_page(
            detection.training_page("d", "sppnet", CONFIG, {"cat": 1}, 1, 1, [], [], MINING[:1], {"svm": 1.0})
        ).text
    )


@pytest.mark.parametrize(("reached", "kept"), [(0.9, 1), (0.8, 0)])
def test_a_detector_s_training_shows_whether_joint_training_helped(reached, kept):
    joint = {"steps": 300, "done": 1200, "frozen_map": 0.8, "joint_map": reached, "held_out": 9}
    text = detection.training_page(
        "runs/d", "sppnet", CONFIG, {"cat": 1}, 1, 1, [], [], [], {"svm": 1.0}, f1={"cat": 0.5}, joint=joint
    )
    found = check_page(text).text
    rows = [f"frozen solution80.0 %0{'' if kept else 'kept'}", f"joint training{reached:.1%}1,200"]
    assert rows[0] in found
    assert rows[1].replace("%", " %") + "kept" * kept in found
    assert ("each is judged by SVMs" in found) != bool(kept)


def result_of(photo: EvaluatedImage, coco: bool):
    classes = photo.found.classes
    if not coco:
        return replace(evaluate_detections([photo.found], [photo.truth], classes), photos=(photo,))
    shares = dict(zip(classes, (0.4, 0.0, None), strict=True))
    return CocoResult(0.2, 0.5, 0.1, shares, shares, 1, (), (photo,))


@pytest.mark.parametrize("coco", [False, True], ids=["voc07", "coco"])
def test_an_evaluation_of_a_detector_tells_all(found, coco):
    result = result_of(found, coco)
    text = detection.evaluation_page("d/detector", "sppnet", {"split": "test"}, result, {"detecting": 3.0})
    reader = check_page(text)
    assert f"mAP ({'coco' if coco else 'voc07'})" in reader.text
    assert "1 right, 1 wrong, 1 missed · a<b>&.png" in reader.text
    curves = [one["aria-label"] for one in reader.all("svg")]
    assert curves == [f"precision over recall of {EVIL}", "precision over recall of cat"]
    assert len(reader.all("img")) == 2  # among the best and among the worst
    row = re.search(r"<th scope=\"row\">cat</th>(.*?)</tr>", text)
    cells = re.findall(r"<td>(.*?)</td>", row[1])
    assert cells[:3] == ["1", "0", "1"]
    assert cells[-4:] == ["0.0 %", "–", "0.0 %", "–"]
    (other,) = re.findall(rf"<th scope=\"row\">{re.escape(escape(EVIL))}</th>(.*?)</tr>", text)
    assert re.findall(r"<td>(.*?)</td>", other)[-4:] == ["100.0 %", "–", "100.0 %", "0.90"]


def test_an_evaluation_shows_whether_probabilities_are_right(found):
    likely = replace(found.found, probabilities=np.array([0.8, 0.3], np.float32))
    result = result_of(replace(found, found=likely), coco=False)
    text = detection.evaluation_page("d/detector", "sppnet", {"split": "test"}, result, {"detecting": 3.0})
    charts = [one["aria-label"] for one in check_page(text).all("svg")]
    assert any(label.startswith("right: right ") and "as said" in label for label in charts)
    assert "Of 2 detections with 10 % and more; the lines are 25.0 % apart." in text


def test_a_photograph_that_went_away_is_named(found, judged, photo):
    photo.unlink()
    for text in (
        classification.evaluation_page("a", "sppnet", {}, judged, {}),
        detection.evaluation_page("d", "sppnet", {}, result_of(found, False), {}),
    ):
        reader = check_page(text)
        assert reader.all("img") == []
        assert "a<b>&.png" in reader.text


def test_the_same_result_gives_the_same_page(judged):
    pages = {classification.evaluation_page("a", "sppnet", {}, judged, {}) for _ in range(2)}
    assert len(pages) == 1


# --- what is chosen ------------------------------------------------------------------------------


def images(*rows: tuple[int, int, float, float]) -> list[ScoredImage]:
    return [ScoredImage(Path(str(i)), *row) for i, row in enumerate(rows)]


def test_the_best_are_of_every_class_before_a_second_of_one():
    rows = images((0, 0, 0.9, 0.9), (0, 0, 0.8, 0.8), (1, 1, 0.3, 0.3), (1, 0, 0.99, 0.0))
    assert [one.path.name for one in classification.best_images(rows, 2)] == ["0", "2"]
    assert [one.path.name for one in classification.best_images(rows)] == ["0", "2", "1"]


def test_the_worst_are_furthest_above_the_right_class():
    rows = images((0, 1, 0.6, 0.4), (0, 1, 0.9, 0.05), (1, 1, 1.0, 1.0), (1, 0, 0.6, 0.4))
    assert [one.path.name for one in classification.worst_images(rows)] == ["1", "0", "3"]


BOX, NEAR, FAR = [0, 0, 20, 20], [1, 0, 20, 20], [40, 40, 60, 60]


@pytest.mark.parametrize(
    ("boxes", "scores", "labels", "spared", "counts"),
    [
        pytest.param([NEAR], [0.5], [0], False, (1, 0, 0), id="an object found"),
        pytest.param([NEAR, BOX], [0.5, 0.9], [0, 0], False, (1, 1, 0), id="found twice is wrong once"),
        pytest.param([NEAR], [0.5], [1], False, (0, 1, 1), id="the wrong class"),
        pytest.param([FAR], [0.5], [0], False, (0, 1, 1), id="the wrong place"),
        pytest.param([NEAR], [-0.1], [0], False, (0, 0, 1), id="not sure enough to be shown"),
        pytest.param(
            [NEAR, BOX], [0.5, 0.9], [0, 0], True, (0, 0, 0), id="a difficult object counts nowhere"
        ),
        pytest.param([], [], [], False, (0, 0, 1), id="nothing found"),
    ],
)
def test_outcome(photo, boxes, scores, labels, spared, counts):
    truth = GroundTruth(
        np.array([BOX], np.float32), np.zeros(1, np.int64), np.array([spared]), np.zeros(1, bool)
    )
    shown = Detections(np.reshape(boxes, (-1, 4)), np.array(scores), np.array(labels, int), ("a", "b"))
    assert analyse_image(EvaluatedImage(photo, truth, shown)).counts == counts


def test_outcomes_are_ranked(photo):
    def outcome(objects: int, hits: int):
        places = np.array([[40 * i, 0, 40 * i + 20, 20] for i in range(objects)], np.float32).reshape(-1, 4)
        shown = Detections(places[:hits], np.ones(hits), np.zeros(hits, int), ("a",))
        return analyse_image(EvaluatedImage(photo, GroundTruth.of(places, np.zeros(objects)), shown))

    one, two, half, none, empty = (outcome(*n) for n in ((1, 1), (2, 2), (2, 1), (3, 0), (0, 0)))
    assert best_images([one, two, half, none, empty], 9) == [two, one, half]
    assert worst_images([one, two, half, none, empty], 9) == [none, half]


def test_boxes_are_drawn_where_they_are_on_a_smaller_picture(found):
    drawn = analyse_image(found).draw(np.full((600, 800, 3), 128, np.uint8), 80)
    assert drawn.shape == (60, 80, 3)
    assert (
        analyse_image(found).draw(np.full((60, 80, 3), 128, np.uint8), 80)[19, 5:15].tolist()
        == [[0, 158, 115]] * 10
    )  # the lower edge of the one that is right


# --- charts and numbers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        pytest.param(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1], id="shares"),
        pytest.param(1, 70, [20, 40, 60], id="epochs"),
        pytest.param(3, 3, [3], id="one value"),
        pytest.param(0, 0.004, [0, 0.001, 0.002, 0.003, 0.004], id="learning rates"),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == expected


def test_thinning_keeps_both_ends():
    points = [(i, i) for i in range(10_000)]
    assert thinned(points[:3]) == points[:3]
    chosen = thinned(points, 50)
    assert (len(chosen), chosen[0], chosen[-1]) == (50, points[0], points[-1])


def test_a_line_goes_from_corner_to_corner():
    text = line_chart("t", "x", [Series("a", [(0, 0), (1, 10)])], (0, 10))
    assert re.search(r'<polyline class="line s0" points="52.0,228.0 468.0,30.0"/>', text)


@pytest.mark.parametrize(
    "points",
    [
        pytest.param([(1, 0.01), (2, 0.01)], id="a constant"),
        pytest.param([(1, 0), (2, 0)], id="zeros"),
        pytest.param([(1, 5)], id="one epoch"),
        pytest.param([(1, -5), (2, 3)], id="below zero"),
    ],
)
def test_any_line_stays_in_its_chart(points):
    text = line_chart("t", "x", [Series("a", points)])
    drawn = re.search(r'points="([^"]*)"', text)
    places = drawn[1] if drawn else ",".join(re.search(r'cx="(.*?)" cy="(.*?)"', text).groups())
    for place in places.split():
        x, y = map(float, place.split(","))
        assert 52 <= x <= 468
        assert 30 <= y <= 228


def test_no_points_give_no_chart():
    assert line_chart("t", "x", [Series("a", [])]) == ""


def test_a_curve_without_detections_is_an_empty_chart():
    assert "polyline" not in curve_chart("cat", np.zeros(0), np.zeros(0))


def test_a_matrix_tells_right_from_wrong():
    text = matrix_chart(["a", "b"], np.array([[3, 0], [1, 2]]))
    cells = re.findall(r'<td class="(\w+)" style="--part:(\d+)%" title="(.*?)">(\d*)</td>', text)
    assert cells == [
        ("right", "55", "a, said to be a: 3", "3"),
        ("wrong", "28", "b, said to be a: 1", "1"),
        ("right", "42", "b, said to be b: 2", "2"),
    ]
    many = matrix_chart([str(i) for i in range(40)], np.eye(40, dtype=np.int64))
    assert ">1</td>" not in many  # no room for numbers


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (61, "1 min 01 s"), (3600 * 2 + 65, "2 h 01 min")],
)
def test_durations(seconds, words):
    assert page.duration(seconds) == words


def test_epochs_of_earlier_runs_count():
    stages = {"epoch 2/2 at 96": 7.0, "evaluating (crop)": 1.0}
    assert classification.stage_times(EPOCHS, stages) == {"epochs": 11.5, "evaluating (crop)": 1.0}
    assert classification.stage_times([], {"training SVMs": 2.0}) == {"training SVMs": 2.0}


def test_metrics_are_read_as_they_are_written(tmp_path):
    from sppnet.classify.run_folder import RunFolder

    run = RunFolder(tmp_path)
    assert classification.read_epochs(run.metrics) == []
    run.write_metrics([{"epoch": 1, "loss": 0.5, "size": "full"}])
    (row,) = classification.read_epochs(run.metrics)
    assert (row["epoch"], row["loss"]) == (1, 0.5)
