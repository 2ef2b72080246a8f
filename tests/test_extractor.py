"""The folded trunk against the one it was made of, and images of every size."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sppnet.data.transforms import resize_shorter, to_tensor
from sppnet.errors import ConfigError
from sppnet.features.extractor import FeatureExtractor, fuse_conv_bn
from sppnet.nn.trunks import load_trunk


def stirred(module: nn.Module) -> nn.Module:
    """With batch norms as after training: of a fresh one nothing would be seen."""
    torch.manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.running_mean, part.weight, part.bias):
                if tensor is not None:
                    nn.init.normal_(tensor, 0.5, 0.3)
            if part.running_var is not None:
                part.running_var.uniform_(0.3, 3)
    return module.eval()


def norms_in(module: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())


def conv(**options) -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, padding=1, **options)


class NormRelu(nn.BatchNorm2d):
    """As timm's norms, with its activation."""

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps).relu()


class Standardised(nn.Conv2d):
    """Weights are altered on the way."""

    def forward(self, maps: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(maps, weight, self.bias, padding=1)


class Backwards(nn.Sequential):
    """The norm is called before the convolution."""

    def forward(self, maps: Tensor) -> Tensor:
        for part in reversed(list(self)):
            maps = part(maps)
        return maps


SHARED = conv()


@pytest.mark.parametrize(
    ("body", "left"),
    [
        pytest.param(nn.Sequential(conv(), nn.BatchNorm2d(3)), 0, id="a pair"),
        pytest.param(nn.Sequential(conv(bias=False), nn.BatchNorm2d(3), nn.ReLU()), 0, id="without a bias"),
        pytest.param(nn.Sequential(conv(groups=3), nn.BatchNorm2d(3)), 0, id="depthwise"),
        pytest.param(nn.Sequential(conv(), nn.BatchNorm2d(3, affine=False)), 0, id="norm without weights"),
        pytest.param(
            nn.Sequential(SHARED, nn.BatchNorm2d(3), SHARED, nn.BatchNorm2d(3)), 0, id="one conv, two norms"
        ),
        pytest.param(nn.Sequential(nn.Sequential(conv(), nn.BatchNorm2d(3)), conv()), 0, id="nested"),
        pytest.param(nn.Sequential(conv(), nn.ReLU(), nn.BatchNorm2d(3)), 1, id="something between"),
        pytest.param(nn.Sequential(nn.BatchNorm2d(3), conv()), 1, id="norm first"),
        pytest.param(nn.Sequential(conv(), nn.BatchNorm2d(3), nn.BatchNorm2d(3)), 1, id="two norms"),
        pytest.param(nn.Sequential(conv(), NormRelu(3)), 1, id="norm with an activation"),
        pytest.param(
            nn.Sequential(Standardised(3, 3, 3), nn.BatchNorm2d(3)), 1, id="convolution of its own kind"
        ),
        pytest.param(
            nn.Sequential(conv(), nn.BatchNorm2d(3, track_running_stats=False)), 1, id="norm by the batch"
        ),
        pytest.param(Backwards(conv(), nn.BatchNorm2d(3)), 1, id="forward of its own"),
    ],
)
def test_folding_changes_no_value(body, left):
    stirred(body)
    images = torch.randn(2, 3, 8, 9)
    copy = fuse_conv_bn(body)
    with torch.inference_mode():
        torch.testing.assert_close(copy(images), body(images), rtol=1e-4, atol=1e-5)
    assert norms_in(copy) == left
    assert not any(parameter.requires_grad for parameter in copy.parameters())


def test_folding_leaves_the_trunk_as_it_was():
    body = nn.Sequential(conv(), nn.BatchNorm2d(3)).train()
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    fuse_conv_bn(body)
    assert body.training
    assert body.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in body.state_dict().items())


@pytest.mark.parametrize(
    ("name", "left"),
    [
        pytest.param("mobilenet_v2:18", 0, id="mobilenet_v2, all folded"),
        # Residual blocks call their layers by name: the norms of six blocks, two each, stay as they are.
        pytest.param("resnet18:7", 12, id="resnet18, stem and shortcuts folded"),
        pytest.param("densenet121:6", None, id="densenet121, norms first"),
    ],
)
def test_a_folded_trunk_gives_the_same_maps(name, left):
    trunk = stirred(load_trunk(name))
    copy = fuse_conv_bn(trunk.body)
    images = torch.randn(1, 3, 70, 97)
    with torch.inference_mode():
        expected = trunk(images)
        torch.testing.assert_close(copy(images), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    assert left is None or norms_in(copy) == left
    assert norms_in(copy) < norms_in(trunk)


# --- images --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trunk():
    torch.manual_seed(0)
    return load_trunk("squeezenet1_1").eval()


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("scales", [(64,), (64, 96)], ids=["one scale", "two scales"])
@pytest.mark.parametrize("size_hw", [(40, 60), (120, 96), (64, 64)])
def test_maps_are_the_trunks_on_the_resized_image(trunk, size_hw, scales):
    image = noise(*size_hw)
    maps = FeatureExtractor(trunk, scales)(image)
    assert maps.size_hw == size_hw
    assert maps.scales_px == scales
    assert maps.grid == trunk.grid
    for features, scale_px, scaled_hw in zip(maps.maps, scales, maps.sizes_hw, strict=True):
        resized = resize_shorter(image, scale_px)
        assert resized.shape[:2] == scaled_hw
        with torch.inference_mode():
            expected = trunk(to_tensor(resized, trunk.mean, trunk.std)[None])[0]
        assert features.dtype == torch.float16
        assert features.is_contiguous()
        torch.testing.assert_close(features.float(), expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("size_hw", "scaled_hw"),
    [
        pytest.param((1, 1), (64, 64), id="one pixel"),
        pytest.param((1, 2), (64, 128), id="two pixels"),
        pytest.param((3000, 20), (256, 64), id="very long: squeezed to four times its width"),
        pytest.param((20, 3000), (64, 256), id="very wide"),
    ],
)
def test_images_of_every_size_have_maps(trunk, size_hw, scaled_hw):
    maps = FeatureExtractor(trunk, (64,))(noise(*size_hw))
    assert maps.sizes_hw == (scaled_hw,)
    assert maps.size_hw == size_hw
    height, width = size_hw
    whole = maps.windows(np.array([[0, 0, width, height]]))
    assert whole.cells[0, 1:].tolist() == [0, 0, maps.maps[0].shape[2], maps.maps[0].shape[1]]
    assert torch.isfinite(maps.pool(np.array([[0, 0, width, height]]))).all()


def test_convolving_twice_gives_the_same_bits(trunk):
    extractor = FeatureExtractor(trunk, (64,))
    assert torch.equal(extractor(noise(70, 90)).maps[0], extractor(noise(70, 90)).maps[0])


@pytest.mark.parametrize("scales", [(), (31,), (64, 16)], ids=["none", "31", "one of two too small"])
def test_scales_are_checked(trunk, scales):
    with pytest.raises(ConfigError, match="scales must be one or more sizes of 32 pixels or more; got"):
        FeatureExtractor(trunk, scales)
