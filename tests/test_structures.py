"""Ground truth and detections as values: checked at birth, index as one, drawn, and given to others."""

import json
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from sppnet.drawing import COLOURS
from sppnet.errors import DataError, ImageError, MissingExtraError
from sppnet.structures import Detections, GroundTruth

CLASSES = ("bus", "cat", "person")


def found(n=3):
    """Detections whose surest is not the last."""
    boxes = [[10, 60, 90, 150], [110.5, 60, 190, 150.25], [20, 70, 80, 140]][:n]
    return Detections(boxes, [0.93, 0.25, 0.5][:n], [1, 2, 0][:n], CLASSES)


# --- as values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "kept"),
    [
        pytest.param(1, [1], id="an integer"),
        pytest.param(np.int64(-1), [2], id="the last"),
        pytest.param(slice(0, 2), [0, 1], id="a slice"),
        pytest.param(np.array([False, True, True]), [1, 2], id="a mask"),
        pytest.param([2, 0], [2, 0], id="indices, in their order"),
        pytest.param([], [], id="none"),
    ],
)
def test_detections_index_as_one(index, kept):
    all_of_them, chosen = found(), found()[index]
    assert len(chosen) == len(kept)
    np.testing.assert_array_equal(chosen.boxes, all_of_them.boxes[kept])
    np.testing.assert_array_equal(chosen.scores, all_of_them.scores[kept])
    assert chosen.names == [all_of_them.names[i] for i in kept]


def test_ground_truth_indexes_as_one():
    truth = GroundTruth([[0, 0, 5, 5], [1, 1, 9, 9]], [0, 2], [False, True], [True, False])
    easy = truth[~truth.difficult]
    assert (len(easy), easy.labels.tolist(), easy.crowd.tolist()) == (1, [0], [True])
    plain = GroundTruth.of([[0, 0, 5, 5]], [1])
    assert (plain.difficult.tolist(), plain.crowd.tolist()) == ([False], [False])
    assert len(GroundTruth.of([], [])) == 0


def test_a_value_cannot_be_changed():
    mine = np.array([[0, 0, 5, 5]], np.float32)
    boxes = Detections(mine, [1], [0], CLASSES).boxes
    mine[0, 2] = 99
    assert boxes[0, 2] == 5
    with pytest.raises(ValueError, match="read-only"):
        boxes[0, 0] = 1


@pytest.mark.parametrize(
    ("boxes", "scores", "labels", "message"),
    [
        pytest.param([[0, 0, 0, 5]], [1], [0], "box 0 is", id="no width"),
        pytest.param([[0, 0, 5, 5], [0, 5, 5, 0]], [1, 1], [0, 0], "box 1 is", id="upside down"),
        pytest.param([[0, 0, np.nan, 5]], [1], [0], "all finite", id="NaN"),
        pytest.param([0, 0, 5, 5], [1], [0], r"shape \(n, 4\), xyxy; got \(4,\)", id="a box alone"),
        pytest.param([[0, 0, 5, 5]], [1, 2], [0], r"scores of shape \(1,\); got \(2,\)", id="scores"),
        pytest.param([[0, 0, 5, 5]], [1], [3], r"0\.\.2; got 3\.\.3", id="an unknown class"),
        pytest.param([[0, 0, 5, 5]], [1], [-1], r"got -1\.\.-1", id="a class below 0"),
    ],
)
def test_detections_are_checked_at_birth(boxes, scores, labels, message):
    with pytest.raises(DataError, match=message):
        Detections(boxes, scores, labels, CLASSES)


# --- drawn ---------------------------------------------------------------------------------------


def blank(height=200, width=300):
    return np.full((height, width, 3), 128, np.uint8)


def coloured(image, colour):
    return (np.array(image) == np.array(colour)).all(axis=2)


def test_drawings_have_boxes_and_texts_in_the_colour_of_the_class(monkeypatch):
    texts = []
    monkeypatch.setattr(
        "sppnet.structures.draw_boxes", lambda image, boxes, words, labels: texts.extend(words) or image
    )
    found().draw(blank())
    assert texts == ["person 0.25", "bus 0.50", "cat 0.93"]


def test_the_surest_is_on_top():
    same = Detections([[10, 60, 90, 150]] * 3, [0.2, 0.9, 0.4], [0, 1, 2], CLASSES)
    picture = same.draw(blank())
    assert coloured(picture, COLOURS[1])[80:140, 10].all()
    assert not coloured(picture, COLOURS[0])[80:140].any()


def sources(tmp_path):
    """The same picture as every kind of source."""
    Image.fromarray(blank()).save(tmp_path / "a.png")
    rotated = Image.fromarray(blank(300, 200))
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated.save(tmp_path / "turned.png", exif=exif)
    clear = Image.new("RGBA", (300, 200), (0, 0, 0, 0))
    clear.paste((128, 128, 128, 255), (0, 0, 300, 200))
    return {
        "an array": blank(),
        "a PIL image": Image.fromarray(blank()),
        "a grey PIL image": Image.fromarray(blank()[..., 0]),
        "a PIL image with transparency": clear,
        "a path": tmp_path / "a.png",
        "a path as text": str(tmp_path / "a.png"),
        "a rotated file": tmp_path / "turned.png",
    }


def test_every_source_gives_the_same_drawing(tmp_path):
    drawings = {kind: np.array(found().draw(source)) for kind, source in sources(tmp_path).items()}
    for kind, drawing in drawings.items():
        np.testing.assert_array_equal(drawing, drawings["an array"], err_msg=kind)


def test_transparency_is_laid_on_white():
    picture = found(0).draw(Image.new("RGBA", (4, 4), (0, 0, 0, 0)))
    assert np.array(picture).min() == 255


def test_a_drawing_is_a_copy():
    image = Image.fromarray(blank())
    assert isinstance(found().draw(image), Image.Image)
    assert (np.array(image) == 128).all()


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n broken"])
def test_what_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    for path in (tmp_path / "bad.png", tmp_path / "missing.png"):
        with pytest.raises(ImageError, match=path.name):
            found().draw(path)


# --- given to others -----------------------------------------------------------------------------


def test_json_holds_names_scores_and_corners():
    detections = found().to_json()["detections"]
    assert json.loads(json.dumps(detections)) == detections
    box = [110.5, 60.0, 190.0, 150.25]
    assert detections[1] == {"label": "person", "score": 0.25, "probability": None, "box": box}
    likely = replace(found(), probabilities=np.array([0.5, 0.75, 0.25])).to_json()["detections"]
    assert [one["probability"] for one in likely] == [0.5, 0.75, 0.25]
    assert found(0).to_json() == {"detections": []}


def test_coco_rows_count_categories_from_1_and_give_width_and_height():
    rows = found().to_coco(42)
    assert json.loads(json.dumps(rows)) == rows
    assert rows[1] == {"image_id": 42, "category_id": 3, "bbox": [110.5, 60.0, 79.5, 90.25], "score": 0.25}
    assert [row["category_id"] for row in rows] == [2, 3, 1]


class Stub(ModuleType):
    """Stands for a package: its classes keep what they are given."""

    def __init__(self, name):
        super().__init__(name)
        self.Detections = self.DataFrame = lambda *given, **named: given or named


def test_supervision_gets_arrays_of_its_own(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", Stub("supervision"))
    detections = found()
    given = detections.to_supervision()
    np.testing.assert_array_equal(given["xyxy"], detections.boxes)
    np.testing.assert_array_equal(given["confidence"], detections.scores)
    np.testing.assert_array_equal(given["class_id"], detections.labels)
    assert given["data"]["class_name"].tolist() == ["cat", "person", "bus"]
    given["xyxy"][0] = 0  # theirs to change
    likely = replace(detections, probabilities=np.array([0.5, 0.75, 0.25]))
    assert likely.to_supervision()["confidence"].tolist() == [0.5, 0.75, 0.25]


def test_words_are_probabilities_where_they_are_known():
    mixed = replace(found(), probabilities=np.array([0.931, np.nan, 0.5]))
    assert mixed.in_words() == ["cat 93%", f"person {found().scores[1]:.2f}", "bus 50%"]
    assert mixed[1:].in_words() == mixed.in_words()[1:]
    assert replace(mixed, probabilities=np.empty(0)).in_words()[0] == f"cat {found().scores[0]:.2f}"
    with pytest.raises(DataError, match="probabilities of shape"):
        replace(mixed, probabilities=np.zeros(2))


def test_pandas_gets_columns(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", Stub("pandas"))
    (columns,) = found().to_pandas()
    assert list(columns) == ["label", "score", "probability", "x0", "y0", "x1", "y1"]
    assert columns["label"] == ["cat", "person", "bus"]
    assert columns["x1"].tolist() == [90.0, 190.0, 80.0]


@pytest.mark.parametrize("n", [0, 3])
def test_the_real_supervision_takes_them(n):
    supervision = pytest.importorskip("supervision")
    theirs = found(n).to_supervision()
    assert isinstance(theirs, supervision.Detections)
    assert len(theirs[theirs.confidence > 0.4]) == (n and 2)


@pytest.mark.parametrize("n", [0, 3])
def test_the_real_pandas_takes_them(n):
    pandas = pytest.importorskip("pandas")
    frame = found(n).to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == ["label", "score", "probability", "x0", "y0", "x1", "y1"]
    assert len(frame) == n


@pytest.mark.parametrize("package", ["supervision", "pandas"])
def test_a_missing_package_says_what_to_install(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'sppnet\[{package}\]'"):
        getattr(found(), f"to_{package}")()
