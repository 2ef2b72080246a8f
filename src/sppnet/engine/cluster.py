"""Ray: the one that RAY_ADDRESS names, or one of this machine alone that ends with the work.

Ray by itself listens on all addresses of a machine, and whoever reaches it can run programs there. The
one that is started here listens on the loopback and wants a token that is drawn for it, sends no usage
statistics, has no dashboard, and keeps its files in a folder that goes with it.
"""

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from sppnet.errors import ConfigError, MissingExtraError

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
}
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
"""The first is Ray's switch for the loopback alone, on every system (ray 2.60)."""
KNOCK_SECONDS = 5


@contextmanager
def joined() -> Iterator[Any]:
    """The module `ray`, connected. Raises MissingExtraError; ConfigError if no Ray is at RAY_ADDRESS."""
    address = os.environ.get("RAY_ADDRESS")
    chosen = QUIET if address else {**QUIET, **ALONE, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with _environment(chosen), redirect_stdout(sys.stderr):  # Ray tells of lost workers on the former
        ray = _import_ray()
        if ray.is_initialized():  # by whoever calls us, and theirs to end
            yield ray
            return
        folder = None if address else tempfile.mkdtemp(prefix="sppnet-ray-")
        try:
            _connect(ray, address, folder)
            yield ray
        finally:
            ray.shutdown()
            if folder:
                shutil.rmtree(folder, ignore_errors=True)


def _connect(ray: Any, address: str | None, folder: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    on_term = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            _knock(address)
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", include_dashboard=False, _temp_dir=folder, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        asked = f"at RAY_ADDRESS={address}" if address else "on this machine"
        raise ConfigError(
            f"no Ray {asked}: {reason}; start one there (ray start --head), or unset RAY_ADDRESS to use the "
            "cores of this machine"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_term)  # Ray's own ends the process at once, with a stack of C


def _knock(address: str) -> None:
    """Raises OSError where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    return ray


@contextmanager
def _environment(chosen: dict[str, str]) -> Iterator[None]:
    """Variables for Ray and the processes that it starts, where the user has not set them."""
    added = {name: value for name, value in chosen.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
