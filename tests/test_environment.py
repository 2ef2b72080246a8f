"""Odd environments: no place for compiled kernels, no compiler, forked processes, closed streams, no home."""

import json
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from sppnet import SppnetError, jit, pyramid_pool
from sppnet.demo import generate
from sppnet.ops import choose, dispatch, using

SLOWER = "pooling in torch operations, slower than the compiled kernels"


def run(command: list[str], **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, **options)


def in_python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)], env={**os.environ, **environment}
    )


POOL_TWICE = """
    import torch, sppnet
    from sppnet.ops import choose
    features = torch.arange(2 * 9 * 8.0).reshape(1, 2, 9, 8)
    pooled = sppnet.pyramid_pool(features)
    assert torch.equal(pooled[0, :2], torch.tensor([71.0, 143.0]))
    sppnet.pyramid_pool(features)
    print(choose(features).name, choose(features).reason)
"""


@pytest.mark.parametrize(
    ("before", "environment", "reason"),
    [
        ("", {"NUMBA_DISABLE_JIT": "1"}, "NUMBA_DISABLE_JIT is set"),
        ("", {"NUMBA_THREADING_LAYER": "tbbb"}, "NUMBA_THREADING_LAYER asks for tbbb, which is not there"),
        (
            "import sys; sys.modules['numba.np.ufunc.tbbpool'] = None",
            {"NUMBA_THREADING_LAYER": "tbb"},
            "NUMBA_THREADING_LAYER asks for tbb, which is not there",
        ),
        ("import sys; sys.modules['numba'] = None", {}, "numba cannot be imported (ModuleNotFoundError"),
        (
            "from sppnet import jit; jit._cache_class = lambda: 1 / 0",
            {},
            "no folder can be written in which compiled kernels would be kept",
        ),
    ],
    ids=["compilation switched off", "unknown threads", "no TBB", "no numba", "no folder"],
)
def test_without_kernels_torch_pools_and_it_is_said_once(before, environment, reason):
    done = in_python(f"{before}\n{textwrap.dedent(POOL_TWICE)}", **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("torch ")
    assert reason in done.stdout
    assert done.stderr.count(SLOWER) == 1
    assert reason in done.stderr


def test_the_start_of_threads_leaves_the_start_method_to_the_program():
    """numba asks for it when its threads start, after which `set_start_method` would raise."""
    done = in_python(
        """
        import multiprocessing, torch, sppnet
        sppnet.pyramid_pool(torch.ones(1, 2, 9, 8))
        multiprocessing.set_start_method("spawn")
        sppnet.pyramid_pool(torch.ones(1, 2, 9, 8))
        print(multiprocessing.get_start_method())
        """
    )
    assert done.stdout == "spawn\n", done.stderr


def test_boxes_are_suppressed_without_numba():
    done = in_python(
        """
        import sys; sys.modules["numba"] = None
        import numpy as np
        from sppnet.ops.nms import nms
        boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]], np.float32)
        print(nms(boxes, np.array([0.9, 0.8, 0.7]), 0.5, 10).tolist())
        """
    )
    assert done.stdout == "[0, 2]\n", done.stderr


# --- where compiled kernels are kept -------------------------------------------------------------

PLACE = """
    from numba.core import caching
    kinds = caching.FunctionCache._impl_class._locator_classes
    outside = [kind for kind in kinds if "InTree" not in kind.__name__]
    caching.FunctionCache._impl_class._locator_classes = outside  # the package's folder cannot be written
    from sppnet import jit
    print(jit.cache_folder(jit.jit()(jit.problem)))
"""


def test_the_cache_lies_in_the_users_folder_or_among_temporary_files(tmp_path):
    known = in_python(PLACE, XDG_CACHE_HOME=str(tmp_path / "cache"), TMPDIR=str(tmp_path))
    assert known.stdout.startswith(str(tmp_path / "cache")), known.stderr
    nobody = in_python(
        f"import os.path; os.path.expanduser = lambda path: path\n{textwrap.dedent(PLACE)}",
        XDG_CACHE_HOME="",
        TMPDIR=str(tmp_path),
    )
    private = tmp_path / f"sppnet-{os.getuid()}"
    assert nobody.stdout.startswith(str(private)), nobody.stderr
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


def test_no_folder_of_somebody_else_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = Path(jit.private_folder())
    assert folder == tmp_path / f"sppnet-{os.getuid()}"
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        jit.private_folder()
    folder.rmdir()
    (tmp_path / "theirs").mkdir()
    folder.symlink_to(tmp_path / "theirs")
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        jit.private_folder()


def test_an_entry_cut_off_costs_a_compilation(tmp_path):
    script = tmp_path / "kernels.py"
    script.write_text(
        "from sppnet.jit import jit\n@jit()\ndef double(x):\n    return 2 * x\nprint(double(21))\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    for _ in range(2):
        done = run([sys.executable, script], env=environment)
        assert (done.stdout, done.stderr) == ("42\n", "")
        kept = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
        assert kept
        for file in kept:
            file.write_bytes(file.read_bytes()[:10])


def test_no_folder_named_after_a_home_that_is_not_there(tmp_path):
    done = run(
        [sys.executable, "-c", textwrap.dedent(POOL_TWICE)],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")},
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


# --- forked processes ----------------------------------------------------------------------------


class Pooled(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return pyramid_pool(torch.full((1, 64, 20, 20), float(index)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_forked_after_pooling_pool_too():
    with using("cpu"):
        Pooled()[0]
    loader = DataLoader(Pooled(), 2, num_workers=2, multiprocessing_context="fork")
    assert [float(batch.mean()) for batch in loader] == [0.5, 2.5]
    assert choose(torch.zeros(1, 1, 2, 2)).name == "cpu", "this process has its kernels still"


def test_a_forked_process_is_told_and_not_killed(monkeypatch):
    monkeypatch.setattr(jit._state, "forked", True)
    assert "forked from one in which compiled kernels had run" in choose(torch.zeros(1, 1, 2, 2)).reason
    with pytest.raises(SppnetError, match=r"do not survive a fork; processes"), jit.kernel_running():
        pytest.fail("entered")
    dispatch._say_once.cache_clear()
    assert pyramid_pool(torch.ones(1, 1, 2, 2)).shape == (1, 50)


# --- the command line ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    generate(root, images_per_class=2, seed=0)
    return root


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(photographs, closed):
    command = f'"{sys.executable}" -m sppnet check "{photographs}" --json {closed}'
    done = run(["bash", "-c", command])
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if closed == "2>&-":
        assert json.loads(done.stdout)["damaged"] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk to write to")
def test_a_full_disk_is_told(photographs):
    command = f'"{sys.executable}" -m sppnet check "{photographs}" --json > /dev/full'
    done = run(["bash", "-c", command])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "sppnet: No space left on device"


def test_a_locale_that_is_not_installed_is_no_error(photographs):
    done = run(
        [sys.executable, "-m", "sppnet", "check", photographs, "--json"],
        env={**os.environ, "LANG": "xx_YY", "LC_ALL": "xx_YY.UTF-8"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["damaged"] == []


def test_doctor_says_that_nothing_is_compiled():
    done = run(
        [sys.executable, "-m", "sppnet", "doctor", "--json"],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )
    kernels = json.loads(done.stdout)["kernels"]
    assert kernels["compiled"] == "no: NUMBA_DISABLE_JIT is set"
    assert kernels["cpu float32"].startswith("torch: ")
