"""Where networks run."""

import os

import torch

from sppnet.errors import ConfigError


def find_device(name: str) -> torch.device:
    """The device of a name; "auto" is the first CUDA device, or the CPU."""
    if name == "auto":
        # torchrun numbers the processes of a machine; each takes a device of its own.
        local = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"no device {name!r} here: {error}") from error
    return device
