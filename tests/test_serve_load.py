"""The server under load: nothing lost, nothing mixed up, memory flat, and an end that breaks nothing off.

The server is a process of its own, started as a user starts it, with a tiny model of random weights.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from load import ADDRESSES, Case, cases, crowd, differs, half_sent, head, photograph, status_of
from served import make_classifier, make_detector

MODELS = {"detect": make_detector, "classify": make_classifier}
BAD_SHARE = 0.2
ROOM_MIB = 24
"""That memory may grow by after warming up."""
PHOTOGRAPH = photograph(96, 128, 0, "PNG")
GOOD = Case("good", PHOTOGRAPH)


@dataclass
class Served:
    """`sppnet serve`, running."""

    process: subprocess.Popen[str]
    port: int
    work: str
    model: Any

    @property
    def rss_mib(self) -> float:
        """What the process holds of the machine's memory; 0 where the system does not say."""
        path = Path(f"/proc/{self.process.pid}/status")
        found = re.search(r"VmRSS:\s+(\d+) kB", path.read_text()) if path.exists() else None
        return int(found[1]) / 1024 if found else 0.0


@contextmanager
def served(work: str, folder: Path) -> Iterator[Served]:
    model, path, log = MODELS[work](), folder / "model.safetensors", folder / "log"
    model.save(path)
    command = [sys.executable, "-m", "sppnet", "serve", "--model", str(path), "--device", "cpu"]
    with log.open("w") as stream, subprocess.Popen(
        [*command, "--port", "0", "--max-mb", "2", "--max-pixels", "300000"],
        stderr=stream, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        try:
            yield Served(process, port_told(log, process), work, model)
        finally:
            process.kill()
    assert "Traceback" not in log.read_text()


def port_told(log: Path, process: subprocess.Popen[str]) -> int:
    ends = time.monotonic() + 120
    while time.monotonic() < ends and process.poll() is None:
        if found := re.search(r"listening at http://127\.0\.0\.1:(\d+)/", log.read_text()):
            return int(found[1])
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def drawn(good: list[Case], bad: list[Case], count: int) -> list[Case]:
    """Each once at least where there is room; a fifth of them bad."""
    rng, bads = np.random.default_rng(0), int(count * BAD_SHARE)
    chosen = [(good[i % len(good)]) for i in range(count - bads)] + [bad[i % len(bad)] for i in range(bads)]
    return [chosen[i] for i in rng.permutation(count)]


# --- load ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "sizes", "clients", "count"),
    [
        pytest.param("detect", 40, 8, 150, id="a detector, 8 clients, 150 requests"),
        pytest.param("detect", 200, 32, 4000, id="a detector, 32 clients, 4000", marks=pytest.mark.load),
        pytest.param("classify", 200, 32, 1000, id="a classifier, 32 clients, 1000", marks=pytest.mark.load),
    ],
)
def test_every_request_is_answered_as_without_a_server(work, sizes, clients, count, tmp_path):
    with served(work, tmp_path) as server:
        good, bad = cases(server.model, sizes)
        assert len(bad) > 40
        fresh, started = server.rss_mib, time.monotonic()
        warm = crowd(server.port, work, drawn(good, bad, count // 5), clients)
        warmed = server.rss_mib
        with slow_clients(server, 3) as ends:
            loaded = crowd(server.port, work, drawn(good, bad, count - count // 5), clients)
        seconds, memory = time.monotonic() - started, server.rss_mib
    print(f"\n{work}, {clients} clients, {sizes} sizes, {len(bad)} kinds of bad ones, {seconds:.0f} s")
    print(f"warm-up: {warm}\nload:    {loaded}\nslow clients: {dict(ends)}")
    print(f"resident memory: {fresh:.0f} MiB at the start, {warmed:.0f} warmed up, {memory:.0f} at the end")
    for tally in (warm, loaded):
        assert not tally.lost
        assert not tally.wrong
        assert all(400 <= status < 500 for status in tally.rejected)
    assert warm.total + loaded.total == count
    assert warm.rejected.total() + loaded.rejected.total() == pytest.approx(BAD_SHARE * count, abs=2)
    assert memory < warmed + ROOM_MIB


@contextmanager
def slow_clients(server: Served, count: int) -> Iterator[Counter[str]]:
    """That stop in the middle of a body, wait, and start again; how each ended that was not ended here."""
    stop, ends = threading.Event(), Counter[str]()
    waiting: dict[int, socket.socket] = {}

    def dawdle(number: int) -> None:
        while not stop.is_set():
            with half_sent(
                server.port, head(server.work, 1000) + b"x", f"127.0.0.{1 + number % ADDRESSES}"
            ) as one:
                waiting[number] = one
                status = status_of(one)
                if not stop.is_set():
                    ends[status] += 1
            stop.wait(1)

    threads = [threading.Thread(target=dawdle, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield ends
    finally:
        stop.set()
        for one in waiting.values():  # the server would wait for the rest of a body for half a minute
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
    assert set(ends) <= {"408", "429", "503"}


def test_another_answer_is_noticed():
    told = {"label": "cat", "boxes": [[0.0, 1.0]], "more": 1}
    assert not differs(told, {"label": "cat", "boxes": [[0.0, 1.0004]]})
    assert differs(told, {"label": "dog"})
    assert differs(told, {"boxes": [[0.0, 1.1]]})
    assert differs(told, {"boxes": [[0.0, 1.0]] * 2})
    assert differs(told, {"score": 1.0})


# --- the end -------------------------------------------------------------------------------------


def addresses_listened_at(port: int) -> list[str]:
    """In hexadecimal, as the system lists its sockets; the loopback's where it lists none."""
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    if not tables[0].exists():
        return [f"0100007F:{port:04X}"]
    rows = [line.split() for table in tables for line in table.read_text().splitlines()]
    return [row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that can be caught")
def test_it_listens_on_the_loopback_alone_and_answers_what_it_accepted_before_the_end(tmp_path):
    with served("classify", tmp_path) as server:
        assert addresses_listened_at(server.port) == [f"0100007F:{server.port:04X}"]
        assert crowd(server.port, "classify", [GOOD], 1).answered == 1  # so it does more than listen
        content = head("classify", len(PHOTOGRAPH)) + PHOTOGRAPH
        clients = [half_sent(server.port, content[:-9]) for _ in range(4)]
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        for client in clients:
            client.sendall(content[-9:])
        assert [status_of(client) for client in clients] == ["200"] * 4
        for client in clients:
            client.close()
        assert server.process.wait(30) == 128 + signal.SIGTERM
        with pytest.raises(OSError):
            half_sent(server.port, b"").close()
