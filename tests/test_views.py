"""What a network is shown when tested: how many views, which cells, what is averaged; odd images."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sppnet.classify.classifier import Classifier, Testing
from sppnet.classify.views import SCALES_96, score_images
from sppnet.errors import ConfigError, ImageError, ModelError
from sppnet.nn.network import SPPNet
from sppnet.nn.trunks import load_trunk

CLASSES = ("cat", "dog", "eel")


@pytest.fixture(autouse=True)
def few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(**options) -> SPPNet:
    torch.manual_seed(0)
    net = SPPNet(load_trunk("zf5", width=0.0625), num_classes=3, hidden=16, **options).eval()
    with torch.no_grad():
        if net.head_kind == "svm":
            net.head.weight.normal_()
        else:
            net.head.fc8.weight.mul_(20)  # scores far enough apart for the softmax to matter
    return net


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with some noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


class Spy:
    """What passed a module, call by call."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.hook = module.register_forward_hook(self.see)

    def see(self, module, inputs, output) -> None:
        self.inputs.append(inputs[0].clone())
        self.outputs.append(output.clone())

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [tuple(tensor.shape) for tensor in self.inputs]


def scores(net: SPPNet, image: np.ndarray, views: str, **how) -> Tensor:
    with torch.inference_mode():
        return score_images(net, [image], views, **how)[0]


# --- how many views ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size_hw", "expected"),
    [
        # The paper's section 3.1.5: 9 positions and their mirror images at each of 6 scales, but 3 at 224.
        pytest.param((300, 400), [6, 18, 18, 18, 18, 18], id="a photograph has the paper's 96"),
        pytest.param((400, 300), [6, 18, 18, 18, 18, 18], id="upright too"),
        pytest.param((240, 240), [2, 18, 18, 18, 18, 18], id="a square one has 92: one position at 224"),
        pytest.param((100, 1000), [6, 18, 18, 18, 18, 18], id="and a long one 96"),
    ],
)
def test_96_views(size_hw, expected):
    net = network()
    head, trunk = Spy(net.head), Spy(net.trunk)
    scores(net, photograph(*size_hw), "96")
    assert [len(vectors) for vectors in head.inputs] == expected
    assert [min(shape[2:]) for shape in trunk.shapes] == [224, 256, 300, 360, 448, 560] == list(SCALES_96)
    assert [shape[0] for shape in trunk.shapes] == [2] * 6  # each scale convolved once, and once mirrored


def test_10_views_are_5_positions_and_their_mirror_images():
    net = network()
    head, trunk = Spy(net.head), Spy(net.trunk)
    scores(net, photograph(300, 400), "10")
    assert head.shapes == [(10, net.vector_length)]
    assert trunk.shapes == [(2, 3, 256, 341)]
    assert len(torch.unique(head.inputs[0], dim=0)) == 10


@pytest.mark.parametrize(
    ("views", "sides", "positions"),
    [("10", [146], [10]), ("96", [128, 146, 171, 205, 256, 320], [2, 18, 18, 18, 18, 18])],
)
def test_views_of_another_size_show_the_same_in_fewer_pixels(views, sides, positions):
    net = network()
    head, trunk = Spy(net.head), Spy(net.trunk)
    scores(net, photograph(300, 300), views, size_px=128)
    assert [shape[2:] for shape in trunk.shapes] == [(side, side) for side in sides]
    assert [len(vectors) for vectors in head.inputs] == positions


def test_many_views_have_the_size_that_a_model_was_trained_with():
    classifier = Classifier(network(), CLASSES, Testing("10", size_px=128))
    trunk = Spy(classifier.network.trunk)
    classifier(photograph(300, 300))
    assert trunk.shapes == [(2, 3, 146, 146)]


def test_the_fixed_network_is_shown_crops_of_its_size():
    net = network(levels=None, size=112)
    trunk = Spy(net.trunk)
    image = photograph(256, 320)
    scores(net, image, "10")
    assert trunk.shapes == [(10, 3, 112, 112)]
    first = Image.fromarray(image[16:240, 48:272]).resize((112, 112), Image.Resampling.BILINEAR)
    expected = (torch.from_numpy(np.array(first)).permute(2, 0, 1) / 255 - 128 / 255) / 0.25
    torch.testing.assert_close(trunk.inputs[0][0], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(trunk.inputs[0][5], expected.flip(-1), rtol=1e-5, atol=1e-5)


# --- which cells ---------------------------------------------------------------------------------


def ten_by_loop(net: SPPNet, image: np.ndarray, *, mirrored_maps: bool) -> Tensor:
    """The ten views of an image of 256 pixels, by the paper's Appendix A and torch alone.

    Each view takes the cells whose centres lie strictly inside it. mirrored_maps: wrongly mirrors the
    features of the image instead of convolving its mirror image.
    """
    height, width = image.shape[:2]
    maps = []
    for shown in (image, image[:, ::-1]):
        tensor = (torch.from_numpy(shown.copy()).permute(2, 0, 1) / 255 - 128 / 255) / 0.25
        maps.append(net.trunk(tensor[None].float()))
    if mirrored_maps:
        maps[1] = maps[0].flip(-1)
    stride, center0 = net.trunk.grid.stride, net.trunk.grid.center0
    middle_y, middle_x = (height - 224) // 2, (width - 224) // 2
    places = [(middle_y, middle_x), (0, 0), (0, width - 224), (height - 224, 0), (height - 224, width - 224)]
    probabilities = []
    for features in maps:
        for top, left in places:
            rows = [i for i in range(features.shape[2]) if top < center0 + stride * i < top + 224]
            columns = [i for i in range(features.shape[3]) if left < center0 + stride * i < left + 224]
            part = features[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            vector = torch.cat([F.adaptive_max_pool2d(part, n).flatten(1) for n in (1, 2, 3, 6)], 1)
            probabilities.append(net.head(vector).softmax(1))
    return torch.cat(probabilities).mean(0)


@pytest.mark.parametrize("size_hw", [(256, 330), (411, 256), (256, 256)], ids=str)
def test_10_views_are_pooled_from_the_maps_of_the_image_and_of_its_mirror_image(size_hw):
    net, image = network(), photograph(*size_hw)
    found = scores(net, image, "10")
    with torch.inference_mode():
        torch.testing.assert_close(found, ten_by_loop(net, image, mirrored_maps=False), rtol=1e-4, atol=1e-5)
        wrong = ten_by_loop(net, image, mirrored_maps=True)
    assert (found - wrong).abs().max() > 1e-3  # so the line above tells the two apart


# --- what is averaged ----------------------------------------------------------------------------


@pytest.mark.parametrize("views", ["10", "96"])
def test_of_layers_the_softmax_is_averaged(views):
    net = network()
    head = Spy(net.head)
    found = scores(net, photograph(260, 300), views)
    every = torch.cat(head.outputs)
    torch.testing.assert_close(found, every.softmax(1).mean(0))
    assert (found - every.mean(0).softmax(0)).abs().max() > 1e-4
    assert found.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("views", ["10", "96"])
def test_of_svms_the_scores_are_averaged(views):
    net = network(head="svm")
    head = Spy(net.head)
    found = scores(net, photograph(260, 300), views)
    torch.testing.assert_close(found, torch.cat(head.outputs).mean(0))
    assert found.min() < 0  # margins, not probabilities


def test_a_batch_scores_as_its_images_do_one_by_one():
    net = network()
    images = [photograph(60, 90, 1), photograph(300, 200, 2), photograph(224, 224, 3)]
    for views in ("crop", "full", "warp", "10"):
        with torch.inference_mode():
            together = score_images(net, images, views, scale_px=224, size_px=64)
        alone = torch.stack([scores(net, image, views, scale_px=224, size_px=64) for image in images])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
        assert not torch.equal(together[0], together[1])


# --- single views --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("views", "size_hw", "how", "expected"),
    [
        pytest.param("crop", (300, 400), {}, (224, 224), id="crop: the central 224×224"),
        pytest.param("crop", (300, 400), {"size_px": 64}, (64, 64), id="crop, resized"),
        pytest.param("full", (600, 300), {}, (512, 256), id="full: the shorter side at 256"),
        pytest.param("full", (600, 300), {"scale_px": 64}, (128, 64), id="full at another scale"),
        pytest.param("full", (3000, 20), {"scale_px": 64}, (256, 64), id="full: squeezed to 4 to 1"),
        pytest.param("full", (1, 1), {"scale_px": 64}, (64, 64), id="full: one pixel"),
        pytest.param("warp", (600, 300), {}, (224, 224), id="warp: all of it"),
        pytest.param("warp", (600, 300), {"size_px": 96}, (96, 96), id="warp to another size"),
    ],
)
def test_single_views(views, size_hw, how, expected):
    net = network()
    trunk = Spy(net.trunk)
    found = scores(net, photograph(*size_hw), views, **how)
    assert trunk.shapes == [(1, 3, *expected)]
    with torch.inference_mode():
        torch.testing.assert_close(found, net(trunk.inputs[0]).softmax(1)[0])


def test_views_there_are_not_are_refused():
    with pytest.raises(ConfigError, match="views are crop, full, warp, 10, 96; got 'all'"):
        Testing(views="all")
    with pytest.raises(ModelError, match="takes 112×112 pixels only; got 256×320"):
        scores(network(levels=None, size=112), photograph(256, 320), "full")


def test_scores_of_several_scales_are_averaged():
    classifier, image = Classifier(network(), CLASSES), photograph(100, 140)
    each = [classifier.scores(image, scale_px=scale) for scale in (96, 128)]
    torch.testing.assert_close(classifier.scores(image, scales=(96, 128)), sum(each) / 2)


def test_several_scales_are_for_whole_images_and_one_call():
    testing = Testing("full", 240).asked(scales=[96, 128])
    assert testing.all_scales == (96, 128)
    assert testing.in_words() == {"views": "full", "scales": (96, 128)}
    assert testing.asked(scale_px=160).all_scales == (160,)
    assert testing.asked(views="crop").all_scales == (240,)
    for views, scales in (("crop", (96, 128)), ("full", ()), ("full", (0, 96))):
        with pytest.raises(ConfigError, match="several scales are for whole images"):
            Testing(views).asked(scales=scales)


def test_a_model_file_keeps_no_scales_of_a_call(tmp_path):
    Classifier(network(), CLASSES, Testing("full", 240, scales=(96, 128))).save(
        tmp_path / "model.safetensors"
    )
    assert Classifier.load(tmp_path / "model.safetensors").testing == Testing("full", 240)


# --- odd images ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(network(), CLASSES, Testing("full", 64, 64))


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        pytest.param({}, {"views": "full", "scale_px": 146}, id="whole images as in training"),
        pytest.param({"scale_px": 112}, {"views": "full", "scale_px": 112}, id="at another scale"),
        pytest.param(
            {"views": "crop"}, {"views": "crop", "scale_px": 256, "size_px": 128}, id="crops as in training"
        ),
        pytest.param({"views": "10"}, {"views": "10", "scale_px": 256, "size_px": 128}, id="ten views"),
    ],
)
def test_a_classifier_of_small_views_sees_whole_images_small(asked, shown):
    trained = Classifier(network(), CLASSES, Testing("full", 256, 128, 146))
    assert trained.testing.asked(**asked).in_words() == shown
    image = photograph(300, 200)
    scale = {"views": shown["views"], "scale_px": shown["scale_px"]}
    explicit = Classifier(network(), CLASSES, Testing("full", 999, 128))
    assert torch.equal(trained.scores(image, **asked), explicit.scores(image, **scale))


@pytest.mark.parametrize("views", ["crop", "full", "warp", "10"])
@pytest.mark.parametrize("size_hw", [(1, 1), (20, 3000), (3000, 20), (2, 500)], ids=str)
def test_images_of_any_size_and_shape(classifier, views, size_hw):
    prediction = classifier(photograph(*size_hw), views=views, scale_px=224)
    assert sorted(prediction.classes) == sorted(CLASSES)
    assert prediction.scores == tuple(sorted(prediction.scores, reverse=True))
    assert sum(prediction.scores) == pytest.approx(1, abs=1e-5)


def save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def cmyk(path: Path, pixels: np.ndarray) -> tuple[Path, np.ndarray]:
    file = save(path / "cmyk.jpg", Image.fromarray(pixels).convert("CMYK"))
    return file, np.asarray(Image.open(file).convert("RGB"))


def sixteen_bits(path: Path, pixels: np.ndarray) -> tuple[Path, np.ndarray]:
    gray = pixels[:, :, 0]
    file = save(path / "16.png", Image.fromarray(gray.astype(np.uint16) * 257))
    return file, np.repeat(gray[:, :, None], 3, axis=2)


def turned(path: Path, pixels: np.ndarray) -> tuple[Path, np.ndarray]:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera stood on its right side: turn it clockwise
    file = save(path / "turned.png", Image.fromarray(pixels), exif=exif)
    return file, np.rot90(pixels, -1)


def transparent(path: Path, pixels: np.ndarray) -> tuple[Path, np.ndarray]:
    alpha = np.zeros(pixels.shape[:2], np.uint8)
    alpha[:40] = 255
    file = save(path / "rgba.png", Image.fromarray(np.dstack([pixels, alpha])))
    return file, np.where(alpha[:, :, None] == 255, pixels, 255).astype(np.uint8)


def palette(path: Path, pixels: np.ndarray) -> tuple[Path, np.ndarray]:
    image = Image.fromarray(pixels).quantize(16)
    return save(path / "palette.gif", image), np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("make", [cmyk, sixteen_bits, turned, transparent, palette])
def test_a_file_of_any_kind_scores_as_its_pixels_do(tmp_path, classifier, make):
    path, pixels = make(tmp_path, photograph(80, 120))
    assert torch.equal(classifier.scores(path), classifier.scores(np.ascontiguousarray(pixels)))
    if make is turned:
        assert not torch.equal(classifier.scores(path), classifier.scores(photograph(80, 120)))


def test_every_kind_of_source_is_the_same_image(tmp_path, classifier):
    pixels = photograph(50, 70)
    path = save(tmp_path / "a.png", Image.fromarray(pixels))
    stored = io.BytesIO(path.read_bytes()).getvalue()
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    expected = classifier.scores(pixels)
    for source in (path, str(path), stored, Image.open(path), tensor, pixels / 255.0):
        assert torch.equal(classifier.scores(source), expected)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_file_is_named(tmp_path, classifier, suffix):
    path = save(tmp_path / f"broken.{suffix}", Image.fromarray(photograph(80, 120)))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ImageError, match=rf"broken\.{suffix} cannot be read as an image"):
        classifier(path)


# --- predictions ---------------------------------------------------------------------------------


def test_a_prediction_names_the_best_classes_first(classifier):
    image = photograph(80, 120)
    every = classifier.scores(image)
    prediction = classifier(image, top=2)
    order = sorted(range(3), key=lambda i: -every[i].item())
    assert prediction.classes == tuple(CLASSES[i] for i in order[:2])
    assert prediction.label == CLASSES[order[0]]
    top = [{"label": CLASSES[i], "score": pytest.approx(every[i].item())} for i in order[:2]]
    assert prediction.to_json() == {"label": top[0]["label"], "score": top[0]["score"], "top": top}
    assert classifier.predict([image, image], top=2) == [prediction, prediction]


def test_a_classifier_has_a_name_for_every_class():
    with pytest.raises(ModelError, match=r"a network of 3 classes needs .* got 2"):
        Classifier(network(), ("cat", "dog"))


def test_scoring_turns_dropout_off(classifier):
    image = photograph(80, 120)
    expected = classifier.scores(image)
    classifier.network.train()
    assert torch.equal(classifier.scores(image), expected)
