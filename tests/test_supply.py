"""What is shipped, what it stands on, and that nothing goes out to the network."""

import ast
import os
import re
import socket
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import sppnet
from sppnet.cli.app import main
from sppnet.demo import generate, generate_scenes
from sppnet.errors import SppnetError
from sppnet.nn.trunks import load_trunk

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = {
    requirement.name: requirement
    for text in [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]
    if (requirement := Requirement(text)).name != "sppnet"
}


# --- wheel and source archive --------------------------------------------------------------------


def build(out: Path) -> tuple[Path, Path]:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    return build(tmp_path_factory.mktemp("dist"))


def files_of(folder: Path, base: Path) -> dict[str, bytes]:
    """What is under a folder, made by Python as it runs apart, by its path from `base`."""
    return {
        path.relative_to(base).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_is_the_tree(built):
    with zipfile.ZipFile(built[0]) as wheel:
        held = {name: wheel.read(name) for name in wheel.namelist()}
    about = {name for name in held if ".dist-info/" in name}
    code = {name: held[name] for name in held.keys() - about}
    assert code == files_of(ROOT / "src" / "sppnet", ROOT / "src")
    told = f"sppnet-{sppnet.__version__}.dist-info/"
    names = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert about == {told + name for name in names}
    assert held[f"{told}entry_points.txt"].decode().split("\n\n")[0].strip() == (
        "[console_scripts]\nsppnet = sppnet.cli:main"
    )


def test_the_source_archive_is_the_tree(built):
    with tarfile.open(built[1]) as archive:
        held = {
            member.name.partition("/")[2]: archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive.getmembers()
        }
    folders = {name for folder in ("src", "tests", "docs") for name in files_of(ROOT / folder, ROOT)}
    files = {
        "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md",
        "README.zh-CN.md", "SECURITY.md", "constraints.txt", "mkdocs.yml", "pyproject.toml",
    }  # fmt: skip
    assert held.keys() == folders | files | {"PKG-INFO", ".gitignore"}
    assert all(held[name] == (ROOT / name).read_bytes() for name in folders | files)


def test_built_twice_is_the_same_bytes(built, tmp_path):
    for first, second in zip(built, build(tmp_path), strict=True):
        assert first.read_bytes() == second.read_bytes()


# --- what it stands on ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "vulnerable"),
    [
        pytest.param("torch", "2.9.1", id="CVE-2026-24747: the unpickler's heap"),
        pytest.param("torch", "2.10", id="CVE-2026-4538: a .pt2 file runs programs"),
        pytest.param("torch", "2.12.1", id="CVE-2025-3000: memory of torch.jit.script"),
        pytest.param("pillow", "12.2", id="CVE-2026-112403: the JPEG decoder's heap"),
        pytest.param("onnx", "1.20.1", id="CVE-2026-27489: external data"),
        pytest.param("onnx", "1.21", id="DHI-e5ui-nuzp-ftjo-em2r: Gemm of another version"),
        pytest.param("python-multipart", "0.0.26", id="CVE-2026-42561: headers of parts"),
        pytest.param("python-multipart", "0.0.29", id="CVE-2026-53537: names of fields"),
        pytest.param("python-multipart", "0.0.30", id="a negative Content-Length"),
        pytest.param("starlette", "0.49.0", id="CVE-2025-62727: ranges"),
        pytest.param("starlette", "1.0.0", id="PYSEC-2026-161: the Host header"),
        pytest.param("starlette", "1.2.9", id="PYSEC-2026-248: paths that name a host"),
        pytest.param("starlette", "1.3.0", id="PYSEC-2026-249: forms without limits"),
        pytest.param("ray", "2.51.2", id="CVE-2025-62593: a page in a browser runs programs"),
        pytest.param("pyarrow", "14.0.0", id="CVE-2023-47248: a file runs programs"),
        pytest.param("pyarrow", "23.0.0", id="CVE-2026-25087: an IPC file's buffers"),
        pytest.param("mkdocs-material", "9.7.6", id="CVE-2026-73295: suggestions of the search"),
        pytest.param("pyyaml", "5.3.1", id="CVE-2020-14343: a file runs programs"),
    ],
)
def test_vulnerable_releases_are_excluded(package, vulnerable):
    assert not REQUIREMENTS[package].specifier.contains(vulnerable)


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_every_package_has_a_lower_bound_and_a_pin_above_it(name):
    specifier = REQUIREMENTS[name].specifier
    assert any(each.operator == ">=" for each in specifier)
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    (pinned,) = [version for pin, version in pins.items() if pin.lower().replace("_", "-") == name]
    assert specifier.contains(Version(pinned))


def test_few_packages_are_needed():
    assert len(PROJECT["dependencies"]) <= 10


# --- workflows -----------------------------------------------------------------------------------


def workflow_faults(text: str) -> list[str]:
    """What a workflow does that none of ours may."""
    workflow: dict[Any, Any] = yaml.safe_load(text)
    jobs = workflow["jobs"].values()
    triggers = str(workflow.get("on", workflow.get(True)))  # YAML 1.1 reads "on" as a truth
    faults = []
    if workflow.get("permissions") != {"contents": "read"} or any("permissions" in job for job in jobs):
        faults.append("may do more than read")
    if "pull_request_target" in triggers or "workflow_run" in triggers:
        faults.append("gives strangers' changes our rights")
    for used in re.findall(r"uses:\s*(\S+)", text):
        if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", used):
            faults.append(f"{used} is not pinned by a commit")
    scripts = [step.get("run", "") for job in jobs for step in job["steps"]]
    if any("${{" in script for script in scripts):
        faults.append("puts what others wrote into a script")
    if "secrets." in text:
        faults.append("reads secrets")
    return faults


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_pinned_and_may_only_read(path):
    assert workflow_faults(path.read_text()) == []


GOOD = "on: push\npermissions:\n  contents: read\njobs:\n  a:\n    steps:\n      - run: make test\n"


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        pytest.param("contents: read", "contents: write", "more than read", id="writing"),
        pytest.param(
            "  a:\n", "  a:\n    permissions: write-all\n", "more than read", id="a job that writes"
        ),
        pytest.param("on: push", "on: pull_request_target", "strangers", id="strangers with our rights"),
        pytest.param("run: make test", "uses: some/action@v4", "not pinned", id="an action by its tag"),
        pytest.param("make test", "echo ${{ github.head_ref }}", "into a script", id="a name in a script"),
        pytest.param("make test", "echo\n        env: {A: secrets.B}", "secrets", id="a secret"),
    ],
)
def test_a_careless_workflow_is_caught(before, after, fault):
    assert workflow_faults(GOOD) == []
    (found,) = workflow_faults(GOOD.replace(before, after))
    assert fault in found


def test_nothing_is_unpickled():
    """`pickle` is imported for the name of its error alone."""
    for path in sorted(Path(sppnet.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                used = f"{node.value.id}.{node.attr}"
                assert used == "pickle.UnpicklingError" or node.value.id not in ("pickle", "joblib"), path
                assert used not in ("yaml.load", "yaml.unsafe_load"), path


# --- the network ---------------------------------------------------------------------------------

Barrier = list[str]
"""What was tried; while the list is in the hook, nothing gets through."""
barriers: list[Barrier] = []
OUTWARD = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.sendmsg")
LOOPBACK = ("127.0.0.1", "::1", "localhost", None, "")


def refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: Python tells it of every socket, whoever in the process uses one."""
    if not barriers or event not in OUTWARD:
        return
    address = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
    if isinstance(address, str | bytes) and event != "socket.getaddrinfo":
        return  # a socket of the file system
    host = address[0] if isinstance(address, tuple) else address
    if host not in LOOPBACK:
        barriers[-1].append(f"{event} {address}")
        raise PermissionError(f"the network is not to be used: {event} {address}")


@pytest.fixture(scope="module", autouse=True)
def audited() -> None:
    sys.addaudithook(refuse_network)  # stays, and does nothing outside `offline`


@pytest.fixture
def offline() -> Iterator[Barrier]:
    barriers.append([])
    yield barriers[-1]
    barriers.pop()


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param(lambda: socket.create_connection(("192.0.2.1", 80), 1), id="by number"),
        pytest.param(lambda: socket.create_connection(("example.org", 80), 1), id="by name"),
        pytest.param(lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"", ("192.0.2.1", 9)), id="UDP"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_barrier_holds(offline: Barrier, attempt: Callable[[], object]) -> None:
    with pytest.raises(PermissionError, match="the network is not to be used"):
        attempt()
    assert len(offline) == 1


def test_published_weights_are_asked_for_by_name_alone(offline, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises((SppnetError, OSError)):
        load_trunk("squeezenet1_1", weights="imagenet")
    assert offline


SMALL = "--width 0.0625 --device cpu"
LAYERS = "--hidden 8 --size 48 --scale 224 --epochs 1 --batch-size 8 --workers 0"
WINDOWS = "--trunk zf5 --scales 96 --max-proposals 40 --finetune none --C 0.01 --weights trunk.pth"
PATHS = f"""
check photos
classify train photos --out run {SMALL} {LAYERS}
classify train photos --out svm {SMALL} --head svm --weights trunk.pth --C 1 --size 64
classify evaluate photos --model run/best.safetensors --device cpu
classify predict photos/dots --model svm/best.safetensors --device cpu --json
features photos/dots --model run/best.safetensors --out vectors.safetensors --device cpu
check street
convert street --to voc --out voc
detect train street --out det {SMALL} {WINDOWS} --split train
detect evaluate street --model det/detector.safetensors --split test --device cpu
detect predict street/test --model det/detector.safetensors --out drawn --parquet found.parquet --device cpu
proposals street/test --out boxes.json --method learned --model det/detector.safetensors
proposals photos/dots/0.jpg --out boxes.csv --max-proposals 20
export onnx --model run/best.safetensors --out photos.onnx
visualize filters photos/dots --model run/best.safetensors --out filters
visualize pyramid photos/dots/0.jpg --model det/detector.safetensors --box 2,2,40,40 --out pyramid.png
visualize bins --size 10 --level 4 --out bins.png
doctor
""".strip().splitlines()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("home")
    generate(root / "photos", images_per_class=4, seed=0)
    generate_scenes(root / "street", "train", count=6, seed=0)
    generate_scenes(root / "street", "test", count=2, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(load_trunk("zf5", width=0.0625).body.state_dict(), root / "trunk.pth")
    return root


@pytest.mark.parametrize("line", PATHS, ids=lambda line: " ".join(line.split()[:3]))
def test_no_command_uses_the_network(line, home, offline, monkeypatch, capsys):
    """In their order: later ones use what earlier ones left."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setattr(sys, "argv", ["sppnet", *line.split()])
    monkeypatch.setitem(os.environ, "TORCH_HOME", str(home / "torch"))
    threads = torch.get_num_threads()
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        torch.set_num_threads(threads)
    assert ended.value.code in (0, None), capsys.readouterr().err
    assert offline == []
