"""The command line from outside: what it prints where, how it exits, and a whole cycle of work."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sppnet.detect.config import DetectorConfig

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
_SMALL = "--width 0.0625 --hidden 16 --sizes 64,48 --scale 224 --batch-size 6 --learning-rate 0.02"
TINY = [*_SMALL.split(), "--workers", "0", "--device", "cpu"]


def sppnet(*arguments: object, timeout: int = 120) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, where warnings are errors."""
    command = [sys.executable, "-W", "error", "-m", "sppnet", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=timeout, env=ENVIRONMENT
    )


def draw(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(50, 90, 2))
    pixels = np.array(colour) + rng.integers(-40, 41, (height, width, 3))
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Red and blue noise; one of the red ones is half a file."""
    root = tmp_path_factory.mktemp("data")
    for number, (name, colour) in enumerate({"red": (200, 60, 60), "blue": (60, 60, 200)}.items()):
        for i in range(6):
            draw(root / "train" / name / f"{i}.png", colour, 10 * number + i)
        for i in range(3):
            draw(root / "val" / name / f"{i}.png", colour, 100 + 10 * number + i)
    whole = (root / "val/red/0.png").read_bytes()
    (root / "val/red/broken.png").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run folder, and what training printed."""
    out = tmp_path_factory.mktemp("runs") / "first"
    return out, sppnet("classify", "train", data, "--out", out, *TINY, "--epochs", 2)


# --- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["-h"],
        ["--version"],
        ["classify", "--help"],
        ["classify", "train", "--help"],
        ["classify", "evaluate", "--help"],
        ["classify", "predict", "-h"],
        ["check", "--help"],
        ["demo", "--help"],
        ["doctor", "--help"],
        ["benchmark", "pool", "--help"],
        ["classify", "train"],
    ],
    ids=" ".join,
)
def test_help_waits_for_nothing_heavy(arguments):
    code = (
        "import sys; from sppnet.cli import main\n"
        f"sys.argv = ['sppnet', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit as ended: code = ended.code\n"
        "heavy = {'torch', 'torchvision', 'numba', 'numpy', 'PIL', 'matplotlib'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy), 'CODE', code)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    expected = 2 if arguments == ["classify", "train"] else 0
    assert done.stdout.splitlines()[-1] == f"HEAVY [] CODE {expected}", done.stderr
    assert ("Traceback" in done.stderr) is False


def test_help_says_what_there_is(inside):
    code, printed, _ = inside("--help")
    assert code == 0
    for command in ("check", "classify", "demo", "doctor", "benchmark"):
        assert command in printed
    code, printed, _ = inside("classify", "train", "--help")
    for option in ("--trunk", "--levels", "--size-range", "--freeze-trunk", "--resume", "--seed", "--C"):
        assert option in printed


def test_version(inside):
    import sppnet as package

    assert inside("--version") == (0, f"sppnet {package.__version__}\n", "")


# --- wrong usage ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["clasify"], "Did you mean 'classify'?", id="a command misspelt"),
        pytest.param(["classify", "trian"], "Did you mean 'train'?", id="a command of a command misspelt"),
        pytest.param(["doctor", "--jsno"], "--json", id="an option misspelt"),
        pytest.param(["classify", "train", "x"], "--out", id="an option missing"),
        pytest.param(["classify", "predict", "--model", "m"], "images", id="an argument missing"),
        pytest.param(
            ["classify", "train", "x", "--out", "y", "--epochs", "many"], "'--epochs'", id="no number"
        ),
        pytest.param(
            ["classify", "predict", "x", "--model", "m", "--top", "0"], "'--top'", id="none of the best"
        ),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_to_use(inside, arguments, message):
    code, printed, told = inside(*arguments)
    assert code == 2
    assert message in told
    assert printed == ""


def test_no_command_shows_the_help(inside):
    code, printed, told = inside()
    assert code == 2
    assert "Commands:" in printed + told


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["check", "{tmp}/nowhere"], "nowhere does not exist", id="no folder to check"),
        pytest.param(
            ["classify", "train", "{tmp}", "--out", "{tmp}/run"], "should hold folders", id="no classes"
        ),
        pytest.param(
            ["classify", "train", "{data}", "--levels", "1,two"], '--levels .* got "1,two"', id="levels"
        ),
        pytest.param(["classify", "train", "{data}", "--levels", ""], '--levels .* got ""', id="no level"),
        pytest.param(["classify", "train", "{data}", "--levels", "0,1"], "levels must be", id="a level of 0"),
        pytest.param(
            ["classify", "train", "{data}", "--size", "64", "--sizes", "64,48"],
            "give one of --size",
            id="sizes",
        ),
        pytest.param(["classify", "train", "{data}", "--size", "0"], "at least 1 pixel", id="a size of 0"),
        pytest.param(["classify", "train", "{data}", "--dropout", "2"], "dropout from 0", id="dropout of 2"),
        pytest.param(
            ["classify", "train", "{data}", "--head", "mlp"], "head must be one of fc, svm", id="head"
        ),
        pytest.param(["classify", "train", "{data}", "--crop", "ten"], "crop must be one of", id="crop"),
        pytest.param(["classify", "train", "{data}", "--trunk", "zf55"], "did you mean zf5", id="a trunk"),
        pytest.param(["classify", "train", "{data}", "--weights", "no.pth"], "no weights file", id="weights"),
        pytest.param(
            ["classify", "train", "{data}", "--device", "abacus"], "no device 'abacus'", id="a device"
        ),
        pytest.param(
            ["classify", "evaluate", "{data}", "--model", "{tmp}/no"], "no model file at", id="no model"
        ),
        pytest.param(
            ["classify", "evaluate", "{data}", "--model", "{image}"], "not a readable", id="no model file"
        ),
        pytest.param(
            ["classify", "predict", "{image}", "--model", "{tmp}/no"], "no model file at", id="neither"
        ),
        pytest.param(
            ["benchmark", "pool", "--boxes", "{image}"], "does not hold boxes", id="boxes that are an image"
        ),
    ],
)
def test_errors_are_one_line_without_a_traceback(inside, data, tmp_path, arguments, message):
    names = {"tmp": tmp_path, "data": data, "image": data / "val/red/0.png"}
    arguments = [argument.format(**names) for argument in arguments]
    if arguments[:2] == ["classify", "train"] and "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "run")]
    code, printed, told = inside(*arguments)
    assert code == 1
    assert printed == ""
    lines = told.splitlines()
    assert lines[-1].startswith("sppnet: ")
    assert "Traceback" not in told
    assert len([line for line in lines if not line.startswith("reading: ")]) == 1
    assert re.search(message, lines[-1]), lines[-1]
    assert not (tmp_path / "run").exists()


def test_an_error_from_outside(tmp_path):
    done = sppnet("check", tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == f"sppnet: {tmp_path / 'nowhere'} does not exist; check the path"
    assert "Traceback" not in done.stderr


# --- check and doctor ----------------------------------------------------------------------------


def test_check_names_the_damaged_file_and_exits_with_1(inside, data):
    code, printed, _ = inside("check", data)
    assert code == 1
    (line,) = [line for line in printed.splitlines() if line.startswith("damaged: ")]
    assert "val/red/broken.png" in line
    assert "train: 12 in 2 classes" in printed
    code, printed, _ = inside("check", data, "--json")
    assert code == 1
    report = json.loads(printed)
    assert [item["path"] for item in report["damaged"]] == ["val/red/broken.png"]


def test_check_of_sound_images_exits_with_0(inside, data):
    code, printed, _ = inside("check", data / "train")
    assert code == 0
    assert printed.splitlines()[-1] == "0 damaged, 0 duplicated"


def test_doctor(inside):
    code, printed, told = inside("doctor", "--json")
    assert (code, told) == (0, "")
    report = json.loads(printed)
    assert set(report) == {"versions", "devices", "engines", "kernels", "images", "training"}
    assert report["versions"]["torch"] == metadata.version("torch")
    assert report["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "cpu" in report["devices"]
    assert all(": " in reason for reason in report["kernels"].values())
    assert report["kernels"]["compiled"].startswith("yes: kept in /")
    assert report["engines"]["cpu"].startswith("onnx")
    assert "AVIF" in report["images"]["read"]
    assert report["training"]["trunk"].startswith(DetectorConfig().trunk)
    code, printed, _ = inside("doctor")
    assert code == 0
    assert "numba" in printed


# --- a cycle of work -----------------------------------------------------------------------------


def test_train(trained, data):
    out, done = trained
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out / 'best.safetensors'}\n"  # for the next command of a pipe
    assert "Traceback" not in done.stderr
    assert "epoch 2/2 at 48: 2/2 loss" in done.stderr
    assert "of 6 images; 1 could not be read" in done.stderr
    with (out / "metrics.csv").open(newline="") as file:
        assert [row["size"] for row in csv.DictReader(file)] == ["64", "48"]


@pytest.fixture
def model(trained) -> Path:
    return trained[0] / "best.safetensors"


def test_evaluate_as_json(inside, model, data):
    code, printed, _ = inside("classify", "evaluate", data, "--model", model, "--json")
    assert code == 0
    result = json.loads(printed)
    assert {"top1", "top5", "images", "skipped", "per_class"} <= set(result)
    assert result["images"] == 6
    assert set(result["per_class"]) == {"red", "blue"}
    assert sum(result["per_class"].values()) / 2 == pytest.approx(result["top1"])
    (skipped,) = result["skipped"]
    assert "broken.png cannot be read as an image" in skipped


@pytest.mark.parametrize("views", ["crop", "full", "warp", "10"])
def test_evaluate_as_a_table(inside, model, data, views):
    code, printed, _ = inside(
        "classify", "evaluate", data, "--model", model, "--views", views, "--scale", 224, "--size", 64
    )
    assert code == 0
    assert "of 6 images; 1 could not be read" in printed
    assert [line.split()[0] for line in printed.splitlines()[2:] if line.strip()] == ["blue", "red"]


def test_evaluate_at_several_scales(inside, model, data):
    code, printed, _ = inside("classify", "evaluate", data, "--model", model, "--scale", "64,48", "--json")
    assert (code, json.loads(printed)["images"]) == (0, 6)
    code, _, said = inside("classify", "evaluate", data, "--model", model, "--scale", "64;48")
    assert code != 0
    assert "--scale must be a whole number, or several: 288,224" in said
    options = ["--views", "crop", "--scale", "256,224"]
    code, _, said = inside("classify", "evaluate", data, "--model", model, *options)
    assert code != 0
    assert "several scales are for whole images" in said


def test_evaluate_of_another_split(inside, model, data):
    code, printed, _ = inside("classify", "evaluate", data, "--model", model, "--split", "train", "--json")
    assert code == 0
    assert json.loads(printed)["images"] == 12


def test_predict_goes_on_past_a_damaged_file_and_exits_with_1(model, data):
    done = sppnet("classify", "predict", data / "val", "--model", model, "--top", 2, "--json")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert len(result["predictions"]) == 6
    for item in result["predictions"]:
        assert Path(item["image"]).is_file()
        assert {top["label"] for top in item["top"]} == {"red", "blue"}
        assert item["label"] == item["top"][0]["label"]
        assert item["score"] == item["top"][0]["score"] >= item["top"][1]["score"]
        assert sum(top["score"] for top in item["top"]) == pytest.approx(1, abs=1e-5)
    (skipped,) = result["skipped"]
    assert "broken.png" in skipped
    assert f"left out: {skipped}" in done.stderr
    assert "Traceback" not in done.stderr


def test_predict_into_a_table(inside, model, data, tmp_path):
    table = tmp_path / "found.csv"
    code, printed, _ = inside(
        "classify", "predict", data / "val", "--model", model, "--csv", table, "--top", 2, "--scale", 64
    )
    assert (code, printed) == (1, "")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert [row["rank"] for row in rows] == ["1", "2"] * 6
    assert not any("broken" in row["image"] for row in rows)


def test_predict_in_lines(inside, model, data):
    path = data / "val/red/0.png"
    code, printed, _ = inside("classify", "predict", path, path, "--model", model)
    assert code == 0
    (line,) = printed.splitlines()  # named twice, predicted once
    assert line.startswith(f"{path}  ")
    assert line.split()[1] in ("red", "blue")


def test_a_folder_with_a_run_is_refused(inside, trained, data):
    code, printed, told = inside("classify", "train", data, "--out", trained[0], *TINY)
    assert (code, printed) == (1, "")
    assert "holds a run already; resume it (--resume)" in told


def test_ctrl_c_exits_with_130_and_the_run_resumes(inside, data, tmp_path):
    out = tmp_path / "run"
    options = ["classify", "train", data, "--out", out, *TINY, "--epochs", 6]
    process = subprocess.Popen(
        [sys.executable, "-m", "sppnet", *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    waited_until = time.monotonic() + 100
    while not (out / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < waited_until
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    printed, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert printed == ""
    assert "Traceback" not in told
    with (out / "metrics.csv").open(newline="") as file:
        done = len(list(csv.DictReader(file)))
    assert 1 <= done < 6
    code, printed, told = inside(*options, "--resume")
    assert (code, printed) == (0, f"{out / 'best.safetensors'}\n")
    assert f"epoch {done + 1}/6" in told
    assert f"epoch {done}/6" not in told
    with (out / "metrics.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == [str(epoch) for epoch in range(1, 7)]
