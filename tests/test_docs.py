"""Every command and every snippet of README and the pages runs, in its order.

A fence says what becomes of it:

    console   commands, run one after the other
    python    run in one session a page, warnings as errors
    output    what the block before it prints; … stands for anything
    error     the block before it fails, and this is the last it says; … stands for anything
    text      shown and not run: folders, drawings, lines of a file

Replaced: the published weights of mobilenet_v2 are random ones in torch's cache; torch.compile stops
before its C++ compiler; smaller models of the same kinds are exported; what `make demo` leaves is smaller.
Not run: `pip install` (its extras must be there) and `make` (it must have the target). What needs a Ray is
run by tests/test_ray.py.
The figures' own pages (results, performance, reliability, the log) hold commands that take hours.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torchvision

from sppnet.benchmark.detect import random_detector
from sppnet.data.detection_dataset import open_annotated
from sppnet.demo import generate, generate_scenes
from sppnet.detect.config import DetectorConfig
from sppnet.proposals.precomputed import read_boxes

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    "README.md",
    *(f"docs/{name}.md" for name in (
        "index", "classify", "detect", "formats", "quickstart", "layer", "vectors", "inside", "export",
        "serve", "cluster", "limits", "paper", "differences", "faq", "reference",
    )),
]  # fmt: skip
"""In the order in which they are read: later ones use what earlier ones have left."""
FIGURES = [
    "docs/label.md",
    "docs/lineage.md",
    "docs/performance.md",
    "docs/reliability.md",
    "docs/results.md",
    *sorted(f"docs/log/{path.name}" for path in (DOCS / "log").glob("*.md")),
]
TRANSLATED = ["README.zh-CN.md"]  # its blocks are those of README.md: tests/test_readme.py

REPLACED = {
    "fullgraph=True": 'fullgraph=True, backend="aot_eager"',
    "onnx --model runs/photos": "onnx --model runs/zf5",
    "onnx --model runs/street/": "onnx --model runs/own/",
    "compress --model runs/street/": "compress --model runs/whole/",
}
DEMO = {"run": "runs/photos", "detector": "runs/street", "images/val": "photos", "scenes": "street"}
"""What `make demo` leaves, and what stands in its place here."""
SERVER = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Step:
    """A command or a snippet, and what is said of its end."""

    page: str
    kind: str
    text: str
    output: str = ""
    error: str = ""


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of every fence."""
    text = (ROOT / page).read_text()
    found = re.findall(r"^( *)```([^\n]*)\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    return [(language, body) for _, language, body in found]


def steps_of(page: str) -> list[Step]:
    steps: list[Step] = []
    for language, body in blocks(page):
        if language == "console":
            steps += [Step(page, language, line) for line in body.splitlines()]
        elif language == "python":
            steps.append(Step(page, language, body))
        elif language in ("output", "error"):
            last = steps.pop()
            steps.append(Step(last.page, last.kind, last.text, **{language: body}))
    return steps


STEPS = [step for page in PAGES for step in steps_of(page)]


def begins(step: Step, *words: str) -> bool:
    return step.kind == "console" and step.text.startswith(words)


def once(steps: list[Step]) -> list[Step]:
    """Without commands of an earlier page: a reader who has trained a model has it."""
    known: dict[tuple[str, str], Step] = {}
    for step in steps:
        known.setdefault((step.kind if step.kind == "console" else step.page, step.text), step)
    return list(known.values())


SERVES = once([step for step in STEPS if begins(step, "sppnet serve ")])
ASKS = once([step for step in STEPS if begins(step, "curl ")])
NOT_RUN = [step for step in STEPS if begins(step, "pip ", "make ")]
ON_RAY = [step for step in STEPS if "--executor ray" in step.text]
RUN = once(
    [step for step in STEPS if step not in (*NOT_RUN, *ON_RAY) and not begins(step, "curl ", "sppnet serve ")]
)


def title(step: Step) -> str:
    return f"{Path(step.page).stem}: {' '.join(step.text.split())[:90]}"


# --- what is run ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """A folder with a reader's photographs, and what came of the steps there."""

    home: Path
    environment: dict[str, str]
    results: dict[Step, dict[str, str]]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    home = tmp_path_factory.mktemp("reader")
    lay_out(home)
    environment = {**os.environ, "TORCH_HOME": str(home / "torch"), "COLUMNS": "100"}
    environment["XDG_CACHE_HOME"] = str(home / "cache")
    table = home / "steps.json"
    table.write_text(json.dumps([{"page": s.page, "kind": s.kind, "text": replaced(s.text)} for s in RUN]))
    words = [sys.executable, str(ROOT / "tests" / "page_follower.py"), str(table)]
    done = subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == len(RUN), f"stopped at {RUN[len(lines)]}\n{done.stderr}"
    return Reader(home, environment, dict(zip(RUN, map(json.loads, lines), strict=True)))


def lay_out(home: Path) -> None:
    """Photographs of two kinds, ImageNet weights that are none, and the documentation's own files."""
    generate(home / "photos", images_per_class=4, seed=0)
    generate_scenes(home / "street", "train", count=3, seed=0)
    generate_scenes(home / "street", "test", count=2, seed=1)
    for name in ("photo.jpg", "a.jpg", "b.jpg"):
        shutil.copy(home / "photos" / "dots" / "0.jpg", home / name)
    (home / "damaged.jpg").write_bytes((home / "photo.jpg").read_bytes()[:200])
    (home / "notes.txt").write_text("no image")
    (home / "docs").symlink_to(DOCS)
    whole = DetectorConfig(trunk="zf5", width=0.125, finetune="fc")
    random_detector(whole).save(home / "runs" / "whole" / "detector.safetensors")
    for name, place in DEMO.items():
        (home / "demo" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "demo" / name).symlink_to(home / place)
    url = torchvision.models.get_model_weights("mobilenet_v2").DEFAULT.url
    cache = home / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), cache / Path(url).name)


def replaced(text: str) -> str:
    for before, after in REPLACED.items():
        text = text.replace(before, after)
    return text


def pattern(expected: str) -> str:
    """Of what is said, spaces and line breaks apart; … stands for anything."""
    return ".*".join(re.escape(" ".join(part.split())) for part in expected.split("…"))


@pytest.mark.parametrize("step", RUN, ids=title)
def test_it_runs(step: Step, reader: Reader) -> None:
    result = reader.results[step]
    said = f"{step.text}\n{result['out']}\n{result['err']}"
    assert result["code"] == (1 if step.error else 0), said
    if step.output:
        assert re.fullmatch(pattern(step.output), " ".join(result["out"].split())), said
    if step.error:
        assert re.search(pattern(step.error) + "$", " ".join(result["err"].split())), said


def test_commands_leave_what_they_say(reader: Reader) -> None:
    home = reader.home
    assert (home / "runs" / "photos" / "best.safetensors").is_file()
    assert (home / "runs" / "zf5" / "metrics.csv").read_text().count("\n") == 3  # a heading and two epochs
    assert {"0.png", "1.png"} <= {path.name for path in (home / "drawn").iterdir()}
    assert len(read_boxes(home / "boxes.json")) == 2
    assert 100 < len(read_boxes(home / "boxes.csv").of("photo.jpg")) <= 500
    assert len(open_annotated(home / "street-voc", "train")) == 3


# --- a server ------------------------------------------------------------------------------------


@contextmanager
def serving(command: str, reader: Reader) -> Iterator[str]:
    """The URL of the command's server, at a port that is free; interrupted at the end, as by Ctrl-C."""
    words = [sys.executable, "-m", *command.split(), "--port", "0"]
    with subprocess.Popen(
        words, cwd=reader.home, env=reader.environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            yield process.stderr.readline().removeprefix("listening at ").strip().rstrip("/")
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 130


@pytest.mark.parametrize("step", SERVES, ids=title)
def test_a_server_answers_until_it_is_interrupted(step: Step, reader: Reader) -> None:
    """The first, of the detector that the pages ask with curl, is asked all that they ask."""
    with serving(step.text, reader) as url:
        with urllib.request.urlopen(f"{url}/health", timeout=120) as answer:
            assert json.load(answer)["status"] == "ok"
        if step is SERVES[0] and shutil.which("curl") is not None:
            ask_with_curl(url, reader)


def ask_with_curl(url: str, reader: Reader) -> None:
    known = ""
    for step in ASKS:
        words = f"curl --fail-with-body --silent --show-error {step.text.removeprefix('curl ')}"
        words = words.replace(SERVER, url).replace('"id": "…"', f'"id": "{known}"')
        done = subprocess.run(words, shell=True, cwd=reader.home, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        known = json.loads(done.stdout).get("id", known)


# --- what is not run -----------------------------------------------------------------------------


def test_what_needs_a_ray_is_the_command_that_test_ray_runs() -> None:
    assert [(step.page, step.kind) for step in ON_RAY] == [("docs/cluster.md", "console")]


@pytest.mark.parametrize("step", once(NOT_RUN), ids=title)
def test_what_is_not_run_could_be(step: Step) -> None:
    if begins(step, "make "):
        words = ["make", "-n", *step.text.split()[1:]]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert ".venv" in done.stdout
    else:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        asked = re.fullmatch(r"pip install '?(?:sppnet|\.)(?:\[([\w,]+)\])?'?", step.text)
        assert asked, step.text
        extras = set(filter(None, (asked[1] or "").split(",")))
        assert extras <= project["optional-dependencies"].keys()


def test_the_quickstart_names_every_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    listed = (DOCS / "quickstart.md").read_text().split("Extras: ")[1].split("What is missing")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == extras.keys()


@pytest.mark.parametrize("page", PAGES)
def test_fences_are_of_known_kinds(page: str) -> None:
    assert {language for language, _ in blocks(page)} <= {"console", "python", "output", "error", "text"}


def test_commands_are_of_known_programs() -> None:
    programs = {step.text.split()[0] for step in STEPS if step.kind == "console"}
    assert programs == {"sppnet", "make", "pip", "python", "curl"}


def test_every_page_is_one_of_these() -> None:
    there = {str(path.relative_to(ROOT)) for path in [*ROOT.glob("README*.md"), *DOCS.rglob("*.md")]}
    assert there == {*PAGES, *FIGURES, *TRANSLATED}
