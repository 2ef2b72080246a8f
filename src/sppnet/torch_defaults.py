"""What torch takes where nothing is said: numbers of 32 bits, the CPU, gradients, no autocast; threads."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def own_defaults(training: bool = False) -> Iterator[None]:
    """torch's own defaults within the block, or the function, whatever the program around it has set.

    training: with gradients too, as under torch.no_grad() nothing would be learnt.
    The number type is the whole process's for as long; everything else is this thread's.
    """
    with ExitStack() as settings:
        if (dtype := torch.get_default_dtype()) != torch.float32:
            torch.set_default_dtype(torch.float32)
            settings.callback(torch.set_default_dtype, dtype)
        if torch.get_default_device().type != "cpu":
            settings.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                settings.enter_context(torch.autocast(device, enabled=False))
        if training:
            settings.enter_context(torch.inference_mode(False))
            settings.enter_context(torch.enable_grad())
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread: on several, it may split a sum among them, and its last bits change."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
