"""Nothing outlives a call: warning filters, environment, settings of torch and numba, seeds, signals."""

import contextlib
import locale
import logging
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

import sppnet
from sppnet import jit
from sppnet.data.detection_dataset import open_annotated
from sppnet.data.folder import split_folder
from sppnet.demo import generate, generate_scenes


def state() -> dict[str, Any]:
    """What a call must leave as it was."""
    kept = {
        "filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "environment": dict(os.environ),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "numba": jit.thread_count(),
        "dtype": torch.get_default_dtype(),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic, torch.get_float32_matmul_precision(),
        ),
        "random": random.getstate(),
        "numpy": repr(np.random.get_state(legacy=False)),  # noqa: NPY002
        "numpy errors": np.geterr(),
        "torch": torch.get_rng_state().tolist(),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "sockets": socket.getdefaulttimeout(),
        "logging": (logging.root.level, list(logging.root.handlers), logging.raiseExceptions),
        "hooks": (sys.excepthook, threading.excepthook, sys.stdout, sys.stderr, list(sys.path)),
        "locale": locale.setlocale(locale.LC_ALL),
        "folder": os.getcwd(),
        "pixels": Image.MAX_IMAGE_PIXELS,
        "start method": multiprocessing.get_start_method(allow_none=True),
        "umask": os.umask(0),
    }  # fmt: skip
    os.umask(kept["umask"])
    return kept


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Iterator[dict[str, Any]]:
    """Photographs, scenes, and what training on them left."""
    root = tmp_path_factory.mktemp("state")
    generate(root / "photos", images_per_class=3, seed=0)
    generate_scenes(root / "scenes", "train", count=6, seed=0)
    torch.optim.SGD([torch.zeros(1)])  # the first of a process loads what sets torch's own environment
    weights = root / "trunk.pth"
    torch.save(sppnet.load_trunk("zf5", width=0.0625).body.state_dict(), weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        yield {"root": root, "weights": str(weights), "photo": next((root / "photos").rglob("*.jpg"))}


def train_classifier(made: dict[str, Any]) -> Path:
    config = sppnet.TrainingConfig(trunk="zf5", width=0.0625, sizes="64", epochs=1, device="cpu")
    out = made["root"] / "classifier"
    if not out.exists():
        sppnet.train(made["root"] / "photos", out, config)
    return out / "best.safetensors"


def detector_config(made: dict[str, Any]) -> sppnet.DetectorConfig:
    return sppnet.DetectorConfig(
        trunk="zf5", stride=None, width=0.0625, weights=made["weights"], scales=(96,), finetune="none",
        device="cpu",
    )  # fmt: skip


def train_detector(made: dict[str, Any]) -> Path:
    out = made["root"] / "detector"
    if not out.exists():
        sppnet.train_detector(made["root"] / "scenes", out, detector_config(made))
    return out / "detector.safetensors"


def add_classes(made: dict[str, Any]) -> None:
    images = open_annotated(made["root"] / "scenes")
    first = sppnet.train_detector(
        images.of_classes(images.classes[:1]), made["root"] / "first", detector_config(made)
    )
    sppnet.add_classes(first.model, images, made["root"] / "added")


def classify(made: dict[str, Any]) -> Any:
    classifier = sppnet.Classifier.load(train_classifier(made))
    classifier.save(made["root"] / "copy.safetensors")
    return classifier(made["photo"])


def detect(made: dict[str, Any]) -> Any:
    return sppnet.Detector.load(train_detector(made))(made["photo"])


def evaluate(made: dict[str, Any]) -> None:
    classifier = sppnet.Classifier.load(train_classifier(made))
    page = made["root"] / "page.html"
    sppnet.evaluate(classifier, split_folder(made["root"] / "photos", seed=0)[1], report=page)


def evaluate_detector(made: dict[str, Any]) -> None:
    detector = sppnet.Detector.load(train_detector(made))
    page = made["root"] / "page.html"
    sppnet.evaluate_detector(detector, open_annotated(made["root"] / "scenes"), report=page)


def pool_and_differentiate(made: dict[str, Any]) -> None:
    features = torch.ones(1, 70, 9, 9).requires_grad_()
    sppnet.pyramid_pool(features, torch.tensor([[0, 0, 5, 5]])).sum().backward()


def pool_maps(made: dict[str, Any]) -> None:
    maps = sppnet.FeatureMaps.of_one_tap((36, 36), ((36, 36),), (torch.ones(70, 9, 9),), GRID)
    maps.pool(BOXES)


def start_warm(made: dict[str, Any]) -> None:
    network = sppnet.SPPNet(trunk(made), (1, 6), 2, hidden=4)
    sppnet.warm_start_fc6(network, torch.zeros(4, network.trunk.channels * 36), torch.zeros(4))


def trunk(made: dict[str, Any]) -> Any:
    return sppnet.load_trunk("zf5", width=0.0625, weights=made["weights"])


def wrap_network(made: dict[str, Any]) -> Any:
    body = trunk(made).body
    return sppnet.Trunk("mine", body, mean=(0, 0, 0), std=(1, 1, 1))(torch.zeros(1, 3, 64, 64))


GRID = sppnet.CellGrid(stride=4, center0=0, receptive_field=9)
BOXES = np.array([[0, 0, 9, 9.5]], np.float32)

CALLS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "Classifier": classify,
    "Prediction": lambda made: sppnet.Prediction(("a", "b"), (0.75, 0.25)).label,
    "TrainingConfig": lambda made: sppnet.TrainingConfig(epochs=1),
    "SPPFeatures": lambda made: sppnet.SPPFeatures(model=train_classifier(made)).fit_transform(
        [made["photo"]]
    ),
    "open_annotated": lambda made: len(sppnet.open_annotated(made["root"] / "scenes")),
    "read_image": lambda made: sppnet.read_image(made["photo"]),
    "DetectorConfig": lambda made: sppnet.DetectorConfig(scales=(96,)),
    "Detector": detect,
    "Ensemble": lambda made: sppnet.Ensemble((sppnet.Detector.load(train_detector(made)),))(made["photo"]),
    "SppnetError": lambda made: str(sppnet.SppnetError("caf\udce9")),
    "evaluate": evaluate,
    "evaluate_detector": evaluate_detector,
    "FeatureMaps": pool_maps,
    "CellGrid": lambda made: sppnet.CellGrid(stride=4, center0=0, receptive_field=9),
    "bin_edges": lambda made: sppnet.bin_edges(13, 6),
    "boxes_to_cells": lambda made: sppnet.boxes_to_cells(BOXES, GRID, (5, 5)),
    "keep_memory": lambda made: sppnet.keep_memory(),
    "SPPNet": lambda made: sppnet.SPPNet(trunk(made), (1, 2), 2, hidden=4).eval()(torch.zeros(1, 3, 64, 64)),
    "warm_start_fc6": start_warm,
    "SpatialPyramidPooling": lambda made: sppnet.SpatialPyramidPooling(pooling="average")(
        torch.ones(1, 2, 9, 9)
    ),
    "Trunk": wrap_network,
    "load_trunk": trunk,
    "pyramid_pool": pool_and_differentiate,
    "selective_search": lambda made: sppnet.selective_search(made["photo"]),
    "Detections": lambda made: sppnet.Detections(BOXES, [0.5], [0], ("a",)).names,
    "Proposals": lambda made: len(sppnet.Proposals(BOXES, np.ones(1, np.float32)).boxes),
    "train": train_classifier,
    "train_detector": train_detector,
    "add_classes": add_classes,
}
DRAWS_WEIGHTS = ("SPPNet", "warm_start_fc6")
"""Their layers are initialised as all of torch's are, from its global generator."""


def test_every_public_name_is_called():
    assert set(CALLS) == set(sppnet.__all__) - {"__version__"}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_everything_as_it_was(made, name):
    before = state()
    CALLS[name](made)
    after = state()
    changed = {key: after[key] for key in before if after[key] != before[key]}
    if name in DRAWS_WEIGHTS:
        assert changed.pop("torch")
    assert changed == {}


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "float64": double_precision,
    "another device": lambda: torch.device("meta"),
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.fixture(scope="module")
def plain(made):
    """Both models and what they say of a photograph, under torch's own settings."""
    return np.array(classify(made).scores), detect(made)


@pytest.mark.parametrize("name", SETTINGS)
def test_what_the_program_has_set_in_torch_changes_no_model(made, plain, name, tmp_path):
    scores, found = plain
    with SETTINGS[name]():
        own = {**made, "root": tmp_path}
        for folder in ("photos", "scenes"):
            (tmp_path / folder).symlink_to(made["root"] / folder)
        again, seen, vectors = classify(own), detect(own), CALLS["SPPFeatures"](own)
        joint = CALLS["Ensemble"](own)
    np.testing.assert_allclose(again.scores, scores, atol=1e-5)
    np.testing.assert_allclose(seen.boxes, found.boxes, atol=0.01)
    np.testing.assert_array_equal(joint.boxes, seen.boxes)
    assert vectors.dtype == np.float32


def test_scikit_learn_works_after_an_image_was_read(made):
    sppnet.read_image(made["photo"])
    table, labels = np.random.default_rng(0).normal(size=(12, 3)), np.arange(12) % 2
    scores = cross_val_score(RandomForestClassifier(2, random_state=0, n_jobs=2), table, labels, cv=2)
    assert len(scores) == 2
