"""The folder of a training, classifier's or detector's: one process at a time, and one configuration."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sppnet.destination import check_destination
from sppnet.errors import ConfigError
from sppnet.nn.model_file import UNFINISHED, write_file

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]


@contextmanager
def lock_run(root: Path) -> Iterator[None]:
    """The folder for this process alone; made if it is not there.

    The system lets go of it whenever the process ends, however that comes about, and no lock file stays.
    What a killed run left half written is removed. Raises ConfigError if another process trains there.
    """
    check_destination(root, "--out")
    root.mkdir(parents=True, exist_ok=True)
    handle = os.open(root, os.O_RDONLY) if fcntl else None
    try:
        if handle is not None:
            _lock(handle, root)
        for pattern in (UNFINISHED, f"stages/{UNFINISHED}", f"stages/*/{UNFINISHED}"):
            for left in root.glob(pattern):
                left.unlink(missing_ok=True)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _lock(handle: int, root: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(f"another process trains in {root}; wait for it or choose another --out") from error
    except OSError:  # a file system without locks: better to train than not
        return


def check_unused(folder: Path, results: Iterable[Path]) -> None:
    """Raises ConfigError if a run's results are there."""
    if any(result.exists() for result in results):
        raise ConfigError(f"{folder} holds a run already; resume it (--resume) or choose another --out")


def keep_config(
    path: Path, described: Mapping[str, Any], free: Iterable[str], results: Iterable[Path], resume: bool
) -> None:
    """Write a run's configuration, or compare it with the one that the run was begun with.

    free: names of what may change when a run is resumed. results: files that a run leaves.
    Raises ConfigError if another run's results would be lost, or a resumed run has other settings.
    """
    described = json.loads(json.dumps(described))
    if resume and path.exists():
        _check_same(path, described, set(free))
    else:
        check_unused(path.parent, results)
    write_file(path, (json.dumps(described, indent=2) + "\n").encode())


def _check_same(path: Path, described: Mapping[str, Any], free: set[str]) -> None:
    try:
        before = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is damaged ({error}); choose another --out") from error
    changed = [key for key in described if key not in free and described[key] != before.get(key)]
    if changed:
        was = ", ".join(f"{key} was {before.get(key)!r}" for key in changed)
        raise ConfigError(f"{path.parent} was started with other settings: {was}. Resume with those")
