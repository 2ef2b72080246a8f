"""Nothing outlives a call: warning filters, environment, settings of torch and numba, seeds, signals."""

import locale
import os
import random
import signal
import warnings
from collections.abc import Callable, Iterator
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
from sppnet.geometry.grid import CellGrid


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
        "numpy": np.random.get_state(legacy=False)["state"]["pos"],  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "locale": locale.setlocale(locale.LC_ALL),
        "folder": os.getcwd(),
        "pixels": Image.MAX_IMAGE_PIXELS,
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
    weights = root / "trunk.pth"
    torch.save(sppnet.load_trunk("zf5", width=0.0625).body.state_dict(), weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        yield {"root": root, "weights": str(weights), "photo": next((root / "photos").rglob("*.jpg"))}


def train_classifier(made: dict[str, Any]) -> Any:
    config = sppnet.TrainingConfig(trunk="zf5", width=0.0625, sizes="64", epochs=1, device="cpu")
    return sppnet.train(made["root"] / "photos", made["root"] / "classifier", config).model


def train_detector(made: dict[str, Any]) -> Any:
    config = sppnet.DetectorConfig(
        trunk="zf5", stride=None, width=0.0625, weights=made["weights"], scales=(96,), finetune="none",
        device="cpu",
    )  # fmt: skip
    return sppnet.train_detector(made["root"] / "scenes", made["root"] / "detector", config).model


def use_models(made: dict[str, Any]) -> None:
    classifier = sppnet.Classifier.load(made["root"] / "classifier" / "best.safetensors")
    classifier(made["photo"])
    sppnet.evaluate(classifier, split_folder(made["root"] / "photos", seed=0)[1])
    sppnet.SPPFeatures(model=made["root"] / "classifier" / "best.safetensors").fit_transform([made["photo"]])
    detector = sppnet.Detector.load(made["root"] / "detector" / "detector.safetensors")
    detector(made["photo"])
    sppnet.evaluate_detector(detector, open_annotated(made["root"] / "scenes"))


def pool_and_differentiate(made: dict[str, Any]) -> None:
    features = torch.ones(1, 70, 9, 9).requires_grad_()
    sppnet.pyramid_pool(features, torch.tensor([[0, 0, 5, 5]])).sum().backward()
    sppnet.SpatialPyramidPooling(pooling="average")(features)


CALLS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "read_image": lambda made: sppnet.read_image(made["photo"]),
    "open_annotated": lambda made: len(sppnet.open_annotated(made["root"] / "scenes")),
    "pyramid_pool": pool_and_differentiate,
    "boxes_to_cells": lambda made: sppnet.boxes_to_cells(
        np.array([[0, 0, 9, 9.5]]), CellGrid(stride=4, center0=0, receptive_field=9), (5, 5)
    ),
    "load_trunk": lambda made: sppnet.load_trunk("zf5", width=0.0625, weights=made["weights"]),
    "selective_search": lambda made: sppnet.selective_search(made["photo"]),
    "train": train_classifier,
    "train_detector": train_detector,
    "the models": use_models,
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_everything_as_it_was(made, name):
    before = state()
    CALLS[name](made)
    after = state()
    assert {key: after[key] for key in before if after[key] != before[key]} == {}


def test_scikit_learn_works_after_an_image_was_read(made):
    sppnet.read_image(made["photo"])
    table, labels = np.random.default_rng(0).normal(size=(12, 3)), np.arange(12) % 2
    scores = cross_val_score(RandomForestClassifier(2, random_state=0, n_jobs=2), table, labels, cv=2)
    assert len(scores) == 2
