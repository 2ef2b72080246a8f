"""What trainings and evaluations from Python leave beside their models, and that it costs no model."""

import logging
import shutil
from html import unescape
from pathlib import Path

import pytest
import torch

import sppnet
from sppnet import training
from sppnet.data.folder import open_folder
from sppnet.demo import generate, generate_scenes
from sppnet.nn.trunks import load_trunk
from sppnet.report.page import Name, in_python

SMALL = {"trunk": "zf5", "width": 0.0625, "hidden": 16, "device": "cpu"}
OPTIONS = {**SMALL, "sizes": "64", "scale_px": 224, "epochs": 1, "workers": 0}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    generate(root, images_per_class=2, seed=0)
    return root


@pytest.fixture(scope="module")
def classifier(photos, tmp_path_factory):
    """As a user gets it, and its run folder."""
    out = tmp_path_factory.mktemp("runs") / "mine"
    return sppnet.Classifier.train(photos, out, **OPTIONS), out


@pytest.fixture
def ended(classifier, tmp_path) -> Path:
    """A run that has ended, without its page; going on with it takes no time."""
    shutil.copytree(classifier[1], tmp_path / "mine")
    (tmp_path / "mine" / "report.html").unlink()
    return tmp_path / "mine"


def test_a_classifier_trained_in_python_leaves_its_page(classifier, photos):
    trained, out = classifier
    text = (out / "report.html").read_text()
    assert f"sppnet.train('{photos}', '{out}', sppnet.TrainingConfig(width=0.0625," in unescape(text)
    assert ">evaluating (full)<" in text
    assert "top-1: training ends at" in text
    image = photos / "dots" / "0.jpg"
    assert sppnet.Classifier.load(out / "best.safetensors")(image) == trained(image)


def test_the_result_names_the_page(ended, photos):
    result = sppnet.train(photos, ended, sppnet.TrainingConfig(**OPTIONS), resume=True)
    assert result.report == ended / "report.html"
    assert "resume=True)" in result.report.read_text()


def test_nobody_has_to_have_a_page(ended, photos):
    result = sppnet.train(photos, ended, sppnet.TrainingConfig(**OPTIONS), resume=True, report=False)
    assert result.report is None
    assert not (ended / "report.html").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda run, patch: (run / "report.html").mkdir(), id="that cannot be written"),
        pytest.param(
            lambda run, patch: patch.setattr(training.classification, "training_page", lambda *_: 1 / 0),
            id="that cannot be made",
        ),
    ],
)
def test_no_model_is_lost_for_a_page(spoil, ended, photos, monkeypatch, caplog):
    spoil(ended, monkeypatch)
    with caplog.at_level(logging.WARNING):
        result = sppnet.train(photos, ended, sppnet.TrainingConfig(**OPTIONS), resume=True)
    assert result.report is None
    assert 0 <= result.validation.top1 <= 1
    (line,) = caplog.messages
    assert line.startswith(f"no report: {ended}/report.html: ")


def test_one_process_of_several_does_not_train_alone(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(sppnet.SppnetError, match=r"under torchrun call sppnet\.train"):
        sppnet.Classifier.train(photos, tmp_path / "run", **OPTIONS)
    assert not (tmp_path / "run").exists()


def test_a_detector_trained_in_python_leaves_its_page(tmp_path):
    generate_scenes(tmp_path / "scenes", "train", count=12, seed=0)
    generate_scenes(tmp_path / "scenes", "test", count=2, seed=1)
    torch.manual_seed(0)
    torch.save(load_trunk("zf5", width=0.0625).body.state_dict(), tmp_path / "trunk.pth")
    config = sppnet.DetectorConfig(
        **SMALL, weights=str(tmp_path / "trunk.pth"), scales=(96,), max_proposals=50, finetune="none", C=0.01
    )
    out = tmp_path / "run"
    result = sppnet.train_detector(tmp_path / "scenes", out, config, cache=tmp_path / "maps")
    text = result.report.read_text()
    assert result.report == out / "report.html"
    assert "sppnet.DetectorConfig(trunk='zf5'" in unescape(text)
    for name, count in result.objects.items():
        assert f'<th scope="row">{name}</th><td>{count}</td>' in text
    rounds = training.DetectorRun(out).load_stage("svm")[0]["rounds"]
    assert 1 < len(rounds) == text.split("Windows after every round</caption>")[1].count('"row"')

    page = tmp_path / "found.html"
    images = sppnet.open_annotated(tmp_path / "scenes", "test")
    sppnet.evaluate_detector(result.detector, images, report=page)
    assert "sppnet.evaluate_detector(detector, images, 'voc07', report=" in unescape(page.read_text())

    result.report.unlink()
    detector = sppnet.Detector.train(tmp_path / "scenes", out, resume=True, report=False, **vars(config))
    assert detector.classes == result.detector.classes
    assert not result.report.exists()


def test_an_evaluation_in_python_writes_the_page_that_is_asked_for(classifier, photos, tmp_path):
    page = tmp_path / "deep" / "found.html"
    sppnet.evaluate(classifier[0], open_folder(photos), report=page, views="crop", size_px=64)
    text = page.read_text()
    assert "views</dt><dd>crop" in text
    assert "report='" in unescape(text)
    assert "evaluating (crop): " in text


@pytest.mark.parametrize(
    ("call", "written"),
    [
        pytest.param(in_python("f"), "f()", id="nothing"),
        pytest.param(
            in_python("f", Path("a b"), out=None, resume=False, n=0), "f('a b', n=0)", id="what was asked"
        ),
        pytest.param(in_python("f", Name("images")), "f(images)", id="a variable"),
        pytest.param(
            in_python("f", sppnet.DetectorConfig(trunk="zf5", stride=16, scales=(256,), weights="imagenet")),
            "f(sppnet.DetectorConfig(trunk='zf5', stride=16, weights='imagenet', scales=(256,)))",
            id="a configuration, without its defaults",
        ),
        pytest.param(
            in_python("f", sppnet.TrainingConfig()), "f(sppnet.TrainingConfig())", id="all defaults"
        ),
    ],
)
def test_a_call_is_written(call, written):
    assert call == written
