"""Whole networks by name, as they were published: the paper's, torchvision's and EfficientNet-Lites."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sppnet.errors import ModelError, did_you_mean
from sppnet.nn.backbones import BACKBONES, build_backbone
from sppnet.nn.detector_names import TORCHVISION_DETECTORS
from sppnet.nn.efficientnet_lite import EFFICIENTNET_LITES, EfficientNetLite


class ParametersOnMeta(TorchFunctionMode):
    """Makes what parameters and buffers are made from without memory.

    Not `with torch.device("meta")`: some constructors (RegNet's) compute widths with small tensors.
    """

    FACTORIES = (torch.empty, torch.zeros, torch.ones)
    FILLERS = ("normal_", "uniform_")  # without memory too they take a millisecond each

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.FACTORIES:
            kwargs = {**kwargs, "device": "meta"}
        if getattr(func, "__name__", "") in self.FILLERS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


OWN_NAMES = (*BACKBONES, *EFFICIENTNET_LITES)


def is_known(base: str) -> bool:
    """Whether a network has that name; torchvision, which takes seconds to import, is asked last."""
    return base in OWN_NAMES or base in known_names()


def known_names() -> list[str]:
    from torchvision import models

    return [*OWN_NAMES, *models.list_models(module=models)]


def whole_network(name: str, width: float, empty: bool = False) -> nn.Module:
    """The whole network, randomly initialised or without values."""
    base = name.partition(":")[0]
    if base in TORCHVISION_DETECTORS:
        raise ModelError(f"{base} is a detection network, which is a trunk of detectors alone; name it whole")
    if not is_known(base):
        hint = did_you_mean(base, [*known_names(), *TORCHVISION_DETECTORS])
        raise ModelError(f"no trunk is called {base!r}; {hint} (networks of timm are written timm:<name>)")
    with ParametersOnMeta() if empty else nullcontext():
        if base in BACKBONES:
            return build_backbone(base, width)
        refuse_width(base, width)
        if base in EFFICIENTNET_LITES:
            return EfficientNetLite(base)
        # Without the argument these two warn, and with True they take minutes to draw truncated normals.
        from torchvision import models

        options = {"init_weights": False} if base in ("googlenet", "inception_v3") else {}
        network: nn.Module = models.get_model(base, weights=None, **options)
        return network


def refuse_width(name: str, width: float) -> None:
    if width != 1:
        raise ModelError(
            f"width must be 1 for {name}, got {width}; only the paper's {', '.join(BACKBONES)} take it"
        )
