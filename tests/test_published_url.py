"""Addresses of published weights, and what is said early of servers out of reach."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sppnet.cli.models import check_detector_downloads
from sppnet.errors import ModelError
from sppnet.nn.published_url import check_reachable, published_url

RUN = """
import sys
import sppnet.nn.published_url as published
from sppnet.cli import main
published.PROBE_SECONDS = 0.2
try:
    main()
except SystemExit as end:
    sys.exit(f"{end.code} torch is imported: {'torch' in sys.modules}")
"""
HUB = "huggingface"


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty caches, and a proxy that refuses."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / HUB))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


def test_addresses_are_those_of_torchvision() -> None:
    from torchvision import models

    names = [*models.list_models(module=models), *models.list_models(module=models.detection)]
    expected = {name: models.get_model_weights(name).DEFAULT.url for name in names}
    assert {name: published_url(name, "imagenet") for name in names} == expected
    assert published_url("mobilenet_v2:14+18", "imagenet") == expected["mobilenet_v2"]
    assert published_url("zf5", "imagenet") is None


@pytest.mark.parametrize(
    ("arguments", "host"),
    [
        (["detect", "train", "photos", "--out", "run"], "download.pytorch.org"),
        (["classify", "train", "photos", "--out", "run", "--trunk", "resnet18"], "download.pytorch.org"),
        (["features", "photos", "--out", "vectors.parquet"], "download.pytorch.org"),
        (["label", "photos", "--trunk", "timm:resnet10t"], "huggingface.co"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_commands_say_it_before_torch_is_imported(arguments: list[str], host: str, tmp_path: Path) -> None:
    """The server accepts and never answers, as behind a firewall that drops."""
    if arguments[0] == "detect":
        arguments = [*arguments, "--trunk", "mobilenet_v2:14+18"]  # auto's weights may be installed
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = {"https_proxy": f"http://127.0.0.1:{server.getsockname()[1]}"}
        ended = subprocess.run(
            [sys.executable, "-c", RUN, *arguments, "--weights", "imagenet"],
            cwd=tmp_path, env={**os.environ, **proxy}, capture_output=True, text=True, check=False,
            timeout=60,
        )  # fmt: skip
    assert f"{host} cannot be reached to download them (no answer within 0.2 seconds)" in ended.stderr
    assert "torch is imported: False" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_what_is_in_the_cache_needs_no_network(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no weights at .*mobilenet_v2-7ebf99e0\.pth.*weights file"):
        check_reachable("mobilenet_v2", "imagenet")
    with pytest.raises(ModelError, match=r"no weights of timm/resnet10t.*HF_HUB_CACHE"):
        check_reachable("timm:resnet10t", "imagenet")
    file = tmp_path / "torch" / "hub" / "checkpoints" / "mobilenet_v2-7ebf99e0.pth"
    file.parent.mkdir(parents=True)
    file.touch()
    check_reachable("mobilenet_v2", "imagenet")
    (tmp_path / HUB / "models--timm--resnet10t.c3_in1k").mkdir(parents=True)
    check_reachable("timm:resnet10t", "imagenet")
    for weights in (None, "weights.pth"):
        check_reachable("resnet18", weights)


def test_the_trunks_of_a_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"github\.com.*yolox_nano\.onnx"):
        check_detector_downloads("zf5, yolox_nano", None)
    with pytest.raises(ModelError, match="fasterrcnn_resnet50_fpn_coco"):
        check_detector_downloads("zf5,fasterrcnn_resnet50_fpn", None)
    check_detector_downloads("auto", None)
    monkeypatch.setattr("sppnet.cli.models.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="mobilenet_v2"):
        check_detector_downloads("auto", "imagenet")
