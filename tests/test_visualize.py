"""Pictures of filters, pyramids and bins: what is computed for them, what is drawn, and the commands."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sppnet.classify.classifier import Classifier, Testing
from sppnet.cli.app import main
from sppnet.data.image import read_image
from sppnet.errors import DataError, GeometryError
from sppnet.features.extractor import FeatureExtractor
from sppnet.features.maps import FeatureMaps
from sppnet.geometry.grid import CellGrid, sliding_windows
from sppnet.nn.network import SPPNet
from sppnet.nn.trunks import Trunk, load_trunk
from sppnet.progress import NullProgress
from sppnet.report.bins import UNSEEN, draw_bins
from sppnet.report.contact_sheet import arrange
from sppnet.report.filters import Peaks, check_filters, choose_filters, draw_filter, find_peaks, seen_box
from sppnet.report.pyramid import draw_pyramid, winners


@pytest.fixture
def extractor() -> FeatureExtractor:
    """A trunk of two channels and stride 8: the means of red and of blue over 8×8 pixels."""
    body = nn.Sequential(nn.Conv2d(3, 2, 8, stride=8, bias=False))
    weight = torch.zeros(2, 3, 8, 8)
    weight[0, 0], weight[1, 2] = 1 / 64, 1 / 64
    body[0].weight.data = weight
    return FeatureExtractor(Trunk("means", body, mean=(0, 0, 0), std=(1, 1, 1)), (64,))


def paint(path: Path, spots: dict[tuple[int, int], tuple[int, int, int]], size=(96, 64)) -> Path:
    """A black image with 8×8 spots at cells (row, column)."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for (row, column), colour in spots.items():
        pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = colour
    Image.fromarray(pixels).save(path)
    return path


# --- filters -------------------------------------------------------------------------------------


@pytest.fixture
def peaks(extractor, tmp_path) -> Peaks:
    paths = [
        paint(tmp_path / "dim.png", {(1, 2): (100, 0, 0), (0, 0): (0, 0, 51)}),
        paint(tmp_path / "red.png", {(5, 11): (255, 0, 0), (6, 0): (255, 0, 51)}),
        paint(tmp_path / "dark.png", {(0, 0): (0, 0, 51)}),
    ]
    (tmp_path / "broken.png").write_bytes(paths[0].read_bytes()[:60])
    return find_peaks([*paths, tmp_path / "broken.png"], extractor, NullProgress())


def test_peaks_lie_where_the_spots_are(peaks):
    np.testing.assert_allclose(peaks.values[:, 0], [100 / 255, 1, 0], atol=1e-3)
    assert peaks.places[:2, 0].tolist() == [[1, 2], [5, 11]]  # of two equal cells the first
    assert peaks.places[:, 1].tolist() == [[0, 0], [6, 0], [0, 0]]
    assert peaks.strongest(0) == [1, 0, 2]
    assert peaks.strongest(1, 2) == [0, 1]  # of equal images the first
    assert len(peaks.skipped) == 1
    assert "broken.png" in peaks.skipped[0]


def test_nothing_to_read_is_an_error(extractor, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match="none of the 1 images could be read"):
        find_peaks([tmp_path / "broken.png"], extractor, NullProgress())


def test_filters_that_stand_out_come_before_those_that_are_always_high():
    values = np.zeros((20, 3), np.float32)
    values[:, 0] = 6.0  # always
    values[:8, 1] = 6.0  # for eight images
    values[0, 2] = 6.0  # for one
    peaks = Peaks(tuple(map(Path, map(str, range(20)))), values, np.zeros((20, 3, 2), np.int64), ())
    assert choose_filters(peaks) == [1, 2, 0]
    assert choose_filters(peaks, 1) == [1]


@pytest.mark.parametrize("filters", [[2], [-1], [0, 5], []])
def test_a_filter_there_is_not(filters):
    with pytest.raises(GeometryError, match="filters 0 to 1"):
        check_filters(filters, 2)


def test_what_a_cell_sees_follows_the_size_of_the_image():
    """RF 139, stride 16, centre 20 of ZF-5; the image is twice as large as what was convolved."""
    grid = CellGrid(stride=16, center0=20, receptive_field=139)
    maps = FeatureMaps.of_one_tap((448, 672), ((224, 336),), (torch.zeros(1, 13, 20),), grid)
    box = seen_box((3, 5), grid, maps, grid.receptive_field)
    assert box.tolist() == [2 * (100 - 69), 2 * (68 - 69), 2 * (100 + 70), 2 * (68 + 70)]


def test_a_sheet_shows_the_strongest_cell(extractor, peaks):
    """Of the photograph that excites the filter most, first on the sheet: the spot, and its map below."""
    sheet = np.array(draw_filter(0, peaks, extractor))
    photo = sheet[54 : 54 + 200, 16 : 16 + 300]  # 96×64 shown at 300×200
    spot = photo[125:150, 275:300].reshape(-1, 3)
    assert (spot[len(spot) // 2] > [200, -1, -1]).all()
    below = sheet[54 + 204 : 54 + 404, 16 : 16 + 300]
    assert below[137, 287].tolist() == [255, 255, 255]
    assert below[20, 20].tolist() == [0, 0, 0]


def test_of_several_taps_the_last_has_the_filters(tmp_path):
    """And the window is drawn on the first, which is the finest, at the scale that the rule chooses."""
    torch.manual_seed(0)
    extractor = FeatureExtractor(load_trunk("mobilenet_v2:3+5").eval(), (96, 64))
    path = paint(tmp_path / "a.png", {(1, 2): (100, 0, 0)})
    peaks = find_peaks([path], extractor, NullProgress())
    maps = extractor(read_image(path))
    assert peaks.values.shape == (1, extractor.trunk.taps[-1].channels)
    assert np.array_equal(peaks.values[0], maps.taps[-1].maps[0].flatten(1).amax(1).float().numpy())
    draw_filter(peaks.values.shape[1] - 1, peaks, extractor)
    pictures = {
        rule: draw_pyramid(read_image(path), maps, [10, 10, 60, 50], (1, 2), scale_rule=rule).tobytes()
        for rule in ("paper", "log")
    }
    assert pictures["paper"] == pictures["log"]  # small windows take the larger scale by either


# --- pyramid -------------------------------------------------------------------------------------


def test_winners_by_hand():
    """Two channels on 2×3 cells: their maxima of level 1 at (0, 0) and, of two equal cells, the first."""
    features = np.array([[[9, 1, 2], [3, 4, 5]], [[0, 7, 0], [0, 0, 7]]], np.float32)
    (whole,) = winners(features, 1)
    assert whole.tolist() == [[0.5, 0.5, 0], [0, 0, 0]]
    upper_left, upper_right, lower_left, lower_right = winners(features, 2)
    assert upper_left.tolist() == [[0.5, 0.5, 0], [0, 0, 0]]
    assert upper_right.tolist() == [[0, 0.5, 0.5], [0, 0, 0]]
    assert lower_left.tolist() == [[0, 0, 0], [0.5, 0.5, 0]]
    assert lower_right.tolist() == [[0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("level", [1, 2, 3, 6])
def test_winners_hold_the_pooled_maxima(level):
    features = np.random.default_rng(level).normal(size=(1, 5, 7)).astype(np.float32)
    pooled = nn.functional.adaptive_max_pool2d(torch.from_numpy(features), level).reshape(-1)
    won = [features[0][share == 1].item() for share in winners(features, level)]
    assert won == pooled.tolist()


@pytest.mark.parametrize(
    ("box", "levels"),
    [
        pytest.param(None, (1, 2, 3, 6), id="the whole image"),
        pytest.param([10, 10, 60, 50], (1, 2, 3), id="a window"),
        pytest.param([-50, -50, 500, 500], (2,), id="clipped to the image"),
        pytest.param([10, 10, 11, 11], (6,), id="one cell in more bins than there are"),
    ],
)
def test_a_pyramid_is_drawn(box, levels, extractor, tmp_path):
    image = read_image(paint(tmp_path / "a.png", {(1, 2): (100, 0, 0)}))
    picture = draw_pyramid(image, extractor(image), box, levels)
    assert picture.width > 420 + 32
    assert len(np.unique(np.array(picture).reshape(-1, 3), axis=0)) > 20
    again = draw_pyramid(image, extractor(image), box, levels)
    assert picture.tobytes() == again.tobytes()


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([10, 10, 10, 20], id="empty"),
        pytest.param([200, 0, 300, 50], id="outside"),
        pytest.param([0, 0, float("nan"), 5], id="not a number"),
        pytest.param([1, 2, 3], id="three numbers"),
    ],
)
def test_a_window_that_cannot_be(box, extractor, tmp_path):
    image = read_image(paint(tmp_path / "a.png", {}))
    with pytest.raises(GeometryError, match="a window is x0,y0,x1,y1"):
        draw_pyramid(image, extractor(image), box, (1,))


# --- bins and sheets -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "level", "unseen"),
    [
        pytest.param(10, 4, 19, id="the puzzle: the last row and column of 10×10"),
        pytest.param(13, 6, 0, id="13 into 6 fits"),
        pytest.param(10, 6, 0, id="nine bins see all"),
        pytest.param(3, 4, 9, id="fewer cells than bins: the rule has none"),
    ],
)
def test_cells_that_no_bin_sees_are_marked(size, level, unseen):
    pixels = np.array(draw_bins(size, level))
    side = min(max(400 // size, 12), 40)
    top = 54 + 18 * max(level, len(sliding_windows(size, level))) + 30  # below the title and the bars
    middles = side * np.arange(size) + side // 2
    left, right = (pixels[np.ix_(top + middles, x + middles)] for x in (16, 16 + 402 + 16))
    assert (left == UNSEEN).all(axis=2).sum() == unseen
    assert (right == UNSEEN).all(axis=2).sum() == 0
    assert (right[:, :, 2] > right[:, :, 0]).all()  # all of them blue


def test_the_picture_in_the_documentation_is_this_one():
    drawn = Path(__file__).parents[1] / "docs" / "images" / "bins.png"
    with Image.open(drawn) as known:
        assert known.size == draw_bins(10, 4).size


def test_a_sheet_has_room_for_its_widest_and_highest():
    panels = [(Image.new("RGB", size), "x") for size in ((10, 50), (300, 20), (40, 40))]
    assert arrange("t", panels, 2).size == (16 + 40 + 16 + 300 + 16, 54 + (50 + 31) + (40 + 31) + 2 * 16)


# --- commands ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "best.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SPPNet(load_trunk("zf5", width=0.0625), (1, 2), 2, hidden=8)
    Classifier(network, ("a", "b"), Testing("full", 96)).save(path)
    return path


def sppnet(monkeypatch, capsys, *arguments: object) -> tuple[object, str, str]:
    monkeypatch.setattr(sys, "argv", ["sppnet", *map(str, arguments)])
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize("command", [[], ["filters"], ["pyramid"], ["bins"]], ids=" ".join)
def test_help_waits_for_nothing_heavy(command):
    code = (
        "import sys; from sppnet.cli import main\n"
        f"sys.argv = ['sppnet', 'visualize', *{command!r}, '--help']\n"
        "try: main()\n"
        "except SystemExit as ended: pass\n"
        "print('HEAVY', sorted({'torch', 'numba', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stderr


def test_filters_of_a_folder(model, tmp_path, monkeypatch, capsys):
    paint(tmp_path / "a.png", {(1, 1): (255, 0, 0)})
    paint(tmp_path / "b.png", {(2, 2): (0, 255, 0)})
    out = tmp_path / "new" / "drawn"
    command = ("visualize", "filters", tmp_path, "--model", model, "--out", out)
    code, printed, _ = sppnet(monkeypatch, capsys, *command, "--filters", "3,0,3")
    assert code in (0, None)
    assert printed.splitlines() == [f"{out}/filter-3.png", f"{out}/filter-0.png"]
    assert all(read_image(line).shape[1] > 500 for line in printed.splitlines())
    code, printed, _ = sppnet(monkeypatch, capsys, *command, "--scale", "64")
    assert len(printed.splitlines()) == 4


def test_a_pyramid_and_bins_go_where_they_are_asked_or_here(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image = paint(tmp_path / "a.png", {(1, 1): (255, 0, 0)})
    pyramid = ("visualize", "pyramid", image, "--model", model, "--box", "0,0,50,50")
    _, printed, _ = sppnet(monkeypatch, capsys, *pyramid, "--out", "p/a.png")
    assert printed == "p/a.png\n"
    _, printed, _ = sppnet(monkeypatch, capsys, *pyramid)
    assert printed == "pyramid.png\n"
    assert Path("pyramid.png").read_bytes() == Path("p/a.png").read_bytes()
    _, printed, _ = sppnet(monkeypatch, capsys, "visualize", "bins", "--size", "9")
    assert printed == "bins.png\n"
    assert (read_image("bins.png") == np.array(draw_bins(9, 4))).all()


def test_a_picture_never_takes_the_place_of_the_image(model, tmp_path, monkeypatch, capsys):
    image = paint(tmp_path / "a.png", {(1, 1): (255, 0, 0)})
    before = image.read_bytes()
    command = ("visualize", "pyramid", image, "--model", model, "--out", tmp_path / "." / "a.png")
    code, printed, _ = sppnet(monkeypatch, capsys, *command)
    assert (printed, image.read_bytes()) == ("", before)
    assert "a.png is one of the images; nothing is written over them" in str(code)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param(["--filters", "a"], "--filters must be integers such as", id="letters"),
        pytest.param(["--filters", "9999"], "filters 0 to", id="a filter there is not"),
        pytest.param(["--model", "none.safetensors"], "none.safetensors", id="a model there is not"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(options, says, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "a.png", {})
    code, printed, _ = sppnet(monkeypatch, capsys, "visualize", "filters", ".", "--model", model, *options)
    assert printed == ""
    assert says in str(code)
    assert not (tmp_path / "filters").exists()


def test_a_box_of_three_numbers(model, tmp_path, monkeypatch, capsys):
    image = paint(tmp_path / "a.png", {})
    code, _, _ = sppnet(
        monkeypatch, capsys, "visualize", "pyramid", image, "--model", model, "--box", "1,2,3",
        "--out", tmp_path / "p.png",
    )  # fmt: skip
    assert '--box must be four numbers such as 100,50,300,200; got "1,2,3"' in str(code)
