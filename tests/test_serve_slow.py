"""Clients that stop in the middle, go away or talk nonsense: none of them keeps others out."""

import http.client
import json
import logging
import re
import socket
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from load import Case, crowd, half_sent, head, photograph, status_of
from served import make_detector, serving
from sppnet.serve.limits import Limits

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
