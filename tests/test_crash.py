"""Training that is killed and goes on ends in the weights of one that was not, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sppnet.classify.run_folder import RunFolder
from sppnet.demo import generate, generate_scenes
from sppnet.errors import ConfigError
from sppnet.nn.model_file import write_file
from sppnet.nn.trunks import load_trunk
from sppnet.run_lock import lock_run

ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
SMALL: dict[str, Any] = {"width": 0.0625, "device": "cpu"}
LAYERS = {**SMALL, "hidden": 8, "sizes": "48,32", "scale_px": 224, "epochs": 3, "batch_size": 6}
WINDOWS = {
    **SMALL,
    "trunk": "zf5",
    "scales": (96,),
    "max_proposals": 40,
    "rounds": 1,
    "hidden": 8,
    "steps": 3,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "classifier": ("classify", {**LAYERS, "workers": 0}),
    "classifier, two workers": ("classify", {**LAYERS, "workers": 2}),
    "linear head": ("classify", {**SMALL, "head": "svm", "weights": "trunk.pth", "C": 1.0, "sizes": "64"}),
    "detector": ("detect", {**WINDOWS, "weights": "trunk.pth"}),
}
KILLS = 13
"""Of each case, behind the marker: fifty-two in all."""


@dataclass
class Host:
    """`crash_host.py`, waiting for jobs."""

    process: subprocess.Popen[str]
    home: Path
    number: int = 0
    killed: Counter[str] = field(default_factory=Counter)

    def ask(self, job: dict[str, Any]) -> tuple[int, float, str]:
        """Exit code, below 0 for a signal; seconds; what was printed."""
        self.number += 1
        log = self.home / f"{self.number}.log"
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({**job, "log": str(log)}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        said = log.read_text() if log.exists() else ""  # not there if it was killed before it began to write
        return answer["code"], answer["seconds"], said

    def job(self, case: str, out: Path) -> dict[str, Any]:
        kind, config = CASES[case]
        config = {**config}
        if config.get("weights"):
            config["weights"] = str(self.home / config["weights"])
        data = self.home / ("photos" if kind == "classify" else "scenes")
        return {"kind": kind, "data": str(data), "out": str(out), "config": config, "cache": f"{out}-cache"}


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> Iterator[Host]:
    home = tmp_path_factory.mktemp("crash")
    generate(home / "photos", images_per_class=4, seed=0)
    generate_scenes(home / "scenes", "train", count=6, seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(load_trunk("zf5", width=0.0625).body.state_dict(), home / "trunk.pth")
    command = [sys.executable, str(Path(__file__).with_name("crash_host.py"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **ONE_THREAD}
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        yield Host(process, home)
        process.stdin.close()


def models_of(out: Path) -> list[Path]:
    return [path for name in ("best", "last", "detector") if (path := out / f"{name}.safetensors").exists()]


def assert_same_models(whole: Path, out: Path) -> None:
    names = [path.name for path in models_of(whole)]
    assert names
    assert [path.name for path in models_of(out)] == names
    for name in names:
        expected, found = load_file(whole / name), load_file(out / name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key].view(-1), expected[key].view(-1)) for key in expected), name


def assert_what_is_there_loads(out: Path) -> None:
    for path in out.rglob("*.safetensors"):
        load_file(path)
    for path in out.glob("*.json"):
        json.loads(path.read_text())


def stage_of(out: Path) -> str:
    """How far a run had come: the files that it had left."""
    return ", ".join(sorted(path.stem for path in out.rglob("*.safetensors"))) or "nothing"


def kill_and_resume(host: Host, case: str, tmp_path: Path, kills: int, seed: int) -> None:
    """As many kills, at random moments and at random writes, over as many runs as that takes."""
    code, seconds, told = host.ask(host.job(case, tmp_path / "whole"))
    assert code == 0, told
    writes = int(told.split()[-1])
    rng = np.random.default_rng(seed)
    done, number = 0, 0
    while done < kills:
        out = tmp_path / f"run{number}"
        job, code = host.job(case, out), -signal.SIGKILL
        while code == -signal.SIGKILL and done < kills:
            how: dict[str, Any] = {"seconds": float(rng.uniform(0, seconds))}
            if rng.random() < 0.5:
                how = {"write": int(rng.integers(1, writes + 1)), "after": bool(rng.integers(2))}
            code, taken, told = host.ask({**job, **how})
            seconds = min(seconds, taken) if code == 0 else seconds  # the first run may have compiled
            done += code == -signal.SIGKILL
            host.killed[f"{case}: {stage_of(out)}"] += code == -signal.SIGKILL
            assert_what_is_there_loads(out)
        if code == -signal.SIGKILL:
            code, _, told = host.ask(job)
        assert code == 0, told
        assert_same_models(tmp_path / "whole", out)
        assert not list(out.rglob(".*.unfinished"))
        number += 1


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_goes_on_to_the_same_weights(host, case, tmp_path):
    kill_and_resume(host, case, tmp_path, kills=2, seed=0)


@pytest.mark.crash
@pytest.mark.parametrize("case", CASES)
def test_a_run_killed_many_times_goes_on_to_the_same_weights(host, case, tmp_path):
    kill_and_resume(host, case, tmp_path, kills=KILLS, seed=1)
    for stage, count in host.killed.items():
        print(f"{count} killed with {stage}")


# --- stopped, full, forbidden, taken -------------------------------------------------------------


def command_of(host: Host, out: Path) -> dict[str, Any]:
    options = (
        "--width 0.0625 --hidden 8 --size 48 --scale 224 --batch-size 6 --epochs 4 --device cpu --resume"
    )
    words = ["classify", "train", str(host.home / "photos"), "--out", str(out), *options.split()]
    return {"kind": "command", "words": words}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_says_so_and_keeps_its_last_epoch(host, tmp_path, number, code):
    out = tmp_path / "run"
    once = RunFolder(out).checkpoint
    ended, _, told = host.ask({**command_of(host, out), "signal": number, "once": str(once)})
    assert ended == code, told
    assert "Traceback" not in told
    assert_what_is_there_loads(out)
    assert not list(out.rglob(".*.unfinished"))
    assert RunFolder(out).load_checkpoint() is not None


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(host, tmp_path):
    out = tmp_path / "run"
    command = command_of(host, out)
    once = RunFolder(out).checkpoint
    host.ask({**command, "signal": signal.SIGINT, "once": str(once)})
    before = once.read_bytes()
    code, _, told = host.ask({**command, "limit": len(before) // 2})
    assert code == 1
    (line,) = [line for line in told.splitlines() if line.startswith("sppnet: ")]
    assert line.startswith("sppnet: File too large: ")
    assert str(out) in line
    assert "Traceback" not in told
    assert once.read_bytes() == before
    assert not list(out.rglob(".*.unfinished"))
    code, _, told = host.ask(command)
    assert code == 0, told


def test_a_folder_that_cannot_be_made_is_one_line(host, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, told = host.ask(command_of(host, tmp_path / "file" / "run"))
    assert code == 1
    (line,) = [line for line in told.splitlines() if line.startswith("sppnet: ")]
    made = f"the folder {tmp_path / 'file' / 'run'} cannot be made: {tmp_path / 'file'} is a file"
    assert line == f"sppnet: --out: {made}; choose another place"
    assert "Traceback" not in told


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"Permission denied: .*config\.json"):
        write_file(tmp_path / "config.json", b"{}")


def test_a_second_run_in_the_folder_is_refused(tmp_path):
    with (
        lock_run(tmp_path),
        pytest.raises(ConfigError, match="another process trains in"),
        lock_run(tmp_path),
    ):
        pass
    with lock_run(tmp_path):  # the first one has ended
        pass


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    for name in (".config.json.x1.unfinished", "stages/.svm.safetensors.x2.unfinished"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("a user's")
    with lock_run(tmp_path):
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["notes.txt"]
