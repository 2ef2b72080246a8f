"""Lets tests import what they share (pictures, damage), and shares the tests out over processes.

pytest's importlib mode does not put this folder on the path. `make test` runs two processes of
pytest-xdist: the tests of a file stay together, and files whose tests start processes and watch the
clock follow one another in one of the two. Plain `pytest` runs everything in one process.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

# A job in the background ignores SIGINT, and hands that down to the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER:  # before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # kernels of two threads would spin on a core in use

import hypothesis  # noqa: E402
import pytest  # noqa: E402

APART = {
    f"test_{name}" for name in ("crash", "ray", "serve", "serve_load", "serve_slow", "supply", "torchrun")
}
"""Files of tests that start processes and watch the clock: one at a time, and first."""
LONG = {"test_docs"}
"""Begun next, so that nobody is left alone with it at the end."""
FEW = 10
"""So many files of tests compile what they need; before more of them all kernels are compiled."""

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")


def file_of(node: str) -> str:
    return Path(node.partition("::")[0]).stem


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if WORKER:
        items.sort(key=lambda item: [file_of(item.nodeid) in names for names in (APART, LONG)], reverse=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            name = file_of(nodeid)
            return "apart" if name in APART else name

    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compiled once for all processes, where many files of tests need them."""
    if WORKER and len({file_of(item.nodeid) for item in request.session.items}) > FEW:
        from warm_up import compile_shared

        compile_shared(tmp_path_factory.getbasetemp().parent / "kernels")


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The command in this process, for what needs none of its own: (code, stdout, stderr)."""
    from sppnet.cli import main

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sppnet", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        printed = capsys.readouterr()
        if isinstance(code, str):  # Python prints it to stderr and exits with 1
            return 1, printed.out, f"{printed.err}{code}\n"
        return int(code), printed.out, printed.err

    return call
