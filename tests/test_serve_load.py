"""The server under load: nothing lost, nothing mixed up, memory flat, and no client that keeps others out.

The server is a process of its own, started as a user starts it, with a tiny model of random weights.
"""

import http.client
import json
import logging
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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from load import ADDRESSES, Case, cases, crowd, differs, half_sent, head, photograph
from served import make_classifier, make_detector, serving
from sppnet.serve.limits import Limits

MODELS = {"detect": make_detector, "classify": make_classifier}
BAD_SHARE = 0.2
ROOM_MIB = 24
"""That memory may grow by after warming up."""


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
    command = [
        sys.executable,
        "-m",
        "sppnet",
        "serve",
        "--model",
        str(path),
        "--port",
        "0",
        "--device",
        "cpu",
    ]
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
    """That stop in the middle of a body, wait, and start again; how each ended."""
    stop, ends = threading.Event(), Counter[str]()

    def dawdle(number: int) -> None:
        while not stop.is_set():
            with half_sent(
                server.port, head(server.work, 1000) + b"x", f"127.0.0.{1 + number % ADDRESSES}"
            ) as one:
                ends[status_of(one)] += 1
            stop.wait(1)

    threads = [threading.Thread(target=dawdle, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield ends
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(ends) <= {"408", "429", "503"}


def status_of(client: socket.socket) -> str:
    """Of the answer that comes; "closed" where none does."""
    try:
        answer = client.recv(1 << 16)
    except ConnectionResetError:
        return "closed"
    return answer.split()[1].decode() if answer else "closed"


def test_another_answer_is_noticed():
    told = {"label": "cat", "boxes": [[0.0, 1.0]], "more": 1}
    assert not differs(told, {"label": "cat", "boxes": [[0.0, 1.0004]]})
    assert differs(told, {"label": "dog"})
    assert differs(told, {"boxes": [[0.0, 1.1]]})
    assert differs(told, {"boxes": [[0.0, 1.0]] * 2})
    assert differs(told, {"score": 1.0})


# --- slow clients --------------------------------------------------------------------------------

IMPATIENT = Limits(queue=4, per_client=4, slow_seconds=0.3, upload_seconds=4.0, idle_seconds=2)
"""Thirty-two connections."""
PHOTOGRAPH = photograph(96, 128, 0, "PNG")
GOOD = Case("good", PHOTOGRAPH)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(make_detector(), IMPATIENT) as url:
        yield int(url.rsplit(":", 1)[1])


@pytest.mark.parametrize(
    ("content", "count", "statuses"),
    [
        pytest.param(b"", 60, {"closed"}, id="nothing is sent"),
        pytest.param(b"POST /v1/detect HT", 60, {"closed"}, id="half a head"),
        pytest.param(head("detect", 1000) + b"half", 4, {"408"}, id="half a body, in every place"),
        pytest.param(head("windows", 1000) + b"{", 4, {"408"}, id="half a question of windows"),
        pytest.param(
            head("detect", 1000) + b"half", 60, {"408", "429", "503", "closed"}, id="half a body, often"
        ),
        pytest.param(
            b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            4, {"408"}, id="half a body of unknown length",
        ),
    ],
)  # fmt: skip
def test_those_who_stop_in_the_middle_keep_nobody_out(port, content, count, statuses):
    slow = [half_sent(port, content) for _ in range(count)]
    time.sleep(0.5)
    started = time.monotonic()
    tally = crowd(port, "detect", [GOOD] * 6, 2)
    spent = time.monotonic() - started
    assert (tally.answered, tally.lost, tally.wrong) == (6, [], [])
    assert spent < IMPATIENT.upload_seconds
    assert {status_of(one) for one in slow} <= statuses
    assert time.monotonic() - started < IMPATIENT.upload_seconds + IMPATIENT.idle_seconds + 5
    for one in slow:
        one.close()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nX: ", id="a head"),
        pytest.param(head("classify", 10**6), id="a body that is refused already"),
    ],
)
def test_a_byte_now_and_then_keeps_no_connection_open(port, content):
    with half_sent(port, content) as client:
        assert is_cut_off(client, b"x", IMPATIENT.idle_seconds + 10)


def is_cut_off(client: socket.socket, content: bytes, seconds: float) -> bool:
    """Sends it again and again; whether the server ends that in time."""
    ends = time.monotonic() + seconds
    try:
        while time.monotonic() < ends:
            client.sendall(content)
            time.sleep(0.1)
    except TimeoutError:  # nobody reads what is sent, and nobody hangs up
        return False
    except OSError:
        return True
    return False


def test_who_does_not_take_the_answer_is_cut_off(port):
    """Asked so often that the answers fill every buffer in between."""
    ask = b"GET /page.js HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect(("127.0.0.1", port))
        assert is_cut_off(client, ask * 20, IMPATIENT.idle_seconds + 20)
    assert crowd(port, "detect", [GOOD], 1).answered == 1


def test_a_client_that_goes_away_leaves_no_trace(port, caplog):
    log = logging.getLogger("uvicorn.error")  # which tells nobody above it
    log.addHandler(caplog.handler)
    for content in (head("detect", 1000) + b"half", head("detect", len(PHOTOGRAPH)) + PHOTOGRAPH):
        half_sent(port, content).close()
    time.sleep(0.5)
    assert crowd(port, "detect", [GOOD], 1).answered == 1
    log.removeHandler(caplog.handler)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\x16\x03\x01\x02\x00" + bytes(200) + b"\r\n\r\n", id="an encrypted greeting"),
        pytest.param(b"GET / SMTP/1.1\r\n\r\n", id="another protocol"),
        pytest.param(head("detect", -1), id="a length below nothing"),
        pytest.param(head("detect", 10**30), id="a length of thirty digits"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000, id="a header without end"),
        pytest.param(head("detect", 3, "Transfer-Encoding: chunked\r\n") + b"zz\r\n", id="a bad chunk"),
    ],
)  # fmt: skip
def test_what_is_no_request_is_a_4xx(port, content):
    with half_sent(port, content) as client:
        assert re.fullmatch("4..|closed", status_of(client))
    assert crowd(port, "detect", [GOOD], 1).answered == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/page.js"), ("GET", "/docs"), ("GET", "/nowhere"), ("POST", "/v1/detect")],
)
def test_every_answer_has_the_headers_that_keep_a_page_safe(port, method, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, 60)
    connection.request(method, path)
    with connection.getresponse() as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
    connection.close()


def test_nothing_that_is_asked_names_a_file_or_an_address(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, 60)
    connection.request("GET", "/openapi.json")
    paths = json.loads(connection.getresponse().read())["paths"]
    connection.close()
    named = {one["name"] for methods in paths.values() for way in methods.values()
             for one in way.get("parameters", [])}  # fmt: skip
    assert named == {"min_score", "overlap"}
    assert not [path for path in paths if "{" in path]


# --- the end -------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that can be caught")
def test_what_was_accepted_is_answered_before_the_end(tmp_path):
    with served("classify", tmp_path) as server:
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


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the system does not list its sockets")
def test_a_server_listens_on_the_loopback_alone(tmp_path):
    with served("classify", tmp_path) as server:
        rows = [
            line.split()
            for name in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{name}").read_text().splitlines()
        ]
        listens = [row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{server.port:04X}")]
    assert listens == [f"0100007F:{server.port:04X}"]
