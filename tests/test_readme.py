"""Every command and every snippet of the README runs, in its order, as a reader would run it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch
import torchvision

from sppnet.data.annotated import open_annotated
from sppnet.demo import generate, generate_scenes
from sppnet.proposals.given import read_boxes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SOURCES = ROOT / "src" / "sppnet"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [line for block in blocks("console") for line in block.splitlines()]
OURS = [command for command in COMMANDS if command.startswith("sppnet ")]
SERVE = "sppnet serve "
"""Ends with a signal alone, and has a test of its own."""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with a reader's photographs, and the published weights already in torch's cache."""
    home = tmp_path_factory.mktemp("reader")
    generate(home / "photos", images_per_class=5, seed=0)
    generate_scenes(home / "street", "train", count=6, seed=0)
    generate_scenes(home / "street", "test", count=2, seed=1)
    shutil.copy(home / "photos" / "dots" / "0.jpg", home / "photo.jpg")
    url = torchvision.models.get_model_weights("mobilenet_v2").DEFAULT.url
    cache = home / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), cache / Path(url).name)
    environment = {**os.environ, "TORCH_HOME": str(home / "torch"), "COLUMNS": "100"}
    environment["XDG_CACHE_HOME"] = str(home / "cache")
    for command in OURS:
        if command.startswith(SERVE):
            continue
        words = [sys.executable, "-m", *command.split()]
        done = subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return home, environment


def test_the_readme_shows_commands() -> None:
    assert len(OURS) >= 5
    assert {command.split()[0] for command in COMMANDS} == {"make", "sppnet"}


def test_commands_leave_what_they_say(reader: tuple[Path, dict[str, str]]) -> None:
    home, _ = reader
    assert (home / "runs" / "photos" / "best.safetensors").is_file()
    assert (home / "runs" / "zf5" / "metrics.csv").read_text().count("\n") == 3  # a heading and two epochs


def test_objects_are_proposed_and_drawn(reader: tuple[Path, dict[str, str]]) -> None:
    home, _ = reader
    assert sorted(path.name for path in (home / "drawn").iterdir()) == ["0.png", "1.png"]
    assert len(read_boxes(home / "boxes.json")) == 2
    assert 100 < len(read_boxes(home / "boxes.csv").of("photo.jpg")) <= 500
    assert len(open_annotated(home / "street-voc", "train")) == 6


@pytest.mark.parametrize("command", [command for command in OURS if command.startswith(SERVE)])
def test_a_server_answers_until_it_is_interrupted(command: str, reader: tuple[Path, dict[str, str]]) -> None:
    home, environment = reader
    words = [sys.executable, "-m", *command.split(), "--port", "0"]
    with subprocess.Popen(words, cwd=home, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            url = process.stderr.readline().removeprefix("listening at ").strip()
            with urllib.request.urlopen(f"{url}health", timeout=120) as answer:
                assert json.load(answer)["status"] == "ok"
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 130


@pytest.mark.parametrize("target", [line.split()[1] for line in COMMANDS if line.startswith("make ")])
def test_make_has_the_target(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ".venv" in done.stdout


@pytest.mark.parametrize("snippet", blocks("python"))
def test_snippet_runs(snippet: str, reader: tuple[Path, dict[str, str]]) -> None:
    home, environment = reader
    words = [sys.executable, "-W", "error", "-c", snippet]
    done = subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_file_tree_names_every_module() -> None:
    tree = README[README.index("## The files") :]
    for path in SOURCES.rglob("*.py"):
        folder = path.parent.relative_to(SOURCES)
        if path.name.startswith("__") or str(folder) in ("cli", "benchmark"):
            continue
        assert path.name in tree, path
