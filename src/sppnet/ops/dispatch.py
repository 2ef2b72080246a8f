"""Which implementation pools: one table, and what stands against each."""

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from torch import Tensor

from sppnet import jit
from sppnet.errors import ConfigError, did_you_mean
from sppnet.ops import reference, torch_impl

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Implementation:
    """A way to compute the operator."""

    load: Callable[[], ModuleType]
    """Imports it: numba and Triton are slow to import, and Triton is not everywhere."""
    refuses: Callable[[Tensor], str | None]
    """Why it cannot take these features, or None if it can."""
    because: str
    """Why it is chosen when it can."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why."""

    name: str
    reason: str


def _load_cpu() -> ModuleType:
    from sppnet.ops import numba_impl

    return numba_impl


def _load_gpu() -> ModuleType:
    from sppnet.ops import triton_impl

    return triton_impl


def _cpu_refuses(features: Tensor) -> str | None:
    return _kernel_refuses(features, "cpu") or kernels_missing()


def kernels_missing() -> str | None:
    """Why the compiled kernels cannot be used in this process, or None."""
    return jit.lost_threads() or _kernels_unusable()


@cache
def _kernels_unusable() -> str | None:
    if problem := jit.problem():
        return problem
    try:
        folder = jit.cache_folder(_load_cpu()._pool)
    except Exception as error:  # an LLVM that does not fit
        return f"the kernels cannot be loaded ({type(error).__name__}: {error})"
    if folder is None:
        return (
            "no folder can be written in which compiled kernels would be kept, and compiling takes longer "
            "than it saves; set NUMBA_CACHE_DIR to one that can"
        )
    return None


def _gpu_refuses(features: Tensor) -> str | None:
    refusal = _kernel_refuses(features, "cuda")
    return refusal or (None if importlib.util.find_spec("triton") else "Triton is not installed")


def _kernel_refuses(features: Tensor, device: str) -> str | None:
    if features.device.type != device:
        return f"features are on {features.device.type}"
    known = features.dtype.is_floating_point and features.dtype.itemsize >= 2
    return None if known else f"no kernel for {features.dtype}"


IMPLEMENTATIONS = {
    "cpu": Implementation(
        _load_cpu, _cpu_refuses, "floating-point features on the CPU: numba kernel, all cores"
    ),
    "gpu": Implementation(_load_gpu, _gpu_refuses, "features on a CUDA device: Triton kernel"),
    "torch": Implementation(lambda: torch_impl, lambda _: None, "torch operations take any device and dtype"),
    "definition": Implementation(lambda: reference, lambda _: None, "plain loops, only when forced"),
}
"""In order of preference: the first that does not refuse is taken."""

_forced: ContextVar[str | None] = ContextVar("forced implementation", default=None)


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Force one implementation within a `with` block: "cpu", "gpu", "torch" or "definition"."""
    if name not in IMPLEMENTATIONS:
        raise ConfigError(f"no implementation {name!r}; {did_you_mean(name, IMPLEMENTATIONS)}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def choose(features: Tensor) -> Choice:
    """Which implementation pools these features, and why."""
    forced = _forced.get()
    if forced is not None:
        refusal = IMPLEMENTATIONS[forced].refuses(features)
        if refusal:
            raise ConfigError(f"the {forced} implementation was forced, but {refusal}")
        return Choice(forced, "forced by sppnet.ops.using")
    refusals: list[str] = []
    for name, implementation in IMPLEMENTATIONS.items():
        refusal = implementation.refuses(features)
        if refusal is None:
            return Choice(name, "; ".join([implementation.because, *refusals]))
        refusals.append(f"not {name}: {refusal}")
    raise AssertionError("torch takes everything")


def load_chosen(features: Tensor) -> ModuleType:
    """The module of the implementation that pools these features."""
    name = choose(features).name
    if name == "torch" and features.device.type == "cpu" and (missing := kernels_missing()):
        _say_once(missing)
    return IMPLEMENTATIONS[name].load()


@cache
def _say_once(missing: str) -> None:
    logger.warning("pooling in torch operations, slower than the compiled kernels: %s", missing)
