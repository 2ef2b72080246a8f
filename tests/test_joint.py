"""Joint training: samples, loss, gradients, resuming, and that it never makes a detector worse."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sppnet.data.detection_dataset import open_annotated
from sppnet.detect.box_regression import learn_boxes
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.detect.joint import training
from sppnet.detect.joint.held_out import HeldOut
from sppnet.detect.joint.network import MARGIN_LOGIT, JointNetwork
from sppnet.detect.label_assignment import TrainingImages, split_boxes
from sppnet.detect.run_folder import DetectorRun
from sppnet.detect.train import train_detector
from sppnet.features.cache import MapCache, recipe_of
from sppnet.features.detector_extractor import make_extractor
from sppnet.nn.fusion import fuse_conv_bn, unfuse_conv_bn
from sppnet.progress import NullProgress
from test_detect_train import assert_same_tensors, draw_scene, keep_each_stage, write_scenes, write_weights

IMAGES, STEPS = 16, 4


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), IMAGES)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> DetectorConfig:
    weights = write_weights(tmp_path_factory.mktemp("weights"))
    return DetectorConfig(
        trunk="squeezenet1_1:6", stride=None, weights=str(weights), scales=(96,), levels=(1, 2),
        max_proposals=80, mirror=False, rounds=1, method="faster", joint_steps=STEPS, joint_size=96,
        device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def frozen(data, config, cache, tmp_path_factory):
    plain = replace(config, method="spp", joint_steps=None)
    return train_detector(data, tmp_path_factory.mktemp("runs") / "frozen", plain, cache=cache)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """The folder of the run `joint` as it was after each of its stages, by their number."""
    return tmp_path_factory.mktemp("stopped")


@pytest.fixture(scope="module")
def joint(data, config, cache, stopped, tmp_path_factory):
    """A joint training that held-out photographs are made to prefer."""
    with pytest.MonkeyPatch.context() as patch:
        prefer(patch, joint=True)
        patch.setattr(training, "SAVE_EVERY", 2)
        keep_each_stage(patch, stopped)
        return train_detector(data, tmp_path_factory.mktemp("runs") / "joint", config, cache=cache)


def prefer(patch, joint: bool) -> None:
    """Let the held-out photographs prefer one of the two that they judge: the frozen solution comes first."""
    judged = iter((0.5, 0.6 if joint else 0.5))
    patch.setattr(HeldOut, "measure_map", lambda self, progress: next(judged))


# --- gradients ----------------------------------------------------------------------------------


def trainer_of(joint, config, data, cache, method="faster"):
    """A trainer as the stage makes it, before its first step."""
    start = joint_start(joint, config, data, cache, method)
    stage = training.JointTraining(start, None, lambda *_: None, None, NullProgress())
    return stage._trainer(STEPS)


def joint_start(frozen, config, data, cache, method):
    parts = replace(frozen.detector.parts, config=replace(config, method=method))
    extractor = make_extractor(parts.trunk, config.scales)
    photos = TrainingImages(open_annotated(data), extractor, MapCache(recipe_of(extractor), cache), False)
    stored = DetectorRun(frozen.model.parent).load_stage("proposals")[1]
    proposals = split_boxes(stored["boxes"].numpy(), stored["counts"].numpy())
    held_out = np.arange(4)
    return training.JointStart(parts, (parts.svm,), parts.regressor, held_out, photos, proposals)


def test_gradients_reach_the_trunk_through_the_pooled_pyramid(frozen, config, data, cache):
    trainer = trainer_of(frozen, config, data, cache)
    trainer.network.double()
    batch = trainer.draw(0)
    batch = replace(batch, images=batch.images.double())
    trainer.loss(batch, 0).total.backward()
    checked = 0
    for name, one in list(trainer.learned.items())[::3]:
        place = np.unravel_index(int(one.grad.abs().reshape(-1).argmax()), one.shape)
        before, step, values = one[place].item(), 1e-6, []
        for sign in (1, -1):
            with torch.no_grad():
                one[place] = before + sign * step
            values.append(trainer.loss(batch, 0).total.item())
        with torch.no_grad():
            one[place] = before
        slope = (values[0] - values[1]) / (2 * step)
        assert abs(slope - one.grad[place].item()) < 1e-4 * max(1, abs(slope)), name
        checked += name.startswith("body.") and abs(slope) > 1e-3
    assert checked


def test_the_proposal_head_of_fast_does_not_teach_the_trunk(frozen, config, data, cache):
    fast, faster = (trainer_of(frozen, config, data, cache, method) for method in ("fast", "faster"))
    batch = fast.draw(0)
    losses = [one.loss(batch, 0) for one in (fast, faster)]
    assert losses[0].total.item() == losses[1].total.item()
    for one, loss in zip((fast, faster), losses, strict=True):
        loss.proposals.backward()
        reached = any(p.grad is not None for n, p in one.learned.items() if n.startswith("body."))
        assert reached == (one is faster)
        assert one.network.windows.first.weight.grad.abs().max() > 0


def test_a_trunk_that_learned_with_folded_norms_has_them_again():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
    tail = nn.Sequential(nn.Conv2d(4, 5, 1, bias=False), nn.BatchNorm2d(5, affine=False), nn.Conv2d(5, 2, 1))
    body = nn.Sequential(plain, tail)
    for _ in range(3):
        body(torch.randn(8, 3, 9, 9) * 3 + 1)  # statistics
    fused, images = fuse_conv_bn(body), torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(unfuse_conv_bn(fused, body)(images), body.eval()(images), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for one in fused.parameters():
            one.add_(torch.randn_like(one))
    again = unfuse_conv_bn(fused, body)
    assert again.state_dict().keys() == body.state_dict().keys()
    torch.testing.assert_close(again(images), fused(images), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(again(images), body(images), atol=0.1)


# --- the network ---------------------------------------------------------------------------------


def test_the_network_begins_as_the_frozen_solution_and_becomes_components_again(frozen):
    parts = frozen.detector.parts
    network = JointNetwork(parts, 0.05)
    vectors = torch.rand(9, parts.svm.weight.shape[1])
    logits = network.class_logits(vectors)
    scores = parts.svm.scores(vectors)
    torch.testing.assert_close(logits[:, :-1].detach(), MARGIN_LOGIT * scores, rtol=1e-4, atol=1e-4)
    assert (logits[:, -1] == 0).all()
    labels = torch.tensor([0, 1, 0, 1, 1, 0, 0, 0, 1])
    deltas = network.box_deltas(vectors, labels).detach() * network.units
    expected = parts.regressor.deltas(vectors, labels.numpy())
    np.testing.assert_allclose(deltas.numpy(), expected, rtol=1e-3, atol=1e-4)
    again = Detector(network.components((96,)))
    pixels, _ = draw_scene(300)
    own, found = frozen.detector(pixels, min_score=-1.5), again(pixels, min_score=-1.5)
    assert len(own) == len(found) > 0
    np.testing.assert_allclose(found.boxes, own.boxes, atol=0.05)
    np.testing.assert_allclose(found.scores, own.scores, atol=1e-3)


def test_the_judged_box_regression_has_not_seen_the_photographs_held_out(frozen, config, data, cache):
    start = joint_start(frozen, config, data, cache, "faster")
    roi_extractor, rest = frozen.detector.roi_extractor, list(range(4, IMAGES))
    common = roi_extractor, config, NullProgress()
    whole, judged = learn_boxes(start.photos, start.proposals, *common, start.held_out)
    few = start.photos.take(rest)
    alone, _ = learn_boxes(few, [start.proposals[index] for index in rest], *common)
    assert torch.equal(judged.weight, alone.weight)
    assert not torch.equal(judged.weight, whole.weight)
    assert torch.equal(whole.weight, frozen.detector.parts.regressor.weight)


# --- the stage -----------------------------------------------------------------------------------


def test_the_model_is_the_jointly_trained_one(joint, frozen):
    before, after = load_file(frozen.model), load_file(joint.model)
    assert after.keys() == before.keys()
    for name in ("svm.weight", "regressor.weight", "refiner.weight", "windows.first.weight"):
        assert not torch.equal(before[name], after[name]), name
    assert any(not torch.equal(before[name], after[name]) for name in after if name.startswith("trunk."))
    record = DetectorRun(joint.model.parent).load_stage("joint")[0]
    assert (record["steps"], record["done"], record["frozen_map"]) == (STEPS, STEPS, 0.5)
    pixels, _ = draw_scene(200)
    loaded, own = Detector.load(joint.model)(pixels), joint.detector(pixels)
    np.testing.assert_array_equal(loaded.boxes, own.boxes)
    np.testing.assert_array_equal(loaded.scores, own.scores)


@pytest.mark.parametrize("ended", [0, 1, 2])
def test_a_joint_training_resumes_to_the_same_bits(
    joint, stopped, data, config, cache, tmp_path, monkeypatch, ended
):
    states = sorted(
        folder for folder in stopped.iterdir() if (folder / "stages/joint so far.safetensors").exists()
    )
    assert len(states) == 3  # before the first of four steps, after two, and when the stage was stored
    shutil.copytree(states[ended], tmp_path / "run")
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    prefer(monkeypatch, joint=True)
    again = train_detector(data, tmp_path / "run", config, resume=True, cache=cache)
    assert_same_tensors(joint.model, again.model)
    assert not (tmp_path / "run/stages/joint so far.safetensors").exists()


def test_a_joint_training_that_ended_is_read_again(joint, stopped, data, config, cache, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copytree(joint.model.parent, tmp_path / "run", dirs_exist_ok=True)
    (tmp_path / "run/detector.safetensors").unlink()
    again = train_detector(data, tmp_path / "run", config, resume=True, cache=cache)
    assert_same_tensors(joint.model, again.model)


def test_the_frozen_solution_stays_where_joint_training_is_no_better(
    frozen, data, config, cache, tmp_path, monkeypatch, caplog
):
    prefer(monkeypatch, joint=False)
    result = train_detector(data, tmp_path / "run", config, cache=cache)
    assert_same_tensors(frozen.model, result.model)
    assert "joint training did not help" in caplog.text
    record, tensors = DetectorRun(tmp_path / "run").load_stage("joint")
    assert not record["kept"]
    assert not torch.equal(tensors["svm.weight"], load_file(frozen.model)["svm.weight"])  # to look at
    (tmp_path / "run/detector.safetensors").unlink()
    again = train_detector(data, tmp_path / "run", config, resume=True, cache=cache)
    assert_same_tensors(frozen.model, again.model)


def test_ctrl_c_ends_with_what_is_learned(data, config, cache, tmp_path, monkeypatch, caplog):
    prefer(monkeypatch, joint=True)
    run = training.JointTrainer.run

    def interrupted(self):
        for number, loss in enumerate(run(self)):
            if number == 2:
                raise KeyboardInterrupt
            yield loss

    monkeypatch.setattr(training.JointTrainer, "run", interrupted)
    result = train_detector(data, tmp_path / "run", config, cache=cache)
    record = DetectorRun(tmp_path / "run").load_stage("joint")[0]
    assert record["steps"] == STEPS > record["done"] > 0
    assert result.model.exists()


def test_too_few_photographs_to_judge_by_leave_the_frozen_solution(data, config, cache, tmp_path, caplog):
    few = open_annotated(data).take(range(9))
    plain = train_detector(few, tmp_path / "plain", replace(config, method="spp"), cache=cache)
    result = train_detector(few, tmp_path / "run", config, cache=cache)
    assert_same_tensors(plain.model, result.model)
    assert "too few photographs" in caplog.text


def test_no_time_leaves_the_frozen_solution(frozen, data, config, cache, tmp_path, caplog):
    hurried = replace(config, joint_steps=None, time="0.01s")
    with caplog.at_level("INFO", "sppnet"):
        result = train_detector(data, tmp_path / "run", hurried, cache=cache)
    assert_same_tensors(frozen.model, result.model)
    assert "no time is left" in caplog.text
