"""The floor of work that is matrix products: its multiply-adds at the rate of one large product."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

from sppnet.features.detector_extractor import AnyExtractor
from sppnet.features.extractor import FeatureExtractor
from sppnet.nn.engines import TorchEngine

SIDE = 1024
PRODUCT = SIDE**3
"""Multiply-adds of `large_product`."""

Call = Callable[[], object]


def multiply_adds(call: Call, extractors: Sequence[AnyExtractor] = ()) -> int:
    """Of all the convolutions and matrix products that torch does in a call.

    extractors: those that are called; they run their trunks in torch for the count, whatever their engine.
    """
    with FlopCounterMode(display=False) as counter, _in_torch(extractors):
        call()
    return int(counter.get_total_flops()) // 2


@contextmanager
def _in_torch(extractors: Sequence[AnyExtractor]) -> Iterator[None]:
    before = [(one, one.engine) for one in extractors if isinstance(one, FeatureExtractor)]
    for extractor, _ in before:
        extractor.engine = TorchEngine(extractor.body, extractor.device, "to be counted")
    try:
        yield
    finally:
        for extractor, engine in before:
            extractor.engine = engine


def large_product(seed: int = 0, device: str = "cpu") -> Call:
    """A product of two float32 matrices, large enough for the machine to be at its best."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(SIDE, SIDE, generator=generator).to(device) for _ in range(2))
    return lambda: left @ right
