"""Boxes drawn on an image of another size: held against marks in the pixels themselves."""

import json

import numpy as np
import pytest
from PIL import Image

from sppnet.data.detection_dataset import open_annotated
from sppnet.data.image import read_image

BOX = (12, 6, 28, 14)
"""Where a white mark lies in the stored image of 60×40, xyxy."""


def save_marked(path, orientation=1, size=(60, 40), scale=1):
    """A black image with a white mark at BOX times the scale, stored with an EXIF orientation."""
    pixels = np.zeros((size[1] * scale, size[0] * scale, 3), np.uint8)
    x0, y0, x1, y1 = (side * scale for side in BOX)
    pixels[y0:y1, x0:x1] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif)


def white_box(path):
    rows, columns = np.nonzero(read_image(path)[:, :, 0])
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def write_coco(root, box, said):
    x0, y0, x1, y1 = box
    sizes = {} if said is None else {"width": said[0], "height": said[1]}
    data = {
        "images": [{"id": 1, "file_name": "a.png", **sizes}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}],
        "categories": [{"id": 1, "name": "mark"}],
    }
    (root / "a.json").write_text(json.dumps(data))


def write_voc(root, box, said):
    size = "" if said is None else f"<size><width>{said[0]}</width><height>{said[1]}</height></size>"
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, *box[2:]), strict=True)
    bounds = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
    thing = f"<object><name>mark</name><bndbox>{bounds}</bndbox></object>"
    (root / "a.xml").write_text(f"<annotation>{size}{thing}</annotation>")


WRITERS = pytest.mark.parametrize("write", [write_coco, write_voc])


@WRITERS
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_the_image_as_stored_are_turned_with_it(tmp_path, write, orientation):
    save_marked(tmp_path / "a.png", orientation)
    write(tmp_path, BOX, (60, 40))
    images = open_annotated(tmp_path)
    assert images.truths[0].boxes.tolist() == [pytest.approx(white_box(tmp_path / "a.png"))]
    (sentence,) = images.problems
    assert "1 images are of another size than their annotations say, such as a.png (40×60" in sentence
    assert sentence.endswith("their EXIF data turns them, so the boxes are turned with them")


@WRITERS
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 6])
def test_boxes_of_the_upright_image_are_kept(tmp_path, write, orientation):
    save_marked(tmp_path / "a.png", orientation)
    box = tuple(map(int, white_box(tmp_path / "a.png")))
    write(tmp_path, box, (40, 60) if orientation == 6 else (60, 40))
    images = open_annotated(tmp_path)
    assert (images.truths[0].boxes.tolist(), images.problems) == ([list(box)], ())


@WRITERS
@pytest.mark.parametrize(
    ("orientation", "scale", "said"),
    [
        pytest.param(1, 3, (60, 40), id="larger now"),
        pytest.param(1, 1, (120, 80), id="smaller now"),
        pytest.param(1, 1, (91, 61), id="smaller, with rounding"),
        pytest.param(6, 2, (60, 40), id="larger and turned"),
    ],
)
def test_boxes_of_a_resized_image_are_scaled_and_told(tmp_path, write, orientation, scale, said):
    save_marked(tmp_path / "a.png", orientation, scale=scale)
    factor = said[0] / 60
    box = tuple(side * factor for side in BOX)
    write(tmp_path, box, said)
    images = open_annotated(tmp_path)
    expected = pytest.approx(white_box(tmp_path / "a.png"), abs=0.3)
    assert images.truths[0].boxes.tolist() == [expected]
    (sentence,) = images.problems
    assert f"says {said[0]}×{said[1]}" in sentence


@WRITERS
@pytest.mark.parametrize(
    ("box", "said"),
    [
        pytest.param(BOX, (40, 60), id="turned, without EXIF"),
        pytest.param(BOX, (100, 100), id="another shape"),
        pytest.param((12, 6, 58, 39), (30, 20), id="half the size, but the box lies beyond that"),
    ],
)
def test_boxes_of_an_image_that_may_be_another_are_kept_and_told(tmp_path, write, box, said):
    save_marked(tmp_path / "a.png")
    write(tmp_path, box, said)
    images = open_annotated(tmp_path)
    assert images.truths[0].boxes.tolist() == [list(box)]
    (sentence,) = images.problems
    assert sentence.endswith("the boxes are kept as written, and may belong to another copy")


@pytest.mark.parametrize("sizes", [("60", "40"), (60.0, 40.0), (0, 0), (None, None), ("x", 40), (60, [])])
def test_sizes_in_text_and_none_at_all(tmp_path, sizes):
    save_marked(tmp_path / "a.png")
    write_coco(tmp_path, BOX, sizes)
    images = open_annotated(tmp_path)
    assert (images.truths[0].boxes.tolist(), images.problems) == ([list(BOX)], ())
