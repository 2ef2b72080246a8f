"""The floor of work that is matrix products: its multiply-adds at the rate of one large product."""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

SIDE = 1024
PRODUCT = SIDE**3
"""Multiply-adds of `large_product`."""

Call = Callable[[], object]


def multiply_adds(call: Call) -> int:
    """Of all the convolutions and matrix products that torch does in a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops()) // 2


def large_product(seed: int = 0, device: str = "cpu") -> Call:
    """A product of two float32 matrices, large enough for the machine to be at its best."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(SIDE, SIDE, generator=generator).to(device) for _ in range(2))
    return lambda: left @ right
