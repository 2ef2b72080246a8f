"""The commands of `sppnet detect`, from training on coloured rectangles to drawings of what is found."""

import csv
import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sppnet.cli.app import main
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.detect.joint import held_out
from sppnet.nn.trunks import load_trunk

COLOURS = {"blue": (40, 60, 210), "red": (210, 50, 40)}
SMALL = "--trunk zf5 --width 0.0625 --scales 160 --max-proposals 100 --finetune none --C 0.01"


def draw_scenes(root: Path, split: str, count: int, seed: int) -> None:
    """COCO: a red and a blue rectangle on grey, in two corners of each image."""
    rng = np.random.default_rng(seed)
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, marks = [], []
    for index in range(count):
        pixels = rng.integers(110, 140, (128, 160, 3)).astype(np.uint8)
        corners = rng.permutation([(0, 0), (80, 0), (0, 64), (80, 64)])
        for label, colour in enumerate(COLOURS.values()):
            width, height = rng.integers(36, 60, 2).tolist()
            x, y = (corners[label] + rng.integers(0, 5, 2)).tolist()
            pixels[y : y + height, x : x + width] = colour
            marks.append((index, label, [x, y, width, height]))
        Image.fromarray(pixels).save(root / split / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "width": 160, "height": 128})
    table = {
        "images": images,
        "annotations": [
            {"id": number, "image_id": image, "category_id": label, "bbox": box, "iscrowd": 0}
            for number, (image, label, box) in enumerate(marks, 1)
        ],
        "categories": [{"id": label, "name": name} for label, name in enumerate(COLOURS)],
    }
    (root / "annotations" / f"{split}.json").write_text(json.dumps(table))


def cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Twelve images to train on and five to test on, one of each half a file."""
    root = tmp_path_factory.mktemp("data")
    draw_scenes(root, "train", 12, 0)
    draw_scenes(root, "test", 5, 1)
    cut(root / "train" / "3.png")
    cut(root / "test" / "4.png")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "trunk.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(load_trunk("zf5", width=0.0625).body.state_dict(), path)
    return path


Ended = tuple[int, str, str]


@pytest.fixture(scope="module")
def command():
    """The command in this process: code, stdout, stderr."""

    def call(*arguments: object) -> Ended:
        out, told = io.StringIO(), io.StringIO()
        code: object = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["sppnet", *map(str, arguments)])
            with redirect_stdout(out), redirect_stderr(told):
                try:
                    main()
                except SystemExit as ended:
                    code = ended.code or 0
        if isinstance(code, str):  # Python prints it to stderr and exits with 1
            return 1, out.getvalue(), f"{told.getvalue()}{code}\n"
        return int(code), out.getvalue(), told.getvalue()

    return call


@pytest.fixture(scope="module")
def trained(command, data, weights, tmp_path_factory) -> tuple[Path, Ended]:
    """A run folder, and how training ended."""
    base = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(base / "cache"))
        arguments = ["--out", base / "run", "--weights", weights, "--device", "cpu", *SMALL.split()]
        return base / "run", command("detect", "train", data, *arguments)


@pytest.fixture
def model(trained) -> Path:
    return trained[0] / "detector.safetensors"


# --- train ---------------------------------------------------------------------------------------


def test_train_prints_the_model_and_tells_the_time_of_each_stage(trained):
    out, (code, printed, told) = trained
    assert (code, printed) == (0, f"{out / 'detector.safetensors'}\n"), told
    assert re.search(r"left out: .*3\.png", told)
    assert "trained on 11 images" in told
    times = re.findall(r"^(\w[\w ]*?) +(\d+\.\d) s$", told, re.MULTILINE)
    assert [stage for stage, _ in times] == [*json.loads((out / "times.json").read_text()), "in all"]
    assert float(times[-1][1]) == pytest.approx(sum(float(spent) for _, spent in times[:-1]), abs=0.11)


def test_a_time_and_steps_ask_for_joint_training(command, trained, data, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(trained[0].parent / "cache"))
    monkeypatch.setattr(held_out, "MIN_IMAGES", 1)
    arguments = ["detect", "train", data, "--weights", weights, "--device", "cpu", *SMALL.split()]
    asked = ["--joint-steps", "2", "--joint-size", "160"]
    code, printed, told = command(*arguments, *asked, "--out", tmp_path / "joint")
    assert (code, printed) == (0, f"{tmp_path / 'joint' / 'detector.safetensors'}\n"), told
    assert re.search(r"joint training: mAP [\d.]+%, frozen [\d.]+% on \d photographs held out", told)
    config = Detector.load(tmp_path / "joint" / "detector.safetensors").config
    assert (config.method, config.joint_steps, config.joint_size) == ("faster", 2, 160)
    code, _, told = command(*arguments, "--time", "soon", "--out", tmp_path / "other")
    assert code == 1
    assert "90s, 10m or 1h" in told


def test_other_proposals_take_the_place_of_the_learned_ones(command, model, data, tmp_path):
    image = data / "test" / "0.png"
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"0.png": [[5, 5, 60, 60]]}))
    asked = ["--model", model, "--min-score", "-100", "--json"]
    code, printed, told = command("detect", "predict", image, *asked, "--proposals", boxes)
    assert code == 0, told
    (found,) = json.loads(printed)["predictions"]
    assert 1 <= len(found["detections"]) <= 2  # one box, two classes
    code, _, told = command("detect", "predict", image, *asked, "--proposals", tmp_path / "none.json")
    assert code == 1
    assert "none.json does not exist" in told


def test_options_reach_the_model(model, weights):
    config = Detector.load(model).config
    asked = DetectorConfig(
        trunk="zf5",
        width=0.0625,
        scales=(160,),
        max_proposals=100,
        finetune="none",
        C=0.01,
        weights=weights.name,
        device="auto",
    )
    assert config == asked


def test_a_finished_run_resumes_to_the_same_model(command, trained, data, weights):
    out, _ = trained
    before = Detector.load(out / "detector.safetensors").parts
    arguments = ["detect", "train", data, "--out", out, "--weights", weights, *SMALL.split()]
    code, _, told = command(*arguments)
    assert code == 1
    assert "resume it (--resume)" in told
    code, printed, told = command(*arguments, "--resume")
    assert (code, printed) == (0, f"{out / 'detector.safetensors'}\n")
    assert "convolving" not in told  # that stage was done
    after = Detector.load(out / "detector.safetensors").parts
    assert torch.equal(before.svm.weight, after.svm.weight)
    assert torch.equal(before.regressor.weight, after.regressor.weight)


# --- evaluate ------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["voc07", "voc", "coco"])
def test_evaluate_as_json(command, model, data, metric):
    if metric == "coco":
        pytest.importorskip("faster_coco_eval", reason="the extra coco is not installed")
    code, printed, told = command("detect", "evaluate", data, "--model", model, "--metric", metric, "--json")
    assert code == 0
    result = json.loads(printed)
    assert {"metric", "map", "per_class", "images", "skipped"} <= set(result)
    assert (result["metric"], result["images"], set(result["per_class"])) == (metric, 4, set(COLOURS))
    assert result["map"] == pytest.approx(sum(result["per_class"].values()) / 2)
    assert result.get("map50", result["map"]) > 0.5  # a red and a blue rectangle are easily told apart
    (skipped,) = result["skipped"]
    assert f"left out: {skipped}" in told


def test_evaluate_as_a_table(command, model, data):
    code, printed, _ = command("detect", "evaluate", data, "--model", model, "--split", "train")
    assert code == 0
    title, heading, *rows = printed.splitlines()
    assert re.fullmatch(r"mAP \d+\.\d% \(voc07\) of 11 images; 1 could not be read", title.strip())
    assert re.split(r" {2,}", heading.strip()) == ["class", "AP", "F1", "F1 at 50%", "best F1"]
    assert [row.split()[0] for row in rows] == list(COLOURS)


def test_objects_of_classes_that_the_detector_does_not_know_are_told(command, model, data, tmp_path, caplog):
    """The same scenes, in every second of which what is blue is called something else."""
    table = json.loads((data / "annotations" / "test.json").read_text())
    table["categories"].append({"id": 7, "name": "sky"})
    for item in table["annotations"]:
        if item["category_id"] == 0 and item["image_id"] % 2:
            item["category_id"] = 7
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "test.json").write_text(json.dumps(table))
    (tmp_path / "test").symlink_to(data / "test")
    page = tmp_path / "page.html"
    code, printed, _ = command("detect", "evaluate", tmp_path, "--model", model, "--json", "--report", page)
    assert code == 0
    assert set(json.loads(printed)["per_class"]) == set(COLOURS)
    said = "2 objects are of 1 classes that the model was not trained on and are left out: sky 2"
    assert caplog.messages == [f"{tmp_path}: {said}"]
    assert said in page.read_text()


def test_a_detector_given_twice_is_the_detector(command, model, data):
    once, twice = (
        json.loads(command("detect", "evaluate", data, *["--model", model] * times, "--json")[1])
        for times in (1, 2)
    )
    assert None not in {*once.pop("f1_at_half").values(), once.pop("calibration_error")}
    for unknown in (twice.pop("f1_at_half").values(), [twice.pop("calibration_error")]):
        assert set(unknown) == {None}  # scores of several detectors have no common probability
    assert once == twice


# --- predict -------------------------------------------------------------------------------------


def test_with_mirror_images_an_image_and_its_mirror_image_are_alike(command, model, data, tmp_path):
    with Image.open(data / "test" / "0.png") as image:
        image.save(tmp_path / "image.png")
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirror.png")
        width = image.width

    def boxes_found(name: str, *options: str):
        arguments = [tmp_path / name, "--model", model, "--min-score", -1.5, "--json", *options]
        (found,) = json.loads(command("detect", "predict", *arguments)[1])["predictions"]
        assert all(one["probability"] is not None for one in found["detections"])
        return sorted(one["box"] for one in found["detections"])

    alone = boxes_found("image.png")
    boxes = boxes_found("image.png", "--mirror")
    mirrored = [[width - x1, y0, width - x0, y1] for x0, y0, x1, y1 in boxes_found("mirror.png", "--mirror")]
    assert len(boxes)
    np.testing.assert_allclose(boxes, sorted(mirrored), atol=0.02)
    assert boxes != alone


def test_predict_goes_on_past_damaged_images(command, model, data, tmp_path):
    (tmp_path / "empty.jpg").touch()
    out = tmp_path / "drawn"
    code, printed, told = command(
        "detect", "predict", tmp_path / "empty.jpg", data / "test", "--model", model, "--out", out, "--json"
    )
    assert code == 1
    result = json.loads(printed)
    assert [Path(each["image"]).name for each in result["predictions"]] == [f"{i}.png" for i in range(4)]
    for each in result["predictions"]:
        for found in each["detections"]:
            assert set(found) == {"label", "score", "probability", "box"}
            assert found["label"] in COLOURS
            assert found["score"] >= 0
    assert any(each["detections"] for each in result["predictions"])
    assert [("empty.jpg" in reason, "4.png" in reason) for reason in result["skipped"]] == [
        (True, False),
        (False, True),
    ]
    assert told.count("left out: ") == 2
    assert sorted(path.name for path in out.iterdir()) == [f"{i}.png" for i in range(4)]


def test_drawings_never_take_the_place_of_an_image(command, model, data, tmp_path):
    """Three images of one name, and the folder of one of them to draw in."""
    images = [tmp_path / folder / "photo.png" for folder in ("a", "b")] + [tmp_path / "a" / "photo.jpg"]
    for path in images:
        path.parent.mkdir(exist_ok=True)
        Image.open(data / "test" / "0.png").save(path)
    before = [path.read_bytes() for path in images]
    code, printed, _ = command(
        "detect", "predict", *images, "--model", model, "--out", tmp_path / "a", "--min-score", "-1"
    )
    assert code == 0
    assert len(printed.splitlines()) == 3
    assert [path.read_bytes() for path in images] == before
    drawn = sorted({*(tmp_path / "a").iterdir()} - {*images})
    assert [path.name for path in drawn] == ["photo-2.png", "photo-3.png", "photo-4.png"]
    for path in drawn[:2]:
        assert np.abs(np.asarray(Image.open(path)).astype(int) - np.asarray(Image.open(images[0]))).max() > 50


def test_predict_into_a_table(command, model, data, tmp_path):
    image, table = data / "test" / "0.png", tmp_path / "new" / "found.csv"
    arguments = ["detect", "predict", image, "--model", model, "--min-score", "-1", "--csv", table]
    assert command(*arguments)[:2] == (0, "")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = Detector.load(model)(image, min_score=-1)
    assert [row["label"] for row in rows] == expected.names
    boxes = [[float(row[side]) for side in ("x0", "y0", "x1", "y1")] for row in rows]
    np.testing.assert_allclose(boxes, expected.boxes, atol=0.006)
    np.testing.assert_allclose([float(row["score"]) for row in rows], expected.scores, atol=1e-6)
    odds = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(odds, expected.probabilities, atol=6e-5)
    assert 0 < min(odds) < max(odds) < 1
    assert {row["image"] for row in rows} == {str(image)}


@pytest.mark.parametrize(
    ("score", "words"),
    [
        pytest.param("1000", "nothing", id="nothing is as sure"),
        pytest.param("-1.5", r"(\w+ \d+%, ){4}\w+ \d+% and \d+ more", id="five are named"),
    ],
)
def test_predict_in_lines(command, model, data, score, words):
    image = data / "test" / "0.png"
    code, printed, _ = command("detect", "predict", image, "--model", model, "--min-score", score)
    assert code == 0
    assert re.fullmatch(f"{re.escape(str(image))}  {words}\n", printed), printed


# --- proposals -----------------------------------------------------------------------------------


def test_learned_windows_of_the_detector(command, model, data, tmp_path):
    out = tmp_path / "boxes.json"
    images = data / "test"
    code, printed, _ = command(
        "proposals",
        images / "0.png",
        "--out",
        out,
        "--method",
        "learned",
        "--model",
        model,
        "--annotations",
        data,
    )
    assert code == 0
    (boxes,) = json.loads(out.read_text()).values()
    assert 10 < len(boxes) <= 100  # as many as the detector takes
    assert "recall of 2 objects" in printed


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param("detect train {tmp}/no --out {tmp}/run", "no does not exist", id="no data"),
        pytest.param("detect train {data} --out {tmp}/run --trunk zf5", "give --weights", id="no weights"),
        pytest.param("detect train {data} --out {tmp}/run --scales 1,b", "--scales .* got", id="no scales"),
        pytest.param("detect train {data} --out {tmp}/run --levels 0", "levels must", id="a level of 0"),
        pytest.param(
            "detect train {data} --out {tmp}/run --method yolo",
            "one of auto, spp, rcnn, fast, faster",
            id="a method",
        ),
        pytest.param(
            "detect train {data} --out {tmp}/run --svm-layer fc7 --finetune none",
            "needs fc layers",
            id="no fc7",
        ),
        pytest.param("detect train {data} --out {tmp}/run --split tset", "did you mean test", id="a split"),
        pytest.param("detect evaluate {data} --model {tmp}/no", "no model file at", id="no model"),
        pytest.param("detect evaluate {tmp} --model {model}", "no annotated data set", id="nothing marked"),
        pytest.param("detect evaluate {data} --model {image}", "not a readable", id="an image for a model"),
        pytest.param("detect predict {tmp}/no.jpg --model {model}", "no.jpg does not exist", id="no image"),
        pytest.param("detect predict {image} --model {model} --device abacus", "abacus", id="a device"),
        pytest.param("proposals {image} --out {tmp}/b.json --method learned", "go together", id="no windows"),
        pytest.param(
            "proposals {image} --out {tmp}/b.json --model {model}", "go together", id="windows unasked"
        ),
    ],
)
def test_errors_are_one_line(command, data, model, tmp_path, arguments, message):
    names = {"data": data, "tmp": tmp_path, "model": model, "image": data / "test" / "0.png"}
    code, printed, told = command(*(word.format(**names) for word in arguments.split()))
    assert (code, printed) == (1, "")
    (line,) = [line for line in told.splitlines() if not re.match(r"[a-z ]+: \d+/\d+", line)]
    assert line.startswith("sppnet: ")
    assert re.search(message, line), line


def test_help_waits_for_nothing_heavy():
    code = (
        "import sys; from sppnet.cli import main\n"
        "sys.argv = ['sppnet', 'detect', 'train', '--help']\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        "print({'torch', 'numba', 'numpy', 'PIL'} & set(sys.modules))"
    )
    words = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr
    for option in ("--proposals", "--finetune", "--resume"):
        assert option in done.stdout
