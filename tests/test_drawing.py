"""Boxes in pictures: where lines and tags lie, that they can be told apart and read, and odd images."""

from itertools import combinations

import numpy as np
import pytest

from sppnet import drawing
from sppnet.drawing import COLOURS, SHADES, colour_of, draw_boxes
from sppnet.errors import GeometryError, ImageError

GREY = 128


def blank(height=200, width=300, shade=GREY):
    return np.full((height, width, 3), shade, np.uint8)


def changed(before, after):
    """(h, w) where two pictures differ."""
    return (before != after).any(axis=2)


def filled(picture, colour):
    """(h, w) where a picture has exactly this colour."""
    return (picture == np.array(colour)).all(axis=2)


def extent(mask):
    """(x0, y0, x1, y1) of what is true, half-open."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def test_a_line_lies_on_the_outermost_pixels_of_its_box():
    picture = draw_boxes(blank(), [[40, 50, 140, 120]], width_px=3)
    line = filled(picture, COLOURS[0])
    expected = np.zeros_like(line)
    expected[50:120, 40:140] = True
    expected[53:117, 43:137] = False
    np.testing.assert_array_equal(line, expected)


def test_the_image_given_is_left_alone():
    image = blank()
    picture = draw_boxes(image, [[10, 10, 90, 90]], ["cat"])
    assert (image == GREY).all()
    assert picture.shape == image.shape
    assert picture.dtype == np.uint8
    assert changed(image, picture).any()


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        pytest.param([0, 0, 300, 200], (0, 0, 300, 200), id="the whole image"),
        pytest.param([-50, -50, 60, 70], (0, 0, 60, 70), id="over the corner"),
        pytest.param([100, 80, 1e30, 1e30], (100, 80, 300, 200), id="without end"),
        pytest.param([10.7, 20.2, 80.1, 90.9], (10, 20, 81, 91), id="between pixels"),
        pytest.param([299, 199, 300, 200], (299, 199, 300, 200), id="the last pixel"),
    ],
)
def test_boxes_are_drawn_as_far_as_the_image_goes(box, inside):
    assert extent(filled(draw_boxes(blank(), [box], width_px=1), COLOURS[0])) == inside


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([-50, 10, -1, 90], id="left of it"),
        pytest.param([10, 200, 90, 1e30], id="below it"),
        pytest.param([-1e300, -1e300, -1e299, -1e299], id="far away"),
    ],
)
def test_a_box_outside_the_image_leaves_no_mark(box):
    assert not changed(blank(), draw_boxes(blank(), [box], ["cat 0.93"])).any()


@pytest.mark.parametrize("height", [1, 2, 7, 13, 40])
@pytest.mark.parametrize("width", [1, 2, 13, 40, 500])
def test_images_of_any_size_can_be_drawn_on(height, width):
    boxes = [[0, 0, width, height], [0, 0, 0.5, 0.5], [0, 0, 0, height]]
    picture = draw_boxes(blank(height, width), boxes, ["motorbike 0.93"] * 3)
    assert picture.shape == (height, width, 3)
    assert picture[0, 0].tolist() != [GREY] * 3


def test_no_boxes_are_no_change():
    for none in ([], np.zeros((0, 4))):
        np.testing.assert_array_equal(draw_boxes(blank(), none, [], []), blank())


# --- tags ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([100, 100, 200, 180], id="in the middle"),
        pytest.param([0, 0, 60, 60], id="top left"),
        pytest.param([270, 0, 300, 200], id="along the right border, narrow"),
        pytest.param([290, 190, 300, 200], id="bottom right, tiny"),
        pytest.param([0, 0, 300, 200], id="the whole image"),
    ],
)
def test_a_tag_stays_whole_inside_the_image(box, monkeypatch):
    tags = []
    place = drawing._place
    monkeypatch.setattr(drawing, "_place", lambda *given: tags.append(place(*given)) or tags[-1])
    picture = draw_boxes(blank(), [box], ["aeroplane 0.93"])
    ((x0, y0, x1, y1),) = tags
    assert 0 <= x0 < x1 <= 300
    assert 0 <= y0 < y1 <= 200
    tag = picture[y0:y1, x0:x1]
    assert filled(tag, COLOURS[0]).mean() > 0.5
    assert (tag.max(axis=2) < 100).any(), "letters"
    # Nothing of the letters is cut off: the tag has a margin of its own colour.
    assert filled(tag[:, :2], COLOURS[0]).all()
    assert filled(tag[:, -2:], COLOURS[0]).all()


@pytest.mark.parametrize("count", [2, 4, 6])
def test_tags_of_one_place_do_not_cover_each_other(count, monkeypatch):
    tags = []
    place = drawing._place
    monkeypatch.setattr(drawing, "_place", lambda *given: tags.append(place(*given)) or tags[-1])
    boxes = np.array([[60, 60, 240, 150]]) + np.arange(count)[:, None]
    draw_boxes(blank(), boxes, ["cat 0.93"] * count)
    assert len(tags) == count
    assert all(drawing._shared(a, b) == 0 for a, b in combinations(tags, 2))


def test_the_last_box_is_on_top_with_its_tag():
    same = [[100, 100, 200, 180]] * 12
    picture = draw_boxes(blank(), same, ["cat"] * 12, [0] * 11 + [5], width_px=2)
    assert filled(picture, COLOURS[5])[120:160, 100:102].all()
    above = picture[100 - 12 : 100, 100:115]
    assert filled(above, COLOURS[5]).mean() > 0.3
    assert not filled(above, COLOURS[0]).any()


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        pytest.param(300, "a very long name indeed", id="enough room"),
        pytest.param(100, "a very long name i…", id="less room"),
        pytest.param(12, "", id="no room"),
    ],
)
def test_a_text_that_has_no_room_is_shortened(width, expected, monkeypatch):
    written = []
    monkeypatch.setattr(
        drawing.ImageDraw.ImageDraw, "text", lambda self, place, text, **_: written.append(text)
    )
    draw_boxes(blank(100, width), [[0, 40, width, 100]], ["a very\nlong  name indeed"])
    assert written == [expected] * bool(expected)


def test_the_size_of_letters_follows_the_image_and_the_crowd():
    assert drawing._letter_px((375, 500), ["cat 0.93"]) == 13
    assert drawing._letter_px((3750, 5000), ["cat 0.93"]) == 135
    assert drawing._letter_px((3750, 5000), ["cat 0.93"] * 50) < 100
    assert drawing._letter_px((20, 20), ["cat 0.93"]) == drawing.MIN_LETTER_PX


@pytest.mark.parametrize(
    ("shape", "box", "expected"),
    [
        pytest.param((375, 500), (0, 0, 400, 300), 2, id="a photograph"),
        pytest.param((3000, 4000), (0, 0, 2000, 2000), 17, id="a poster"),
        pytest.param((3000, 4000), (0, 0, 40, 400), 5, id="a small object in it"),
        pytest.param((375, 500), (0, 0, 3, 3), 1, id="a few pixels"),
    ],
)
def test_the_width_of_lines_follows_the_image_and_the_box(shape, box, expected):
    assert drawing._line_px(shape, box) == expected


# --- colours -------------------------------------------------------------------------------------


def luminance(colour):
    parts = [part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in colour]
    return float(np.dot([0.2126, 0.7152, 0.0722], parts))


ALL_LABELS = range(len(COLOURS) * len(SHADES))


def test_letters_are_legible_on_every_colour():
    for label in ALL_LABELS:
        low, high = sorted((luminance(colour_of(label)), luminance(drawing._ink(colour_of(label)))))
        assert (high + 0.05) / (low + 0.05) >= 4.5, f"label {label}: below WCAG AA"


# Dichromats' vision, on linear RGB: Viénot, Brettel and Mollon 1999.
DICHROMATS = {
    "red-blind": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "green-blind": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    "of full colour vision": np.eye(3),
}


@pytest.mark.parametrize("eye", DICHROMATS)
def test_the_first_colours_differ_for_every_eye(eye):
    linear = (np.array(COLOURS) / 255) ** 2.2
    seen = np.clip(linear @ np.array(DICHROMATS[eye]).T, 0, 1) ** (1 / 2.2) * 255
    apart = [np.abs(a - b).max() for a, b in combinations(seen, 2)]
    assert min(apart) > 25


def test_labels_have_colours_of_their_own_and_keep_them():
    assert len({colour_of(label) for label in ALL_LABELS}) == len(ALL_LABELS)
    assert colour_of(len(ALL_LABELS)) == colour_of(0)
    boxes = [[10, 60, 90, 150], [110, 60, 190, 150]]
    picture = draw_boxes(blank(), boxes, None, np.array([4, 1]))
    assert extent(filled(picture, COLOURS[4]))[0] == 10
    assert extent(filled(picture, COLOURS[1]))[0] == 110


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "options", "error", "message"),
    [
        pytest.param(blank()[..., 0], {}, ImageError, r"\(h, w, 3\) uint8; got \(200, 300\)", id="grey"),
        pytest.param(blank() / 255, {}, ImageError, "got .* float64", id="floats"),
        pytest.param(blank(0, 5), {}, ImageError, r"got \(0, 5, 3\)", id="nothing"),
        pytest.param(blank(), {"boxes": [[0, 0, np.nan, 5]]}, GeometryError, "box 0 is", id="NaN"),
        pytest.param(blank(), {"boxes": [[0, 0, 1, np.inf]]}, GeometryError, "finite", id="infinity"),
        pytest.param(blank(), {"boxes": [[5, 0, 1, 5]]}, GeometryError, "x0 ≤ x1", id="right to left"),
        pytest.param(blank(), {"boxes": [0, 0, 1, 5]}, GeometryError, r"got \(4,\)", id="a box alone"),
        pytest.param(blank(), {"texts": []}, GeometryError, "1 boxes need 1 texts; got 0", id="texts"),
        pytest.param(blank(), {"labels": [1, 2]}, GeometryError, "1 labels; got 2", id="labels"),
        pytest.param(blank(), {"width_px": 0}, GeometryError, "got width_px=0", id="no width"),
    ],
)
def test_what_cannot_be_drawn_is_refused(image, options, error, message):
    with pytest.raises(error, match=message):
        draw_boxes(image, **{"boxes": [[0, 0, 5, 5]], **options})
