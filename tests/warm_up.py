"""Compiles every kernel once, shared out over the processes that run the tests.

In a fresh checkout each of them would compile all that its tests need, which is most of what the other
compiles: minutes of a core. What has been compiled lies in numba's cache on disk for all.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from sppnet.ops.pooling import pyramid_pool
from sppnet.proposals.selective_search.search import selective_search
from sppnet.svm.linear_svm import fit_svm

PATIENCE = 300
"""Seconds to wait for another process, which may have died: its kernels are then compiled when needed."""


def pool(dtype: torch.dtype) -> None:
    pyramid_pool(torch.zeros(1, 70, 9, 9, dtype=dtype), None, (1, 2, 3, 6))


def pool_and_back(dtype: torch.dtype) -> None:
    features = torch.zeros(1, 70, 9, 9, dtype=dtype, requires_grad=True)
    pyramid_pool(features, None, (1, 2, 3, 6)).sum().backward()


def fit(count: int, length: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(count, length)).astype(np.float32)
    fit_svm(vectors, np.arange(count) % 3)


def search() -> None:
    selective_search(np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8))


JOBS: dict[str, Callable[[], None]] = {
    "double": lambda: pool_and_back(torch.float64),
    "single": lambda: pool_and_back(torch.float32),
    "half": lambda: pool(torch.float16),
    "search": search,
    "SVMs on rows": lambda: fit(240, 12),
    "SVMs on a Gram matrix": lambda: fit(60, 400),
}
"""The longest first."""


def compile_shared(folder: Path) -> None:
    """Does jobs until none is left, and waits for those that others have begun, who share the folder."""
    folder.mkdir(exist_ok=True)
    for name in claim(folder):
        JOBS[name]()
        (folder / f"{name} done").touch()
    since = time.monotonic()
    while time.monotonic() - since < PATIENCE and not all((folder / f"{n} done").exists() for n in JOBS):
        time.sleep(0.1)


def claim(folder: Path) -> Iterator[str]:
    """The jobs that no other process has begun."""
    for name in JOBS:
        with contextlib.suppress(FileExistsError):
            (folder / name).touch(exist_ok=False)
            yield name
