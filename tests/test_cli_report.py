"""Which command writes which report where, from the command line's side."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from PIL import Image

from sppnet.cli.app import main
from sppnet.demo import generate, generate_scenes
from sppnet.nn.trunks import load_trunk

SMALL = ["--trunk", "zf5", "--width", "0.0625", "--hidden", "16", "--device", "cpu"]


def sppnet(*arguments: object) -> tuple[int, str, str]:
    """The command in this process: code, stdout, stderr."""
    out, told, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sppnet", *map(str, arguments)])
        with redirect_stdout(out), redirect_stderr(told):
            try:
                main()
            except SystemExit as ended:
                code = ended.code or 0
    return (1, out.getvalue(), f"{told.getvalue()}{code}") if isinstance(code, str) else (
        int(code), out.getvalue(), told.getvalue()
    )  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    generate(root, images_per_class=2, seed=0)
    return root


@pytest.fixture(scope="module")
def classifier(photos, tmp_path_factory) -> tuple[Path, str]:
    """A run folder of two epochs, and what was told on stderr."""
    out = tmp_path_factory.mktemp("runs") / "first <run>"
    options = ["--sizes", "64,48", "--scale", "224", "--epochs", "2", "--workers", "0"]
    code, printed, told = sppnet("classify", "train", photos, "--out", out, *SMALL, *options)
    assert (code, printed) == (0, f"{out}/best.safetensors\n"), told
    return out, told


def test_training_a_classifier_writes_its_report(classifier):
    run, told = classifier
    text = (run / "report.html").read_text()
    assert f"report: {run}/report.html" in told
    assert "sppnet classify train" in text
    assert "--epochs 2" in text
    assert "first &lt;run&gt;" in text
    assert "top-1: training ends at" in text
    assert ">epochs<" in text
    assert ">evaluating (full)<" in text


def test_a_training_without_a_report_writes_none(photos, tmp_path):
    options = ["--size", "48", "--scale", "224", "--epochs", "1", "--workers", "0", "--no-report"]
    code, _, told = sppnet("classify", "train", photos, "--out", tmp_path / "run", *SMALL, *options)
    assert code == 0, told
    assert "report:" not in told
    assert (tmp_path / "run/best.safetensors").exists()
    assert not (tmp_path / "run/report.html").exists()


def test_an_evaluation_lies_beside_the_model_and_leaves_the_training_s_report(classifier, photos):
    run, _ = classifier
    before = (run / "report.html").read_bytes()
    code, printed, told = sppnet(
        "classify", "evaluate", photos, "--model", run / "best.safetensors", "--json", "--views", "crop"
    )
    assert code == 0, told
    assert set(json.loads(printed)) >= {"top1", "per_class"}
    assert "judged" not in json.loads(printed)
    assert f"report: {run}/evaluation.html" in told
    assert "views</dt><dd>crop" in (run / "evaluation.html").read_text()
    assert (run / "report.html").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "written"),
    [
        pytest.param(["--report", "deep/r.html"], ["deep/r.html"], id="where it is asked for"),
        pytest.param(["--no-report"], [], id="nowhere"),
    ],
)
def test_the_report_goes(options, written, classifier, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    beside = classifier[0] / "evaluation.html"
    beside.unlink(missing_ok=True)
    command = ["classify", "evaluate", photos, "--model", classifier[0] / "best.safetensors"]
    assert sppnet(*command, *options)[0] == 0
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.html")] == written
    assert not beside.exists()


def test_a_place_that_cannot_be_written(classifier, photos, tmp_path):
    """By default the figures matter more; a file that was asked for is an error."""
    model = tmp_path / "shared" / "best.safetensors"
    model.parent.mkdir()
    model.write_bytes((classifier[0] / "best.safetensors").read_bytes())
    (model.parent / "evaluation.html").mkdir()
    code, printed, told = sppnet("classify", "evaluate", photos, "--model", model)
    assert (code, printed.startswith("top-1")) == (0, True)
    assert "no report" in told
    code, _, told = sppnet("classify", "evaluate", photos, "--model", model, "--report", model / "r.html")
    assert code == 1
    assert "sppnet: " in told


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> tuple[Path, Path, list[object]]:
    """A run folder, the scenes it was trained on, and its options."""
    root = tmp_path_factory.mktemp("detector")
    generate_scenes(root / "scenes", "train", count=12, seed=0)
    generate_scenes(root / "scenes", "test", count=2, seed=1)
    weights = root / "trunk.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(load_trunk("zf5", width=0.0625).body.state_dict(), weights)
    options = [
        *SMALL,
        "--weights",
        weights,
        "--scales",
        "96",
        "--max-proposals",
        "50",
        "--finetune",
        "fc",
        "--steps",
        "4",
        "--C",
        "0.01",
    ]
    code, _, told = sppnet("detect", "train", root / "scenes", "--out", root / "run", *options)
    assert code == 0, told
    assert f"report: {root}/run/report.html" in told
    return root / "run", root / "scenes", options


def test_training_a_detector_writes_its_report(detector):
    text = (detector[0] / "report.html").read_text()
    for words in (
        "sppnet detect train",
        ">windows<",
        ">svm<",
        "loss: training ends at",
        "checks, columns",
        "every round",
    ):
        assert words in text, words


def test_evaluating_two_detectors_writes_beside_the_first(detector, tmp_path):
    run, scenes, _ = detector
    other = tmp_path / "other.safetensors"
    other.write_bytes((run / "detector.safetensors").read_bytes())
    models = ["--model", run / "detector.safetensors", "--model", other]
    code, printed, told = sppnet("detect", "evaluate", scenes, *models)
    assert code == 0, told
    text = (run / "evaluation.html").read_text()
    assert printed.startswith("mAP")
    assert "mAP (voc07)" in text
    assert "other.safetensors" in text
    assert text.count("<img") >= 2
    assert list(tmp_path.iterdir()) == [other]


def test_a_detector_trained_before_there_were_reports_has_one_without_curves(detector):
    """Its stage holds no rows."""
    from sppnet.detect.run_folder import DetectorRun

    run, scenes = DetectorRun(detector[0]), detector[1]
    for stage in ("tuning", "svm"):
        _, tensors = run.load_stage(stage)
        run.save_stage(stage, {}, tensors)
    (run.root / "report.html").unlink()
    again = ("detect", "train", scenes, "--out", run.root, *detector[2], "--resume")
    code, _, told = sppnet(*again, "--no-report")
    assert (code, "report:" in told) == (0, False)
    assert not (run.root / "report.html").exists()
    code, _, told = sppnet(*again)
    assert code == 0, told
    text = (run.root / "report.html").read_text()
    assert "Fine-tuning" not in text
    assert "Hard negatives" not in text
    assert "What it learned from" in text


def test_pictures_in_a_report_can_be_opened(classifier):
    import base64
    import re

    found = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', (classifier[0] / "report.html").read_text())
    assert found
    for data in found:
        assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) <= 320
