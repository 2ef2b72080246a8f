"""onnxruntime's sessions, and the packages of the extra onnx."""

import importlib
import os
import sys
import threading
from typing import Any

import torch

from sppnet.arrays import Array
from sppnet.errors import MissingExtraError, ModelError

NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"
"""What onnxruntime looks for in the environment, once."""

_import_lock = threading.Lock()


def open_session(content: bytes, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU; raises ModelError for what it does not take."""
    runtime = import_extra("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what fails is raised, and in our words
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are shared
    try:
        # Its fallback would print, and try the same once more.
        return runtime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:
        raise ModelError(f"onnxruntime does not take the network: {first_line(error)}") from error


def run_session(session: Any, images: Array) -> list[Array]:
    """All outputs, in their order; raises ModelError."""
    try:
        outputs: list[Array] = session.run(None, {session.get_inputs()[0].name: images})
        return outputs
    except Exception as error:
        raise ModelError(f"the network fails on {images.shape}: {first_line(error)}") from error


class SharedSession:
    """One network in onnxruntime, for any thread and process."""

    def __init__(self, content: bytes) -> None:
        """content: of an ONNX file."""
        self._content = content
        self._sessions: dict[tuple[int, int], Any] = {}
        self._lock, self._running = threading.Lock(), 0

    def __reduce__(self) -> tuple[type["SharedSession"], tuple[bytes]]:
        return SharedSession, (self._content,)

    def run(self, images: Array) -> dict[str, Array]:
        """All outputs by their names, in their order; raises ModelError."""
        with self._lock:
            # Who is alone gets all threads. Several at once get one each, which takes a tenth less time.
            session = self._session(1 if self._running else torch.get_num_threads())
            self._running += 1
        try:
            outputs = run_session(session, images)
        finally:
            with self._lock:
                self._running -= 1
        return dict(zip((one.name for one in session.get_outputs()), outputs, strict=True))

    def _session(self, threads: int) -> Any:
        key = os.getpid(), threads  # a session does not survive a fork
        if key not in self._sessions:
            self._sessions[key] = open_session(self._content, threads)
        return self._sessions[key]


def import_extra(package: str) -> Any:
    """A package of the extra onnx; raises MissingExtraError."""
    try:
        return _import_runtime() if package == "onnxruntime" else importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, "onnx") from error


def _import_runtime() -> Any:
    """onnxruntime without its telemetry, which begins as it is imported: an id in the home folder, and a
    database of events. Where a program imported it before, that was the program's choice.
    """
    with _import_lock:
        if "onnxruntime" in sys.modules:
            return importlib.import_module("onnxruntime")
        before = os.environ.get(NO_TELEMETRY)
        os.environ[NO_TELEMETRY] = "1"
        try:
            runtime = importlib.import_module("onnxruntime")
        finally:
            if before is None:
                del os.environ[NO_TELEMETRY]
            else:
                os.environ[NO_TELEMETRY] = before
        runtime.disable_telemetry_events()
        return runtime


def first_line(error: Exception) -> str:
    """Of what onnxruntime says, which may be pages."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
