"""What a detector's configuration makes of what is left open, and of configurations of before."""

import pytest

from sppnet.detect.config import DetectorConfig
from sppnet.errors import ConfigError
from sppnet.nn import default_trunk as default_module


@pytest.mark.parametrize(
    ("installed", "weights", "expected"),
    [
        (True, None, ("efficientnet_lite1:6+8", "imagenet")),
        (True, "imagenet", ("efficientnet_lite1:6+8", "imagenet")),
        (True, "mine.pth", ("mobilenet_v2:14+18", "mine.pth")),
        (False, None, ("mobilenet_v2:14+18", None)),
        (False, "imagenet", ("mobilenet_v2:14+18", "imagenet")),
    ],
)
def test_the_trunk_is_the_best_of_what_is_installed(monkeypatch, installed, weights, expected):
    monkeypatch.setattr(default_module, "has_lite_weights", lambda name: installed)
    config = DetectorConfig(weights=weights)
    assert (config.trunk, config.weights) == expected
    assert DetectorConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("trunk", "stride", "expected"),
    [
        ("vgg16", None, 16),
        ("timm:resnet18", None, 16),
        ("mobilenet_v2:14+18", None, None),
        ("mobilenet_v2:14+18", 16, 16),
        ("vgg16", 8, 8),
        ("overfeat5", None, None),  # whose stride is 12
    ],
)
def test_networks_named_without_stages_are_cut_at_stride_16(trunk, stride, expected):
    assert DetectorConfig(trunk=trunk, stride=stride).stride == expected


def test_configurations_of_0_1_keep_their_ways():
    """It had one rule for cells and scales, and boxes did not vote."""
    old = {**DetectorConfig(trunk="zf5").to_json(), "rule": "released", "nms": 0.4}
    for name in ("box_mapping", "scale_rule", "voting_iou", "mirror", "nms_iou"):
        del old[name]
    config = DetectorConfig.from_json(old)
    assert (config.box_mapping, config.scale_rule) == ("released", "released")
    assert (config.voting_iou, config.nms_iou) == (1.0, 0.4)


def test_by_default_nothing_is_fine_tuned():
    assert (DetectorConfig().finetune, DetectorConfig().svm_layer) == ("none", "pool")
    assert DetectorConfig(finetune="fc").svm_layer == "fc7"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale_rule": "nearest"}, "scale_rule must be one of paper, released, log; got 'nearest'"),
        ({"voting_iou": 0}, "voting_iou is an IoU above 0 and up to 1; got 0"),
        ({"svm_layer": "fc7"}, "needs fc layers"),
    ],
)
def test_settings_that_do_not_exist_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DetectorConfig(**options)
