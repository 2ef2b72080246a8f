"""Asking a server without waiting for one that is out of reach."""

import queue
import threading
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlparse

ANSWER_SECONDS = 5
"""A server that has not answered by then is taken to be out of reach."""
SILENCE_SECONDS = 30
"""Of a download that has begun."""


def request_url(url: str) -> Any:
    """The server's answer, whose body is not read yet, or the exception."""
    request = urllib.request.Request(url, headers={"User-Agent": "sppnet"})
    return first_answer(lambda: urllib.request.urlopen(request, timeout=SILENCE_SECONDS))


def first_answer(ask: Callable[[], Any], seconds: float | None = None) -> Any:
    """What `ask` returns or raises. A thread waits: names are looked up without limit."""
    answers: queue.Queue[Any] = queue.Queue()
    seconds = ANSWER_SECONDS if seconds is None else seconds

    def wait() -> None:
        try:
            answers.put(ask())
        except Exception as error:
            answers.put(error)

    threading.Thread(target=wait, daemon=True, name="sppnet-download").start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return TimeoutError(f"no answer within {seconds} seconds")


def unreachable(url: str, error: Exception) -> str:
    """What to say of a server that did not answer."""
    reason = getattr(error, "reason", None) or error
    return (
        f"{urlparse(url).netloc} cannot be reached to download them ({reason}). Connect this machine or set "
        "https_proxy"
    )
