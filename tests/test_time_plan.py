"""What fits a time."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sppnet.data.detection_dataset import open_annotated
from sppnet.detect import time_plan
from sppnet.detect.config import DetectorConfig
from sppnet.detect.label_assignment import TrainingImages
from sppnet.detect.time_plan import CHOICES, UNIT_PX, Settings, choose_settings, measure_unit
from sppnet.detect.train import train_detector
from sppnet.errors import ConfigError
from sppnet.features.extractor import FeatureExtractor
from sppnet.nn.trunks import load_trunk
from test_detect_train import write_scenes


def test_choices_fall_in_time():
    units = [one.units() for one in CHOICES]
    assert units == sorted(units, reverse=True)


def test_mirror_images_double_the_time():
    one = Settings((UNIT_PX,), False)
    assert replace(one, mirror=True).units() == 2 * one.units()


@pytest.mark.parametrize("photographs", [1, 30, 1000])
def test_the_most_accurate_that_fits_is_chosen(photographs):
    unit = 0.05
    for better, one in pairwise(CHOICES):
        needed = photographs * one.units() * unit
        chosen = choose_settings(needed * 1.12, photographs, unit)
        assert chosen == one
        assert photographs * better.units() * unit > needed
    assert choose_settings(1e9, photographs, unit) == CHOICES[0]
    assert choose_settings(1e-9, photographs, unit) == CHOICES[-1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), 12)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    torch.manual_seed(0)
    weights = tmp_path_factory.mktemp("weights") / "trunk.safetensors"
    save_file(load_trunk("squeezenet1_1:6").body.state_dict(), weights)
    return DetectorConfig(
        trunk="squeezenet1_1:6", stride=None, weights=str(weights), levels=(1, 2), method="spp", time="20s",
        max_proposals=50, rounds=1,
    )  # fmt: skip


def test_an_extractor_at_other_scales_is_the_same(data):
    extractor = FeatureExtractor(load_trunk("zf5", width=0.1), (64, 96))
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    other = extractor.at((96,))
    assert (extractor.scales, other.scales) == ((64, 96), (96,))
    assert np.array_equal(other(image).maps[0], extractor(image).maps[1])
    with pytest.raises(ConfigError, match="scales"):
        extractor.at(())


def test_the_unit_is_a_photographs_time(data):
    extractor = FeatureExtractor(load_trunk("zf5", width=0.1), (64,))
    photos = TrainingImages(open_annotated(data), extractor, None)
    assert 0 < measure_unit(photos, extractor) < 10
    assert photos.extractor.scales == (64,)


def test_a_short_time_takes_small_scales_and_is_kept_on_resume(data, config, tmp_path, monkeypatch):
    monkeypatch.setattr(time_plan, "measure_unit", lambda photos, extractor: 1.0)
    run = train_detector(data, tmp_path / "run", config, cache=tmp_path / "maps")
    assert run.detector.config.scales == CHOICES[-1].scales
    assert not run.detector.config.mirror
    assert json.loads((tmp_path / "run" / "config.json").read_text())["time"] == "20s"
    monkeypatch.setattr(time_plan, "measure_unit", lambda photos, extractor: 1e-6)
    again = train_detector(data, tmp_path / "run", config, cache=tmp_path / "maps", resume=True)
    assert again.model.read_bytes() == run.model.read_bytes()


def test_scales_that_are_asked_for_stay(data, config, tmp_path, monkeypatch):
    monkeypatch.setattr(time_plan, "measure_unit", lambda photos, extractor: 1.0)
    asked = replace(config, scales=(200,))
    run = train_detector(data, tmp_path / "run", asked, cache=tmp_path / "maps")
    assert run.detector.config.scales == (200,)
    assert run.detector.config.mirror
