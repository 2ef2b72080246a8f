"""Trunks: every torchvision network is one or is refused; cuts, names, and the same features as uncut."""

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from sppnet.errors import MissingExtraError, ModelError
from sppnet.nn.backbones import build_backbone
from sppnet.nn.receptive_field import derive_grid
from sppnet.nn.trunks import IMAGENET_MEAN, PAPER_MEAN, Trunk, empty_trunk, load_trunk

# By their papers: attention over windows or the whole image.
TRANSFORMERS = ("maxvit", "swin", "vit")


def test_every_torchvision_network_is_a_trunk_or_is_refused() -> None:
    for name in models.list_models(module=models):
        if name.startswith(TRANSFORMERS):
            with pytest.raises(
                ModelError, match=f"{name} cannot be a trunk: .*onvolutional trunks can be used"
            ):
                empty_trunk(name)
            continue
        trunk = empty_trunk(name)
        assert trunk.grid.stride == (16 if name.startswith("squeezenet") else 32), name
        assert trunk.channels >= 200, name


@pytest.mark.parametrize(
    ("name", "stride", "kept", "channels"),
    [
        # MobileNetV2, Table 2 of its paper: 96 channels in the last block of stride 16, then 320, then 1280.
        ("mobilenet_v2", 16, 14, 96),
        ("mobilenet_v2", 32, 19, 1280),
        ("mobilenet_v2", None, 19, 1280),
        ("mobilenet_v2:18", None, 18, 320),
        ("mobilenet_v2:18", 32, 18, 320),
        # VGG-16 up to conv5_3 and its ReLU, without the last pooling.
        ("vgg16", 16, 30, 512),
        ("alexnet", 16, 12, 256),
        ("squeezenet1_1", None, 13, 512),
    ],
)
def test_networks_are_cut_after_the_last_stage_of_a_stride(
    name: str, stride: int | None, kept: int, channels: int
) -> None:
    trunk = empty_trunk(name, stride=stride)
    assert len(trunk.body.features) == kept
    assert trunk.channels == channels
    assert trunk.name == name
    assert stride in (None, trunk.grid.stride)


# One of each family, with the last module of the kept part.
FAMILIES = [
    ("alexnet", "features.12"),
    ("resnet18", "layer4"),
    ("resnet18:7", "layer3"),
    ("squeezenet1_0", "features.12"),
    ("mobilenet_v3_small", "features.12"),
    ("efficientnet_b0", "features.8"),
    ("convnext_tiny", "features.7"),
    ("regnet_y_400mf", "trunk_output.block4"),
    ("mnasnet0_5", "layers.16"),
    ("shufflenet_v2_x0_5", "conv5"),
    ("googlenet", "inception5b"),
    ("inception_v3:15", "Mixed_6e"),
    ("densenet121:11", "features.denseblock4"),
]


@pytest.mark.parametrize(("name", "last"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_a_trunk_gives_what_the_uncut_network_has_inside(name: str, last: str) -> None:
    base = name.partition(":")[0]
    options = (
        {"init_weights": False, "transform_input": False} if base in ("googlenet", "inception_v3") else {}
    )
    whole = models.get_model(base, **options).eval()
    trunk = load_trunk(name, weights=whole.state_dict()).eval()
    inside: list[Tensor] = []
    # Cloned, because what follows may be in place.
    whole.get_submodule(last).register_forward_hook(lambda module, given, maps: inside.append(maps.clone()))
    images = torch.randn(1, 3, 96, 129)
    with torch.no_grad():
        whole(images)
        features = trunk(images)
    assert features.shape[1] == trunk.channels
    torch.testing.assert_close(features, inside[0])


def test_densenet_ends_in_the_relu_that_its_forward_calls() -> None:
    whole = models.densenet121().eval()
    trunk = load_trunk("densenet121", weights=whole.state_dict()).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(trunk(images), whole.features(images).relu())


@pytest.mark.parametrize(
    ("name", "stride", "width"),
    [("zf5", None, 0.25), ("overfeat5", None, 0.25), ("resnet18", 16, 1.0), ("mobilenet_v2:3", None, 1.0)],
)
def test_a_trunk_is_built_again_from_its_spec(name: str, stride: int | None, width: float) -> None:
    trunk = load_trunk(name, stride=stride, width=width).eval()
    again = empty_trunk(**json.loads(json.dumps(trunk.spec)))
    assert all(parameter.is_meta for parameter in again.parameters())
    again.load_state_dict(trunk.state_dict(), assign=True)
    images = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), trunk(images))
    assert (again.spec, again.grid, again.channels) == (trunk.spec, trunk.grid, trunk.channels)


def test_the_papers_trunks_are_those_of_the_builder() -> None:
    trunk = load_trunk("zf5", width=0.25)
    assert trunk.body.state_dict().keys() == build_backbone("zf5", width=0.25).state_dict().keys()
    assert (trunk.channels, trunk.grid.stride, trunk.spec) == (
        64,
        16,
        {"name": "zf5", "stride": 16, "width": 0.25},
    )


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("resnet18", IMAGENET_MEAN),
        ("efficientnet_v2_l", (0.5, 0.5, 0.5)),  # EfficientNet_V2_L_Weights of torchvision
        ("googlenet", (0.5, 0.5, 0.5)),
        ("zf5", PAPER_MEAN),
    ],
)
def test_images_are_normalised_as_the_weights_expect(name: str, mean: tuple[float, float, float]) -> None:
    assert empty_trunk(name, stride=4 if name != "zf5" else None).mean == mean


def test_googlenets_normalisation_is_torchvisions_in_one_step() -> None:
    # torchvision normalises by ImageNet's values and undoes that inside its networks with published weights.
    whole = models.googlenet(init_weights=False, transform_input=True)
    trunk = empty_trunk("googlenet", stride=2)
    images = torch.rand(1, 3, 4, 4)
    published = models.GoogLeNet_Weights.DEFAULT.transforms()
    theirs = whole._transform_input((images - column(published.mean)) / column(published.std))
    torch.testing.assert_close((images - column(trunk.mean)) / column(trunk.std), theirs)


def column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).reshape(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet19", {}, "no trunk is called 'resnet19'; did you mean resnet1"),
        ("zf", {}, "no trunk is called 'zf'"),
        ("resnet18", {"stride": 12}, "no stage of stride 12; it has 2, 4, 8, 16, 32"),
        ("squeezenet1_1", {"stride": 32}, "no stage of stride 32; it has 2, 4, 8, 16"),
        ("mobilenet_v2:20", {}, "from 1 to 19, got '20'"),
        ("mobilenet_v2:x", {}, "from 1 to 19, got 'x'"),
        ("mobilenet_v2:18", {"stride": 64}, "has stride 32 and cannot have 64"),
        ("resnet18", {"width": 0.5}, "width must be 1 for resnet18"),
        ("vit_b_16", {"stride": 16}, "vit_b_16 cannot be a trunk"),
    ],
)
def test_what_cannot_be_had_is_said(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        empty_trunk(name, **options)


def test_any_convolutional_module_can_be_wrapped() -> None:
    trunk = Trunk("mine", nn.Conv2d(3, 7, 3, stride=2), mean=PAPER_MEAN, std=PAPER_MEAN)
    assert (trunk.channels, trunk.grid.stride, trunk.grid.receptive_field) == (7, 2, 3)
    assert trunk(torch.zeros(2, 3, 9, 9)).shape == (2, 7, 4, 4)
    with pytest.raises(ModelError, match="mine cannot be a trunk"):
        Trunk("mine", nn.Flatten(), mean=PAPER_MEAN, std=PAPER_MEAN)


# --- timm ----------------------------------------------------------------------------------------


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"sppnet\[timm\]"):
        load_trunk("timm:resnet18")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Hugging Face's client with an empty cache; its server takes connections and never answers."""
    pytest.importorskip("timm", reason="timm is not installed")
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        template = hub.constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(hub.constants.ENDPOINT, address)
        monkeypatch.setattr(hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hub.constants, "ENDPOINT", address)
        yield hub


def test_timm_weights_without_network_are_refused_in_time(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sppnet.nn.connection.ANSWER_SECONDS", 0.2)
    before, timeout, began = dict(os.environ), socket.getdefaulttimeout(), time.monotonic()
    message = (
        r"no weights of timm/test_resnet.*127\.0\.0\.1.*cannot be reached.*https_proxy.*HF_HUB_CACHE.*file"
    )
    with pytest.raises(ModelError, match=message):
        load_trunk("timm:test_resnet", weights="imagenet")
    assert time.monotonic() - began < 5
    assert (dict(os.environ), socket.getdefaulttimeout()) == (before, timeout)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_cached_timm_weights_need_no_network(hub: Any, tmp_path: Path, file: str) -> None:
    import timm

    network = timm.create_model("test_resnet")
    folder = tmp_path / "models--timm--test_resnet.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123")
    (folder / "snapshots" / "0123").mkdir(parents=True)
    save = save_file if file.endswith("safetensors") else torch.save
    save(network.state_dict(), folder / "snapshots" / "0123" / file)
    trunk = load_trunk("timm:test_resnet", weights="imagenet")
    expected = load_trunk("timm:test_resnet", weights=network.state_dict())
    for mine, theirs in zip(trunk.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_timm_networks_are_trunks() -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    whole = timm.create_model("resnet18").eval()
    trunk = load_trunk("timm:resnet18", stride=16, weights=whole.state_dict()).eval()
    # The same network as torchvision's, so the same cells.
    theirs = empty_trunk("resnet18", stride=16)
    assert (trunk.grid, trunk.channels, trunk.mean) == (theirs.grid, theirs.channels, IMAGENET_MEAN)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(
            trunk(images), whole.forward_intermediates(images, intermediates_only=True)[3]
        )
    again = empty_trunk(**trunk.spec)
    again.load_state_dict(trunk.state_dict(), assign=True)


@pytest.mark.parametrize("model", ["test_vit", "eva02_tiny_patch14_224"])
def test_vision_transformers_of_timm_are_trunks_for_images_of_any_size(model: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    whole = timm.create_model(model, dynamic_img_size=True, dynamic_img_pad=True).eval()
    trunk = load_trunk(f"timm:{model}", weights=whole.state_dict()).eval()
    patches, channels = derive_grid(whole.patch_embed.proj)
    assert (trunk.grid, trunk.channels) == (patches, channels)
    images, side = torch.randn(1, 3, 90, 150), patches.stride
    rows, columns = -(-90 // side), -(-150 // side)
    pads = (0, columns * side - 150, 0, rows * side - 90)
    with torch.no_grad():
        maps = trunk(images)
        expected = whole.forward_intermediates(images, intermediates_only=True)[-1]
        padded = trunk(torch.nn.functional.pad(images, pads))
    assert maps.shape == (1, channels, rows, columns)
    torch.testing.assert_close(maps, expected)
    torch.testing.assert_close(maps, padded)
    again = empty_trunk(**trunk.spec)
    again.load_state_dict(trunk.state_dict(), assign=True)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), maps)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm:resnet19", {}, "timm has no network 'resnet19'; did you mean"),
        ("timm:resnet18", {"stride": 64}, "no stage of stride 64; it has 2, 4, 8, 16, 32"),
        ("timm:swin_tiny_patch4_window7_224", {}, "cannot be a trunk"),
        ("timm:tf_efficientnet_b0", {}, "pads that depend on the image size"),
        ("timm:resnet18", {"width": 2.0}, "width must be 1"),
    ],
)
def test_timm_networks_that_do_not_fit_are_refused(
    name: str, options: dict[str, float], message: str
) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    with pytest.raises(ModelError, match=message):
        load_trunk(name, **options)


def test_two_stages_give_their_maps_side_by_side() -> None:
    both = load_trunk("mobilenet_v2:14+18", stride=16).eval()
    early = load_trunk("mobilenet_v2:14").eval()
    late = load_trunk("mobilenet_v2:18", stride=16).eval()
    for part in (early, late):
        part.load_state_dict({name: both.state_dict()[name] for name in part.state_dict()})
    images = torch.rand(1, 3, 97, 130, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(both(images), torch.cat([early(images), late(images)], 1))
    assert both.channels == early.channels + late.channels
    assert both.grid == late.grid
    rebuilt = empty_trunk(**both.spec)
    assert rebuilt.state_dict().keys() == both.state_dict().keys()


@pytest.mark.parametrize("stride", [None, 16])
def test_stages_of_several_strides_give_maps_of_their_own(stride: int | None) -> None:
    several = load_trunk("mobilenet_v2:7+14+18", stride=stride).eval()
    images = torch.rand(1, 3, 97, 130, generator=torch.Generator().manual_seed(0))
    strides = [8, 16, 32] if stride is None else [8, 16]
    assert [tap.grid.stride for tap in several.taps] == strides
    with torch.no_grad():
        maps = several.maps(images)
        for number, tap, features in zip((7, 14, 18), several.taps, maps, strict=False):
            one = load_trunk(f"mobilenet_v2:{number}", stride=stride if number > 7 else None).eval()
            one.load_state_dict({name: several.state_dict()[name] for name in one.state_dict()})
            assert one.grid.center0 == tap.grid.center0
            assert torch.equal(features[:, : one.channels], one(images))
    assert several.channels == sum(features.shape[1] for features in maps) == 32 + 96 + 320
    with pytest.raises(ModelError, match="maps, and one is needed here"):
        several(images)
    rebuilt = empty_trunk(**several.spec)
    assert rebuilt.taps == several.taps


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("mobilenet_v2:14+", "must be from 1 to", id="a number is missing"),
        pytest.param("mobilenet_v2:14+99", "must be from 1 to", id="no such stage"),
    ],
)
def test_stages_that_cannot_stand_side_by_side_are_refused(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_trunk(name)
