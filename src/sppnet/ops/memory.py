"""Memory for large results, used again once its tensor is gone.

2,000 vectors of 12,800 numbers are 100 MB. Fresh from the system they cost 20 to 50 ms of page
faults, more than the pooling that fills them, and a detector asks for as many for every image.
So the last large block whose tensor was freed is kept for the next one.
"""

import math
import threading
import weakref

import numpy as np
import torch
from torch import Tensor

LARGE_BYTES = 8 << 20
"""Smaller results come from torch: the C library keeps such memory by itself."""
KEPT_BYTES = 512 << 20
"""No larger block is kept."""

_ALIGNMENT = 64  # a cache line
_spare: list[np.ndarray] = []
_lock = threading.RLock()  # garbage collected while it is held may give back a block


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """As torch.empty, on the CPU."""
    size = math.prod(shape) * dtype.itemsize
    if size < LARGE_BYTES:
        return torch.empty(shape, dtype=dtype)
    block = _take(size)
    start = -block.ctypes.data % _ALIGNMENT
    part = block[start : start + size]
    weakref.finalize(part, _give_back, block).atexit = False  # the tensor holds `part` while it lives
    return torch.from_numpy(part).view(dtype).view(shape)


def _take(size: int) -> np.ndarray:
    with _lock:
        block = _spare.pop() if _spare else None
    if block is None or not size + _ALIGNMENT <= block.nbytes <= 4 * size:
        block = np.empty(size + _ALIGNMENT, np.uint8)  # numpy asks for huge pages, torch does not
    return block


def _give_back(block: np.ndarray) -> None:
    with _lock:
        if not _spare and block.nbytes <= KEPT_BYTES:
            _spare.append(block)
