"""Published ImageNet weights, from torch's cache or downloaded into it once."""

import hashlib
import queue
import re
import tempfile
import threading
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor

from sppnet.errors import ModelError
from sppnet.nn.weights import read_weights

ANSWER_SECONDS = 5
"""A server that has not answered by then is taken to be out of reach."""
SILENCE_SECONDS = 30
"""Of a download that has begun."""


def published_weights(url: str) -> dict[str, Tensor]:
    """The tensors of a published file. Raises ModelError, which says where the file should be."""
    path = _cache_folder() / Path(urlparse(url).path).name
    if not path.is_file():
        _download(url, path)
    try:
        return read_weights(path)
    except ModelError as error:
        raise ModelError(
            f"the weights in torch's cache are damaged: delete {path} and run this again, to download them "
            f"anew ({error})"
        ) from error


def _cache_folder() -> Path:
    folder = Path(torch.hub.get_dir(), "checkpoints")
    if not folder.is_absolute():  # "~/…", where there is no home
        raise ModelError(
            "no folder for downloaded weights: neither TORCH_HOME nor HOME is set; set TORCH_HOME to a "
            "folder that can be written, or pass a weights file"
        )
    return folder


def _download(url: str, path: Path) -> None:
    """Into a file beside it, which takes its name when it is whole."""
    answer = _ask(url, path)
    digest = hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with answer, tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            part = Path(file.name)
            try:
                while block := answer.read(1 << 20):
                    digest.update(block)
                    file.write(block)
                file.close()
                _check_hash(url, path, digest.hexdigest())
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:  # among them what is raised of a connection
        raise ModelError(
            f"{url} could not be downloaded to {path}: {error}. Run this again; or set TORCH_HOME to a "
            "folder that can be written; or pass a weights file"
        ) from error


def _ask(url: str, path: Path) -> Any:
    """The server's answer, whose body is not read yet. A thread waits: names are looked up without limit."""
    answers: queue.Queue[Any] = queue.Queue()

    def ask() -> None:
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "sppnet"})
            answers.put(urllib.request.urlopen(request, timeout=SILENCE_SECONDS))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True, name="sppnet-download").start()
    try:
        answer = answers.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        answer = TimeoutError(f"no answer within {ANSWER_SECONDS} seconds")
    if isinstance(answer, Exception):
        reason = getattr(answer, "reason", None) or answer
        raise ModelError(
            f"no weights at {path}, and {urlparse(url).netloc} cannot be reached to download them "
            f"({reason}). Connect this machine or set https_proxy; or download {url} elsewhere and copy it "
            f"to {path}; or pass a weights file"
        ) from answer
    return answer


def _check_hash(url: str, path: Path, digest: str) -> None:
    expected = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if expected and not digest.startswith(expected[1]):
        raise ModelError(
            f"what {url} sent is not the file it names: its SHA-256 begins with {digest[:8]} where "
            f"{expected[1]} was expected. A proxy may have sent a page of its own; download it elsewhere and "
            f"copy it to {path}"
        )
