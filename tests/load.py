"""Clients that ask a server much at once, some of it nonsense, and count what becomes of every request."""

import http.client
import io
import itertools
import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from damage import corpus
from sppnet.errors import ImageError
from sppnet.serve.feature_cache import FeatureCache
from sppnet.serve.limits import Limits, Refusal
from sppnet.serve.predictor import Predictor, Question, ServedClassifier, ServedDetector

ADDRESSES = 4 if sys.platform == "linux" else 1
"""Of the loopback network, that clients come from; elsewhere than on Linux it has one."""
WAIT = 120.0
"""Seconds after which a request counts as lost."""
OCTETS = "application/octet-stream"
FORM = "multipart/form-data; boundary=x"
REFUSED = (429, 503)
TIMES = ("id", "ms")
"""What an answer holds beside what the model says."""


@dataclass(frozen=True)
class Case:
    """One request, and what must come back."""

    name: str
    body: bytes
    path: str = ""
    """Below /v1/; by default what the model is asked."""
    method: str = "POST"
    kind: str = OCTETS
    status: int = 200
    answer: dict[str, Any] = field(default_factory=dict)


@dataclass
class Tally:
    """What became of the requests; lists hold the name of the request and what was odd."""

    answered: int = 0
    rejected: Counter[int] = field(default_factory=Counter)
    """Of the bad ones, by status."""
    told_to_wait: Counter[int] = field(default_factory=Counter)
    """Refusals of a full queue, each asked again after the seconds that it named."""
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.answered + self.rejected.total() + len(self.wrong) + len(self.lost)

    def __str__(self) -> str:
        return (
            f"{self.total:,} requests: {self.answered:,} answered as offline, {self.rejected.total():,} "
            f"rejected {dict(sorted(self.rejected.items()))}, {len(self.wrong)} wrong, {len(self.lost)} "
            f"lost; told to wait {dict(sorted(self.told_to_wait.items()))}"
        )


# --- what is asked -------------------------------------------------------------------------------


def photograph(height: int, width: int, seed: int, kind: str) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(content, kind)
    return content.getvalue()


def photographs(count: int) -> Iterator[bytes]:
    """No two of one size."""
    sizes = list(itertools.product(range(40, 240, 10), range(45, 245, 10)))
    drawn = np.random.default_rng(0).permutation(len(sizes))[:count]
    for seed, which in enumerate(drawn.tolist()):
        yield photograph(*sizes[which], seed, ("JPEG", "PNG", "WEBP")[seed % 3])


def cases(model: Any, sizes: int) -> tuple[list[Case], list[Case]]:
    """The good and the bad ones. What is right is what the model says here, of one image after another."""
    limits = Limits(max_pixels=300_000)
    seeing = ServedClassifier(model) if hasattr(model, "network") else ServedDetector(model)
    predictor = Predictor(seeing, FeatureCache(limits), limits.max_pixels)
    good = [_expected(f"photograph {i}", body, predictor) for i, body in enumerate(photographs(sizes))]
    damaged = [_expected(bad.name, bad.data, predictor) for bad in corpus()[::37]]
    bad = [*(case for case in damaged if case.status >= 400), *malformed()]
    return [*good, *(case for case in damaged if case.status == 200)], bad


def _expected(name: str, body: bytes, predictor: Predictor) -> Case:
    try:
        said = predictor.look(body, Question())
    except (ImageError, Refusal) as error:
        status = error.status if isinstance(error, Refusal) else 400
        return Case(name, body, status=400 if not body else status)
    return Case(name, body, answer={key: said[key] for key in said if key not in TIMES})


def malformed() -> list[Case]:
    """Requests that are wrong in themselves."""
    part = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    return [
        Case("more than the server takes", bytes(3 << 20), status=413),
        Case("more pixels than it takes", photograph(600, 600, 0, "PNG"), status=413),
        Case("a form without boundary", part, kind="multipart/form-data", status=400),
        Case("a form without its end", part + b"half", kind=FORM, status=400),
        Case("a form of no files", b"--x--\r\n", kind=FORM, status=400),
        Case("too many files", (part + b"a\r\n") * 40 + b"--x--\r\n", kind=FORM, status=400),
        Case("the name of a file", b"file:///etc/hostname", status=400),
        Case("a URL", b"http://127.0.0.1/photo.jpg", kind="text/uri-list", status=400),
        Case("windows of no image", b'{"id": "x", "boxes": [[0, 0, 9, 9]]}', "windows", status=404),
        Case("windows that are no JSON", b"{", "windows", status=422),
        Case("windows nested deep", b"[" * 50_000, "windows", status=422),
        Case("a page that is not there", b"", "../../etc/hostname", "GET", status=404),
        Case("another method", b"", method="DELETE", status=405),
    ]


# --- those who ask -------------------------------------------------------------------------------


class Client:
    """Asks one request after another over a connection that it keeps."""

    def __init__(self, port: int, work: str, number: int) -> None:
        address = f"127.0.0.{1 + number % ADDRESSES}"
        self.connection = http.client.HTTPConnection("127.0.0.1", port, WAIT, (address, 0))
        self.work = work

    def ask(self, case: Case, tally: Tally) -> None:
        ends = time.monotonic() + WAIT
        while time.monotonic() < ends:
            try:
                status, content, seconds = self._send(case)
            except (OSError, http.client.HTTPException) as error:
                self.connection.close()
                tally.lost.append(f"{case.name}: {error!r}")
                return
            if status not in REFUSED:
                return _judge(case, status, content, tally)
            tally.told_to_wait[status] += 1
            time.sleep(seconds)
        tally.lost.append(f"{case.name}: refused for {WAIT:g} seconds")

    def _send(self, case: Case) -> tuple[int, bytes, float]:
        headers = {"Content-Type": case.kind, "Connection": "keep-alive"}
        self.connection.request(case.method, f"/v1/{case.path or self.work}", case.body, headers)
        answer = self.connection.getresponse()
        return answer.status, answer.read(), float(answer.headers.get("Retry-After", 1))


def _judge(case: Case, status: int, content: bytes, tally: Tally) -> None:
    if status != case.status:
        tally.wrong.append(f"{case.name}: {status} {content[:200]!r}")
    elif status >= 400:
        tally.rejected[status] += 1
    elif differs(json.loads(content), case.answer):
        tally.wrong.append(f"{case.name}: {content[:200]!r}, not {case.answer}")
    else:
        tally.answered += 1


def differs(told: Any, expected: Any) -> bool:
    """Anywhere in it, by more than what a float loses as text; keys beyond the expected ones do not count."""
    if isinstance(expected, dict):
        return any(key not in told or differs(told[key], expected[key]) for key in expected)
    if isinstance(expected, (list, tuple)):
        return len(told) != len(expected) or any(map(differs, told, expected))
    if isinstance(expected, float):
        return abs(told - expected) > 1e-3
    return bool(told != expected)


def crowd(port: int, work: str, asked: Sequence[Case], clients: int) -> Tally:
    """Everything asked once, by so many clients at the same time."""
    tallies, todo, lock = [Tally() for _ in range(clients)], iter(asked), threading.Lock()

    def run(number: int) -> None:
        client = Client(port, work, number)
        while True:
            with lock:
                case = next(todo, None)
            if case is None:
                return client.connection.close()
            client.ask(case, tallies[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _sum(tallies)


def _sum(tallies: Sequence[Tally]) -> Tally:
    whole = Tally()
    for tally in tallies:
        whole.answered += tally.answered
        whole.rejected += tally.rejected
        whole.told_to_wait += tally.told_to_wait
        whole.wrong += tally.wrong
        whole.lost += tally.lost
    return whole


def half_sent(port: int, content: bytes, address: str = "127.0.0.1") -> socket.socket:
    """A connection on which so much has been sent."""
    client = socket.create_connection(("127.0.0.1", port), 60, (address, 0))
    client.sendall(content)
    return client


def head(work: str, length: int, extra: str = "") -> bytes:
    """Of a request whose body has so many bytes."""
    return f"POST /v1/{work} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{extra}\r\n".encode()


def status_of(client: socket.socket) -> str:
    """Of the answer that comes; "closed" where none does."""
    try:
        answer = client.recv(1 << 16)
    except ConnectionResetError:
        return "closed"
    return answer.split()[1].decode() if answer else "closed"
