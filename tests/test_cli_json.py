"""--json: wherever output is data it can be had as JSON, with nothing else on standard output."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
import typer
from typer.main import get_command

from onnx_detectors import write_detector
from sppnet.cli.app import app, main
from sppnet.demo import generate, generate_scenes
from sppnet.nn.trunks import load_trunk

SMALL = "--trunk zf5 --width 0.0625"
MAKE = {
    "classify train": f"data --out run {SMALL} --hidden 8 --size 48 --scale 224 --epochs 1 --batch-size 8",
    "detect train": f"scenes --out found {SMALL} --weights trunk.pth --scales 96 --max-proposals 50 "
    "--finetune none",
}
"""Commands that leave files, and name them on standard output."""

PRINT = {
    "check": ("data", {"splits", "damaged"}),
    "convert": ("scenes --to yolo --out converted", {"out", "splits", "objects", "skipped", "notes"}),
    "doctor": ("", {"versions", "devices", "kernels", "training"}),
    "trunk": ("tiny.onnx --photo data/dots/1.jpg", {"maps", "classes", "difference"}),
    "proposals": (
        "scenes/test --out b.json --max-proposals 9 --annotations scenes",
        {"file", "images", "recall"},
    ),
    "classify evaluate": ("data --model run/best.safetensors", {"top1", "per_class"}),
    "classify predict": ("data --model run/best.safetensors", {"predictions", "skipped"}),
    "detect evaluate": ("scenes --model found/detector.safetensors", {"map", "per_class"}),
    "detect predict": ("scenes/test --model found/detector.safetensors", {"predictions", "skipped"}),
}
"""Commands that print data: how they are run, and what of it must be there."""

FILES = {
    "detect add",
    "detect compress",
    "features",
    "demo",
    "label",
    "serve",
    "export onnx",
    "visualize filters",
    "visualize pyramid",
    "visualize bins",
}
"""Commands whose result is a file, a folder or a page."""


def commands(group: typer.core.TyperGroup, before: str = "") -> Iterator[tuple[str, set[str]]]:
    """Every command by its words, and its options; benchmarks have tests of their own."""
    for name, command in group.commands.items():
        words = f"{before} {name}".strip()
        if hasattr(command, "commands"):
            yield from commands(command, words)
        elif not words.startswith("benchmark"):
            yield words, {option for parameter in command.params for option in parameter.opts}


def run(command: str, arguments: str, *more: str) -> tuple[object, str, str]:
    out, told = io.StringIO(), io.StringIO()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(told):
        patch.setattr(sys, "argv", ["sppnet", *command.split(), *arguments.split(), *more])
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    return code, out.getvalue(), told.getvalue()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Path]:
    """Photographs, scenes, a classifier and a detector, in the working folder; one photograph is damaged."""
    root = tmp_path_factory.mktemp("json")
    generate(root / "data", images_per_class=4, seed=0)
    generate_scenes(root / "scenes", "train", count=6, seed=0)
    generate_scenes(root / "scenes", "test", count=2, seed=1)
    torch.save(load_trunk("zf5", width=0.0625).body.state_dict(), root / "trunk.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        write_detector("tiny.onnx")
        for command, arguments in MAKE.items():
            code, printed, told = run(command, f"{arguments} --device cpu")
            assert code == 0, (code, told)
            assert len(printed.splitlines()) == 1
            assert Path(printed.strip()).is_file()
        damaged = root / "data" / "dots" / "0.jpg"
        damaged.write_bytes(damaged.read_bytes()[:200])
        yield root


def test_every_command_is_one_of_these():
    assert {words for words, _ in commands(get_command(app))} == {*MAKE, *PRINT, *FILES}


def test_commands_that_print_data_have_the_option():
    assert {words for words, options in commands(get_command(app)) if "--json" in options} == set(PRINT)


@pytest.mark.parametrize("command", PRINT)
def test_nothing_but_json_is_printed(home, command):
    arguments, expected = PRINT[command]
    code, printed, told = run(command, arguments, "--json")
    data = json.loads(printed)
    assert expected <= set(data)
    damaged = arguments.startswith("data") and command != "classify evaluate"
    assert code == (1 if damaged else 0), told


def complete(words: str) -> list[str]:
    """What bash is offered for the last of some words."""
    code = "import sys; sys.argv = ['sppnet']; from sppnet.cli import main; main()"
    asked = {"_SPPNET_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    environment = {**os.environ, **asked}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        pytest.param("sppnet feat", ["features"], id="a command"),
        pytest.param("sppnet classify pre", ["predict"], id="a command of a command"),
        pytest.param("sppnet features --sca", ["--scale"], id="an option"),
        pytest.param("sppnet proposals --method lea", ["learned"], id="a value"),
    ],
)
def test_a_shell_completes(words, offered):
    assert complete(words) == offered
