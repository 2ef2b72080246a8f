"""Training, end to end on images made here: what a run leaves, repeats, resumes, refuses and survives."""

import csv
import json
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sppnet.classify.classifier import Classifier, Testing
from sppnet.classify.config import TrainingConfig
from sppnet.classify.evaluate import evaluate
from sppnet.classify.run_folder import NAMES as NAMES_ON_BOARD
from sppnet.classify.run_folder import Board
from sppnet.classify.sgd import Trainer
from sppnet.classify.train import train
from sppnet.data import loader
from sppnet.data.folder import open_folder
from sppnet.errors import ConfigError, DataError, ModelError, SppnetError
from sppnet.nn.trunks import load_trunk
from sppnet.progress import NullProgress

TINY = TrainingConfig(
    width=0.0625, hidden=16, sizes="64,48", scale_px=224, epochs=2, batch_size=6, learning_rate=0.02,
    workers=0, device="cpu",
)  # fmt: skip
"""ZF-5 with 8 to 24 channels, on inputs that make maps of 3×3 and 2×2 cells."""


@pytest.fixture(scope="module", autouse=True)
def few_threads():
    before = torch.get_num_threads()
    # torch splits sums among its threads, so their number is part of "the same run".
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- images --------------------------------------------------------------------------------------


def texture(name: str, seed: int) -> Image.Image:
    """Red rows, green columns or blue checks, on an image of any size."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(60, 110, 2))
    y, x = np.mgrid[:height, :width] // rng.integers(5, 9)
    wave = {"rows": y % 2, "columns": x % 2, "checks": (x + y) % 2}[name]
    colour = {"rows": (220, 60, 60), "columns": (60, 200, 60), "checks": (60, 60, 220)}[name]
    pixels = wave[:, :, None] * np.array(colour) + rng.integers(0, 30, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


NAMES = ("rows", "columns", "checks")


def make_images(root: Path, count: int, first_seed: int = 0, names=NAMES) -> Path:
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(count):
            texture(name, first_seed + 100 * number + i).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_images(root / "train", 5)
    make_images(root / "val", 3, 1000)
    return root


@pytest.fixture(scope="module")
def zf5_file(tmp_path_factory) -> Path:
    """Random weights of the narrow ZF-5, which keep colours apart."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "trunk.safetensors"
    save_file(load_trunk("zf5", width=TINY.width).body.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def norm_file(tmp_path_factory) -> Path:
    """Random weights of a trunk with batch-norm, whose statistics are not those of a new one."""
    torch.manual_seed(5)
    body = load_trunk("mobilenet_v3_small", stride=16).body
    for name, tensor in body.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("weights") / "trunk.safetensors"
    save_file(body.state_dict(), path)
    return path


def with_damage(data: Path, root: Path, *names: str) -> Path:
    """A copy of the images with half a file at every name."""
    for path in data.rglob("*.png"):
        copy = root / path.relative_to(data)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    whole = next(data.rglob("*.png")).read_bytes()
    for name in names:
        (root / name).write_bytes(whole[: len(whole) // 2])
    return root


def contents(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_run(left: Path, right: Path) -> None:
    """Bit-equal weights, and metrics that differ in nothing but the time."""
    for name in ("last.safetensors", "best.safetensors", "checkpoint.safetensors"):
        a, b = load_file(left / name), load_file(right / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name
    timeless = [[{**row, "seconds": None} for row in rows_of(run)] for run in (left, right)]
    assert timeless[0] == timeless[1]


# --- a run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "deep" / "run"
    result = train(data, out, replace(TINY, epochs=3))
    assert result.model == out / "best.safetensors"
    assert result.skipped == ()
    assert result.validation.images == 9
    return out


def test_a_run_leaves_its_files_and_no_others(run, data):
    assert sorted(path.name for path in run.iterdir()) == [
        "best.safetensors",
        "checkpoint.safetensors",
        "config.json",
        "last.safetensors",
        "metrics.csv",
        "tensorboard",
    ]
    described = json.loads((run / "config.json").read_text())
    assert described.pop("data") == str(data)
    assert TrainingConfig.from_json(described) == replace(TINY, epochs=3)


def test_metrics_tell_every_epoch_and_its_size(run):
    rows = rows_of(run)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["size"] for row in rows] == ["64", "48", "64"]
    assert [row["images"] for row in rows] == ["15"] * 3
    for row in rows:
        assert float(row["loss"]) > 0
        assert float(row["learning_rate"]) == 0.02
        assert 0 <= float(row["val_top1"]) <= float(row["val_top5"]) == 1


def test_tensorboard_shows_every_epoch(data, tmp_path):
    out = tmp_path / "run"
    train(data, out, replace(TINY, epochs=3))
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    for column, name in NAMES_ON_BOARD.items():
        shown = [(scalar.step, scalar.value) for scalar in events.Scalars(name)]
        assert shown == [(int(row["epoch"]), pytest.approx(float(row[column]))) for row in rows_of(out)]


def test_epochs_done_again_replace_those_on_the_board(tmp_path):
    row = dict.fromkeys(NAMES_ON_BOARD, 0.0)
    for value, done, epochs in ((0.25, 0, (1, 2, 3)), (0.5, 1, (2, 3, 4))):
        with Board(tmp_path, done) as board:
            for epoch in epochs:
                board.add({**row, "val_top1": value, "epoch": epoch})
    shown = EventAccumulator(str(tmp_path)).Reload().Scalars("accuracy/val_top1")
    assert [(scalar.step, scalar.value) for scalar in shown] == [(1, 0.25), (2, 0.5), (3, 0.5), (4, 0.5)]


def test_a_board_needs_no_thread_that_ctrl_c_could_leave_waiting(tmp_path):
    before = threading.active_count()
    with Board(tmp_path, 0) as board:
        board.add(dict.fromkeys(NAMES_ON_BOARD, 0.0) | {"epoch": 1})
        assert threading.active_count() == before


def test_a_run_without_tensorboard_has_its_other_files(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    train(data, tmp_path / "run", replace(TINY, epochs=1))
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert len(rows_of(tmp_path / "run")) == 1


def test_the_models_load_and_say_how_they_were_made(run):
    for name in ("best", "last"):
        classifier = Classifier.load(run / f"{name}.safetensors")
        assert classifier.classes == ("checks", "columns", "rows")
        assert classifier.testing == Testing("full", 224, 64, 64)
        assert classifier.training["config"]["sizes"] == "64,48"
        assert classifier.training["config"]["images"] == 15
    assert Classifier.load(run / "last.safetensors").training["config"]["epoch"] == 3
    best = max(rows_of(run), key=lambda row: float(row["val_top1"]))  # the first of the best
    chosen = Classifier.load(run / "best.safetensors").training["config"]["epoch"]
    assert chosen == int(best["epoch"])


def test_the_model_file_has_no_folder_names_in_it(run, data):
    assert str(data).encode() not in (run / "best.safetensors").read_bytes()


def test_metrics_are_those_of_the_last_model(run, data):
    last = Classifier.load(run / "last.safetensors")
    again = evaluate(last, open_folder(data, "val"), views="crop", size_px=64)
    assert again.top1 == pytest.approx(float(rows_of(run)[-1]["val_top1"]))


def test_every_image_is_decoded_once_however_many_epochs(data, tmp_path, monkeypatch):
    decoded = []
    decode = loader.read_image
    monkeypatch.setattr(loader, "read_image", lambda path: decoded.append(path) or decode(path))
    cache = loader.ImageCache(1 << 24)
    train(data, tmp_path / "run", replace(TINY, epochs=3, workers=0), cache=cache)
    assert sorted(decoded) == sorted(data.rglob("*.png"))
    train(data, tmp_path / "next", replace(TINY, epochs=1, workers=0), cache=cache)
    assert len(decoded) == len(cache) == 24


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_seed_gives_the_same_weights_with_any_number_of_workers(run, data, tmp_path, workers):
    train(data, tmp_path / "run", replace(TINY, epochs=3, workers=workers))
    assert_same_run(run, tmp_path / "run")


def test_another_seed_gives_other_weights(run, data, tmp_path):
    train(data, tmp_path / "run", replace(TINY, epochs=3, seed=1))
    a, b = load_file(run / "last.safetensors"), load_file(tmp_path / "run" / "last.safetensors")
    assert not any(torch.equal(a[key], b[key]) for key in a if key.endswith("weight"))


def test_it_learns(data, tmp_path):
    config = replace(
        TINY, width=0.125, hidden=64, sizes="48", epochs=6, batch_size=5, learning_rate=0.01, dropout=0.0,
        schedule="cosine",
    )  # fmt: skip
    train(data, tmp_path / "run", config)
    rows = rows_of(tmp_path / "run")
    assert float(rows[-1]["loss"]) < 0.3 * float(rows[0]["loss"])
    assert float(rows[-1]["val_top1"]) > 0.8  # a guess is right once in three


# --- stopping and going on -----------------------------------------------------------------------


class Interrupted(Exception):
    """What a person's Ctrl-C would raise."""


class StopIn(NullProgress):
    """Raises after the second batch of a stage."""

    def __init__(self, stage: str) -> None:
        self.stage, self.now, self.batches = stage, "", 0

    def begin(self, stage: str, total: int) -> None:
        self.now, self.batches = stage, 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.batches += 1
        if self.now.startswith(self.stage) and self.batches == 2:
            raise Interrupted


@pytest.mark.parametrize(
    ("config", "stops"),
    [
        pytest.param(replace(TINY, epochs=3), ["epoch 2"], id="plateau"),
        pytest.param(replace(TINY, epochs=3, schedule="cosine", workers=2), ["epoch 3"], id="cosine"),
        pytest.param(
            replace(TINY, epochs=5, patience=1, learning_rate=1e-9),
            ["epoch 3", "epoch 4"],
            id="twice, while the rate drops",
        ),
        pytest.param(replace(TINY, sizes="56", shape="full"), ["epoch 1", "epoch 2"], id="full images"),
    ],
)
def test_an_interrupted_run_resumes_to_the_weights_of_an_uninterrupted_one(data, tmp_path, config, stops):
    train(data, tmp_path / "whole", config)
    for stop in stops:
        with pytest.raises(Interrupted):
            train(data, tmp_path / "run", config, resume=True, progress=StopIn(stop))
        # A real restart begins with whatever state the process has.
        torch.manual_seed(99)
    result = train(data, tmp_path / "run", config, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert result.validation.images == 9
    if config.patience == 1:  # so that the drops, and the count towards them, were really met
        rates = [float(row["learning_rate"]) for row in rows_of(tmp_path / "run")]
        assert rates == pytest.approx([1e-9, 1e-9, 1e-10, 1e-11, 1e-11])


def test_a_finished_run_resumes_to_itself(run, data):
    before = contents(run)
    result = train(data, run, replace(TINY, epochs=3), resume=True)
    assert result.validation.images == 9
    assert contents(run) == before


def test_a_run_resumed_with_other_settings_is_refused_naming_them(run, data, tmp_path):
    config = replace(TINY, epochs=4, learning_rate=0.5)
    with pytest.raises(ConfigError, match=r"epochs was 3, learning_rate was 0\.02\. Resume with those"):
        train(data, run, config, resume=True)
    other = make_images(tmp_path / "other", 2)
    with pytest.raises(ConfigError, match="data was"):
        train(other, run, replace(TINY, epochs=3), resume=True)


def test_workers_may_change_when_a_run_is_resumed(data, tmp_path):
    config = replace(TINY, schedule="cosine")
    train(data, tmp_path / "whole", config)
    with pytest.raises(Interrupted):
        train(data, tmp_path / "run", config, progress=StopIn("epoch 2"))
    train(data, tmp_path / "run", replace(config, workers=3), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_folder_with_a_run_is_not_written_over(run, data):
    before = contents(run)
    with pytest.raises(ConfigError, match=r"holds a run already; resume it \(--resume\) or choose another"):
        train(data, run, TINY)
    assert contents(run) == before


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        pytest.param({"trunk": "zf6"}, ModelError, "did you mean zf5", id="a trunk there is not"),
        pytest.param({"weights": "no.pth"}, ModelError, "no weights file at", id="weights there are not"),
        pytest.param({"freeze_trunk": True}, ConfigError, "needs --weights", id="a frozen random trunk"),
        pytest.param(
            {"device": "abacus"}, ConfigError, "no device 'abacus' here", id="a device there is not"
        ),
        pytest.param({"levels": (0,)}, SppnetError, "levels must be", id="a level of 0"),
    ],
)
def test_a_run_that_cannot_begin_leaves_its_folder_free(data, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        train(data, tmp_path / "run", replace(TINY, **changes))
    assert not (tmp_path / "run").exists()


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "mlp"}, "head must be one of fc, svm; got 'mlp'"),
        ({"schedule": "step"}, "schedule must be one of plateau, cosine"),
        ({"shape": "round"}, "shape must be one of square, full"),
        ({"crop": "ten"}, "crop must be one of five, random"),
        ({"view": "96"}, "view must be one of crop, full, warp"),
        ({"epochs": 0}, "epochs must be above 0; got 0"),
        ({"batch_size": -1}, "batch_size must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"hidden": 0}, "hidden must be above 0"),
        ({"scale_px": 0}, "scale_px must be above 0"),
        ({"scale_px": 223}, "scale_px must be 224 or more, since .*; got 223"),
        ({"C": -1.0}, "C must be above 0"),
        ({"dropout": 1.0}, "dropout from 0 to below 1"),
        ({"momentum": -0.1}, "momentum, .* must be 0 or more"),
        ({"seed": -1}, "seed .* must be 0 or more"),
        ({"sizes": "big"}, "sizes are written"),
        ({"levels": None}, "trains at one size"),
        ({"levels": None, "sizes": "112", "shape": "full"}, "trains at one size"),
        ({"levels": None, "sizes": "112", "head": "svm"}, "takes no full images"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **changes)


def test_settings_of_another_version_are_told():
    described = {**TINY.to_json(), "colour": "red"}
    described.pop("seed")
    with pytest.raises(ConfigError, match="another version of sppnet; it differs in colour, seed"):
        TrainingConfig.from_json(described)


# --- kinds of training ---------------------------------------------------------------------------


def test_a_size_is_drawn_for_every_epoch(data, tmp_path):
    config = replace(TINY, sizes="40:64", epochs=4)
    train(data, tmp_path / "run", config)
    sizes = [int(row["size"]) for row in rows_of(tmp_path / "run")]
    assert sizes == [config.schedule_of_sizes().size(epoch) for epoch in range(4)]
    assert len(set(sizes)) > 1
    assert all(40 <= size <= 64 for size in sizes)


def test_whole_images_are_trained_on_in_their_own_shapes(data, tmp_path, monkeypatch):
    shapes = set()
    step = Trainer._step

    def seen(self, batch, count):
        shapes.add(tuple(batch.images.shape[2:]))
        assert len(batch) == count
        return step(self, batch, count)

    monkeypatch.setattr(Trainer, "_step", seen)
    train(data, tmp_path / "run", replace(TINY, shape="full", sizes="56", epochs=1))
    assert rows_of(tmp_path / "run")[0]["size"] == "56 (full)"
    assert {min(shape) for shape in shapes} == {56}  # 56 · 224 / 224
    assert len(shapes) > 5
    assert rows_of(tmp_path / "run")[0]["images"] == "15"


def test_the_fixed_size_baseline_is_trained_and_tested_on_crops(data, tmp_path):
    result = train(data, tmp_path / "run", replace(TINY, levels=None, sizes="112", epochs=1))
    classifier = Classifier.load(result.model)
    assert classifier.network.fixed
    assert classifier.testing == Testing("crop", 224, 112, 112)
    assert result.validation.images == 9


@pytest.mark.parametrize("view", ["full", "crop", "warp"])
def test_svms_on_a_frozen_trunk(data, tmp_path, zf5_file, view):
    scale_px = 224 if view == "crop" else 64
    config = replace(TINY, weights=str(zf5_file), head="svm", sizes="64", scale_px=scale_px, view=view)
    result = train(data, tmp_path / "run", config)
    classifier = Classifier.load(result.model)
    assert classifier.testing == Testing(view, config.scale_px, 64)
    assert classifier.training["config"]["C"] > 0
    assert classifier.training["config"]["weights"] == "trunk.safetensors"
    weights = load_file(zf5_file)
    body = classifier.network.trunk.body.state_dict()
    assert body.keys() == weights.keys()
    assert all(torch.equal(body[name], weights[name]) for name in weights)
    # Colours are enough to tell the training images apart, whatever the trunk's weights.
    assert evaluate(classifier, open_folder(data, "train")).top1 > 0.9


@pytest.mark.parametrize("freeze", [True, False], ids=["frozen", "free"])
def test_a_frozen_trunk_stays_as_it_was_with_its_statistics(data, tmp_path, norm_file, freeze):
    config = replace(
        TINY, trunk="mobilenet_v3_small", width=1.0, stride=16, weights=str(norm_file),
        freeze_trunk=freeze, levels=(1, 2), hidden=8, sizes="64", epochs=1,
    )  # fmt: skip
    train(data, tmp_path / "run", config)
    network = Classifier.load(tmp_path / "run" / "last.safetensors").network
    weights, body = load_file(norm_file), network.trunk.body.state_dict()
    equal = {name: torch.equal(body[name], weights[name]) for name in weights}
    statistics = [same for name, same in equal.items() if "running" in name]
    assert all(equal.values()) if freeze else not any(statistics)


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["square", "full"])
def test_damaged_images_are_left_out_and_named(data, tmp_path, monkeypatch, shape):
    damaged = with_damage(data, tmp_path / "data", "train/rows/1.png", "val/checks/0.png")
    counts = []
    step = Trainer._step
    monkeypatch.setattr(
        Trainer,
        "_step",
        lambda self, batch, count: (
            counts.append((0 if batch is None else len(batch), count)) or step(self, batch, count)
        ),
    )
    config = replace(TINY, shape=shape, sizes="56", batch_size=5 if shape == "square" else 2)
    config = replace(config, learning_rate=0.005)  # batches of 2 diverge at four times that
    result = train(damaged, tmp_path / "run", config)
    (reason,) = result.skipped  # once, though both epochs met it
    assert "train/rows/1.png cannot be read as an image" in reason
    (reason,) = result.validation.skipped
    assert "val/checks/0.png cannot be read" in reason
    assert [row["images"] for row in rows_of(tmp_path / "run")] == ["14", "14"]
    # The loss of a step is divided by its own images, whichever batch the damaged one was in.
    assert all(count - 1 <= images <= count for images, count in counts)
    assert sum(count - images for images, count in counts) <= 2


def test_a_batch_of_damaged_images_alone_shifts_nothing(data, tmp_path, monkeypatch):
    """Whole images: the damaged files have a size of their own, so nothing comes of their batch."""
    counts = []
    step = Trainer._step
    monkeypatch.setattr(
        Trainer,
        "_step",
        lambda self, batch, count: (
            counts.append((0 if batch is None else len(batch), count)) or step(self, batch, count)
        ),
    )
    root = tmp_path / "data"
    for name in NAMES:
        (root / name).mkdir(parents=True)
        for i in range(5):
            texture(name, i).resize((80, 60)).save(root / name / f"{i}.png")
    for i in range(3):
        (root / "rows" / f"broken{i}.png").write_bytes(b"no image")
    train(root, tmp_path / "run", replace(TINY, shape="full", sizes="56", epochs=6, batch_size=4))
    assert {count for _, count in counts} != {4}
    assert (0, 3) in counts
    assert all(images in (0, count) for images, count in counts)


def test_no_image_can_be_read(tmp_path):
    root = tmp_path / "data"
    for split in ("train", "val"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                (root / split / name / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 4 images to train on could be used"):
        train(root, tmp_path / "run", TINY)


def test_svms_of_no_image_that_can_be_read(tmp_path, zf5_file):
    root = tmp_path / "data"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(3):
            (root / name / f"{i}.png").write_bytes(b"no image")
    config = replace(TINY, weights=str(zf5_file), head="svm", sizes="64", scale_px=64, view="warp")
    with pytest.raises(SppnetError):
        train(root, tmp_path / "run", config)


def test_a_loss_that_is_not_finite_ends_the_run_with_advice(data, tmp_path):
    with pytest.raises(SppnetError, match=r"training diverged; lower --learning-rate \(now 1e\+30\)"):
        train(data, tmp_path / "run", replace(TINY, learning_rate=1e30))


def test_a_damaged_checkpoint_is_named(data, tmp_path):
    with pytest.raises(Interrupted):
        train(data, tmp_path / "run", TINY, progress=StopIn("epoch 2"))
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r"checkpoint\.safetensors is not a readable"):
        train(data, tmp_path / "run", TINY, resume=True)


# --- evaluation ----------------------------------------------------------------------------------


def test_a_part_of_the_classes_is_evaluated_with_the_models_numbers(run, data, tmp_path):
    classifier = Classifier.load(run / "last.safetensors")
    whole = evaluate(classifier, open_folder(data, "val"))
    for name in ("columns", "rows"):
        part = tmp_path / "part" / name
        part.parent.mkdir(exist_ok=True)
        part.symlink_to(data / "val" / name)
    result = evaluate(classifier, open_folder(tmp_path / "part"))
    assert result.images == 6
    assert result.per_class == {**whole.per_class, "checks": None}


def test_evaluation_agrees_with_one_prediction_after_the_other(run, data):
    classifier = Classifier.load(run / "last.safetensors")
    images = open_folder(data, "val")
    result = evaluate(classifier, images, views="crop", size_px=48)
    right = [
        classifier(path, views="crop", size_px=48).label == images.classes[label]
        for path, label in zip(images.paths, images.labels, strict=True)
    ]
    assert result.top1 == pytest.approx(sum(right) / 9)


def test_unknown_classes_are_named(run, tmp_path):
    other = make_images(tmp_path / "other", 1, names=("rows",))
    (other / "rows").rename(other / "waves")
    with pytest.raises(DataError, match="classes the model was not trained on: waves"):
        evaluate(Classifier.load(run / "last.safetensors"), open_folder(other))
