"""The same bits again: on one thread and two, and from one training to the next."""

import functools
import os
import subprocess
import sys
import textwrap

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sppnet.classify.classifier import Classifier
from sppnet.classify.config import TrainingConfig
from sppnet.classify.train import train
from sppnet.demo import generate, generate_scenes
from sppnet.detect.config import DetectorConfig
from sppnet.detect.train import train_detector
from sppnet.nn.trunks import load_trunk

# --- threads ---------------------------------------------------------------------------------------

PROGRAM = textwrap.dedent("""
    import hashlib, sys, numba, numpy as np, torch
    from sppnet.ops.nms import nms
    from sppnet.heads.ridge import fit_boxes
    from sppnet.svm.linear_svm import fit_svm
    from sppnet.nn.network import SPPNet
    from sppnet.nn.trunks import load_trunk
    from sppnet.ops.pooling import pyramid_pool
    from sppnet.proposals.selective_search.search import selective_search

    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(200, 300)).astype(np.float32), np.arange(200) % 5
    low = rng.uniform(0, 90, (200, 2))
    boxes = np.hstack([low, low + rng.uniform(5, 40, (200, 2))]).astype(np.float32)
    scores = rng.integers(0, 9, 200).astype(np.float32)
    image = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8).repeat(2, 0).repeat(2, 1)
    features = torch.from_numpy(rng.normal(size=(2, 40, 20, 24)).astype(np.float32))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        numba.set_num_threads(threads)
        leaf = features.clone().requires_grad_()
        pooled = pyramid_pool(leaf)
        pooled.square().sum().backward()
        regressor = fit_boxes(vectors, boxes, boxes + 1, labels, list("abcde"))
        results = {
            "operator": pooled.detach().numpy(), "gradient": leaf.grad.numpy(),
            "svm": fit_svm(vectors, labels).weight.numpy(), "ridge": regressor.weight.numpy(),
            "nms": nms(boxes, scores, 0.3, 100), "search": selective_search(image),
        }
        for name, array in results.items():
            print(threads, name, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest())
""")


def test_results_are_the_same_bits_on_one_thread_and_two():
    env = {**os.environ, "NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, env=env, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    one, two = ({name: digest for count, name, digest in rows if count == number} for number in "12")
    assert len(one) == 6
    assert one == two


# --- training, deterministic -------------------------------------------------------------------------


@pytest.fixture
def deterministic():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    home = tmp_path_factory.mktemp("data")
    generate(home / "photos", images_per_class=4, seed=0)
    generate_scenes(home / "scenes", "train", count=6, seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(load_trunk("zf5", width=0.0625).body.state_dict(), home / "trunk.pth")
    return home


@functools.cache
def image() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_classifier_trains_and_predicts_deterministically(deterministic, data, tmp_path, workers):
    config = TrainingConfig(
        width=0.0625,
        hidden=8,
        sizes="48,32",
        scale_px=224,
        epochs=2,
        batch_size=6,
        device="cpu",
        workers=workers,
    )
    runs = [train(data / "photos", tmp_path / name, config) for name in "ab"]
    first, second = (run.model.read_bytes() for run in runs)
    assert first == second
    classifier = Classifier.load(runs[0].model)
    assert torch.equal(classifier.scores(image()), classifier.scores(image()))


@pytest.mark.parametrize("finetune", ["none", "fc", "all"])
def test_a_detector_trains_and_predicts_deterministically(
    deterministic, data, tmp_path, finetune, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = DetectorConfig(
        trunk="zf5", width=0.0625, weights=str(data / "trunk.pth"), scales=(96,), max_proposals=40,
        rounds=1, hidden=8, steps=3, trunk_steps=2, finetune=finetune, device="cpu",
    )  # fmt: skip
    trained = [train_detector(data / "scenes", tmp_path / name, config).detector for name in "ab"]
    found = [detector(image(), min_score=-10.0) for detector in trained]
    assert np.array_equal(found[0].boxes, found[1].boxes)
    assert np.array_equal(found[0].scores, found[1].scores)
