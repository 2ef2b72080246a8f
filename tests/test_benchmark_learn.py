"""`sppnet benchmark learn`: what peers are shown, that they learn, and rows of runs that are not repeated."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from sppnet.benchmark import finetuned_peers, learn, learning_run
from sppnet.benchmark.finetuned_peers import RECIPES, finetune_peer
from sppnet.benchmark.learning_run import Learned, LearningJob, measure
from sppnet.data.detection_dataset import open_annotated
from sppnet.demo import generate_scenes
from sppnet.detect.joint.augmentation import Sample
from sppnet.errors import ConfigError, SppnetError
from sppnet.nn.trunks import load_trunk
from sppnet.progress import NullProgress
from sppnet.structures import GroundTruth
from test_detect_train import write_scenes, write_weights

PEER_TRUNK = "efficientnet_lite0:4+6+8"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    generate_scenes(root, "train", 6, seed=1, size_hw=(180, 240))
    generate_scenes(root, "test", 2, seed=0, size_hw=(180, 240))
    return root


@pytest.fixture(scope="module")
def trunk():
    torch.manual_seed(0)
    return load_trunk(PEER_TRUNK)


# --- peers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_boxes_stay_on_their_objects(name):
    pixels = np.full((120, 160, 3), 20, np.uint8)
    pixels[30:90, 50:130] = 220
    marked = GroundTruth(
        np.array([[50, 30, 130, 90]], np.float32), np.zeros(1, np.int64), np.zeros(1, bool), np.zeros(1, bool)
    )  # fmt: skip
    sample = Sample(pixels, marked, np.empty((0, 4), np.float32))
    fill = np.full(3, 20 / 255, np.float32)
    seen = 0
    for seed in range(12):
        drawn = RECIPES[name].draw(sample, True, fill, np.random.default_rng(seed))
        bright = drawn.pixels.astype(float).mean(axis=2) > 100
        for x0, y0, x1, y1 in drawn.truth.boxes.round().astype(int).tolist():
            assert bright[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].mean() > 0.97
            outside = bright.copy()
            outside[max(0, y0 - 3) : y1 + 3, max(0, x0 - 3) : x1 + 3] = False
            assert not outside.any()
            seen += 1
    assert seen > 6


def test_difficult_objects_are_no_targets():
    truth = GroundTruth(
        np.array([[0, 0, 9, 9], [5, 5, 20, 20]], np.float32), np.array([1, 0]), np.array([True, False]),
        np.zeros(2, bool),
    )  # fmt: skip
    target = finetuned_peers._as_target(truth)
    assert target["boxes"].tolist() == [[5, 5, 20, 20]]
    assert target["labels"].tolist() == [1]


@pytest.mark.parametrize("name", RECIPES)
def test_a_peer_learns_for_as_long_as_it_is_given(name, scenes, trunk, monkeypatch):
    """The first stages stay as they are."""
    images, recipe, built = open_annotated(scenes, "train"), RECIPES[name], []

    def build(trunk, classes):
        network = recipe.build(trunk, classes)
        built.append({key: one.detach().clone() for key, one in network.named_parameters()})
        return network

    monkeypatch.setitem(RECIPES, name, replace(recipe, build=build, batch=2))
    peer = finetune_peer(name, trunk, images, 0.001, seed=0, progress=NullProgress())
    assert peer.steps == 1
    stays = [
        torch.equal(one, built[0][key]) for key, one in peer.network.named_parameters() if ".body." in key
    ]
    assert stays[0]
    assert not stays[-1]
    found = peer(images.paths[0])
    assert found.classes == images.classes
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [240, 180, 240, 180]).all()
    assert set(found.labels.tolist()) <= set(range(len(images.classes)))


@pytest.mark.parametrize("name", RECIPES)
def test_other_strides_are_refused(name):
    with pytest.raises(ConfigError, match="strides 8, 16 and 32"):
        RECIPES[name].build(load_trunk("efficientnet_lite0:6+8"), 1)


def test_photographs_that_cannot_be_read_are_left_out(scenes, tmp_path):
    images = open_annotated(scenes, "train").take([0, 1])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    some = images.__class__(images.root, images.classes, (broken, images.paths[1]), images.truths, ())
    assert len(finetuned_peers._Photographs(some, 96).samples) == 1
    with pytest.raises(ConfigError, match="none of the photographs"):
        finetuned_peers._Photographs(some.take([0]), 96)


# --- runs ----------------------------------------------------------------------------------------


def test_a_job_of_ours_is_trained_tested_and_timed(scenes, tmp_path):
    job = LearningJob(
        data=str(scenes), split="train", test_split="test", learner="sppnet", trunk="squeezenet1_1:6",
        weights=str(write_weights(tmp_path)), seconds=None, seed=0, out=str(tmp_path / "job"),
    )  # fmt: skip
    found = measure(job)
    assert 0 <= found.map_50_95 <= found.map <= 1
    assert found.train_s > found.detect_s > 0
    assert found.peak_bytes > 1e8
    assert (tmp_path / "job" / "run" / "detector.safetensors").exists()


@pytest.fixture
def made_up(monkeypatch):
    """Jobs that take no time: the longer and the later the seed, the better."""
    jobs = []

    def take_no_time(module, text):
        assert module == learning_run.__name__
        job = json.loads(text)
        jobs.append(job)
        seconds = job["seconds"] or 7
        return asdict(
            Learned(
                map=seconds / 100 + job["seed"] / 10,
                map_50_95=0.25,
                train_s=seconds,
                detect_s=0.5,
                peak_bytes=10**9,
            )
        )

    monkeypatch.setattr(learn, "run_in_subprocess", take_no_time)
    return jobs


def test_rows_curves_and_what_is_done_already(scenes, tmp_path, made_up):
    result = learn.run(scenes, tmp_path, seconds=(20, 10), learners=("sppnet", "ssdlite"), seeds=(0, 1))
    assert [(row.learner, row.seconds) for row in result.rows] == [
        ("sppnet", 10), ("sppnet", 20), ("ssdlite", 10), ("ssdlite", 20),
    ]  # fmt: skip
    assert result.rows[0].map == pytest.approx((0.1, 0.2))
    assert result.rows[0].to_json()["map_mean"] == pytest.approx(0.15)
    assert {(job["learner"], job["trunk"]) for job in made_up} == {
        ("sppnet", "efficientnet_lite1:6+8"), ("ssdlite", "efficientnet_lite1:4+6+8"),
    }  # fmt: skip
    assert (result.split, result.test_split, result.tested) == ("train", "test", 2)
    assert (tmp_path / learn.PLOT).read_bytes().startswith(b"\x89PNG")
    made_up.clear()
    again = learn.run(scenes, tmp_path, seconds=(20, 10), learners=("sppnet", "ssdlite"), seeds=(0, 1))
    assert again == result
    assert not made_up
    with pytest.raises(ConfigError, match=r"seed-0 was learned .*: trunk was efficientnet_lite1:6\+8;"):
        learn.run(scenes, tmp_path, seconds=(10,), learners=("sppnet",), trunk="zf5")
    assert not made_up


def test_a_job_that_was_stopped_begins_anew(scenes, tmp_path, made_up):
    stopped = tmp_path / "sppnet-10s" / "seed-0" / learning_run.RUN
    stopped.mkdir(parents=True)
    (stopped / "half").touch()
    learn.run(scenes, tmp_path, seconds=(10,), learners=("sppnet",))
    assert len(made_up) == 1
    assert not stopped.exists()


def test_a_detectors_network_takes_the_time_it_needs(scenes, tmp_path, made_up):
    result = learn.run(scenes, tmp_path, seconds=(10,), learners=("fasterrcnn",), onnx="net.onnx")
    assert [(row.learner, row.trunk, row.seconds) for row in result.rows][1] == (
        "sppnet-onnx", "net.onnx", None,
    )  # fmt: skip
    assert made_up[-1]["weights"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": None}, "name the photographs"),
        ({"seconds": ()}, "a second or more"),
        ({"seconds": (0,)}, "a second or more"),
        ({"seeds": (1, 1)}, "each once"),
        ({"learners": ("sppnet", "yolo")}, "got yolo"),
    ],
)
def test_what_cannot_be_compared_is_refused(options, message, scenes, tmp_path):
    with pytest.raises(ConfigError, match=message):
        learn.run(**{"data": scenes, "out": tmp_path, **options})


def test_a_training_that_fails_is_named_with_its_last_words(scenes, tmp_path):
    with pytest.raises(SppnetError, match=r"ssdlite-1s.seed-0: .*unicorn"):
        learn.run(scenes, tmp_path, seconds=(1,), learners=("ssdlite",), peer_trunk="unicorn")


def test_one_split_is_not_enough(tmp_path):
    with pytest.raises(ConfigError, match="has no splits"):
        learn.run(write_scenes(tmp_path / "all", 2), tmp_path / "out")


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_prints_rows(scenes, tmp_path, inside, as_json):
    options = ["--out", str(tmp_path), "--seconds", "10,20", "--learners", "sppnet", "--seeds", "0,1"]
    code, printed, _ = inside("benchmark", "learn", str(scenes), *options, *(["--json"] if as_json else []))
    assert code == 0
    if as_json:
        assert [row["seconds"] for row in json.loads(printed)["rows"]] == [10, 20]
    else:
        assert "15.0 ± 7.1" in printed
        assert learn.PLOT in printed
