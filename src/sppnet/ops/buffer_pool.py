"""Memory for large results, used again once its tensor is gone.

2,000 vectors of 12,800 numbers are 100 MB. Fresh from the system they cost 20 to 50 ms of page
faults, more than the pooling that fills them, and a detector asks for as many for every image.
So the last few large blocks whose tensors were freed are kept for the next ones.
"""

import math
import mmap
import threading
import weakref
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

LARGE_BYTES = 1 << 20
"""Smaller results come from torch."""
KEPT_BYTES = 512 << 20
"""Of all blocks together; a larger one is not kept."""
KEPT_BLOCKS = 4

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
    """The smallest spare block that will do, of equals the last used, or a new one."""
    with _lock:
        fitting = [block for block in reversed(_spare) if size + _ALIGNMENT <= block.nbytes <= 4 * size]
        block = min(fitting, key=lambda block: block.nbytes, default=None)
        if block is not None:
            _spare[:] = [spare for spare in _spare if spare is not block]
    return _fresh(size + _ALIGNMENT) if block is None else block


def _fresh(size: int) -> np.ndarray:
    """Straight from the system, in huge pages where it has them: what malloc kept may lie in small ones."""
    pages = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


def _give_back(block: np.ndarray) -> None:
    """The oldest make room."""
    with _lock:
        if block.nbytes <= KEPT_BYTES:
            _spare.append(block)
        while len(_spare) > KEPT_BLOCKS or sum(spare.nbytes for spare in _spare) > KEPT_BYTES:
            _spare.pop(0)
