"""pyramid_pool: the one operator, and the table that chooses who computes it.

The chosen implementation runs inside a `torch.library` custom op, so autograd, `torch.compile`
and `torch.export` see one node of known shape, and everything that looks at numbers (checks of
the cells, the choice itself) happens when it runs.
"""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sppnet.errors import ConfigError, GeometryError, did_you_mean
from sppnet.geometry.grid import check_levels, count_bins
from sppnet.ops import anywhere, average, definition

Cells = Tensor | npt.NDArray[np.integer]
Windows = Cells | Sequence[Cells] | None


def pyramid_pool(
    features: Tensor,
    cells: Windows = None,
    levels: Sequence[int] = (1, 2, 3, 6),
    pooling: Literal["max", "average"] = "max",
) -> Tensor:
    """Pool windows of feature maps on n×n grids into vectors of one length.

    features: (b, c, h, w), integers or floats of 16 bits or more, any memory format.
    cells: the windows, xyxy in feature cells, half-open, integers: None for each whole map; for one
        map (n, 4), tensor or array; b of those, one a map; or (n, 5) with the map's index first.
    levels: n of each grid; (1, 2, 3, 6) has 50 bins.
    Returns (n, c × bins) of the features' dtype: level after level, in each channel, row, column.
    On a window that is `torch.cat([F.adaptive_max_pool2d(window, n).flatten(1) for n in levels], 1)`,
    bit for bit (paper Appendix A). NaN wins a bin.

    The gradient goes to the first maximum of a bin, by rows; the same on every run and any number
    of threads. It cannot be differentiated twice. Raises GeometryError for cells outside a map.
    """
    checked = check_levels(levels)
    if features.ndim != 4:
        raise GeometryError(f"features must have shape (b, c, h, w); got {tuple(features.shape)}")
    if features.is_complex() or (features.dtype.itemsize == 1 and features.is_floating_point()):
        raise GeometryError(f"features must be integers or floats of 16 bits or more; got {features.dtype}")
    windows = _list_windows(features, cells)
    if pooling == "average":
        return average.pool(features, _check_cells(features, windows), checked)
    if pooling != "max":
        raise GeometryError(f'pooling must be "max" or "average"; got {pooling!r}')
    return cast(Tensor, torch.ops.sppnet.pyramid_pool(features, windows, list(checked)))


def pool_maps(maps: Sequence[Tensor], cells: Cells, levels: Sequence[int] = (1, 2, 3, 6)) -> Tensor:
    """Pool windows of maps of several sizes, as `pyramid_pool` pools those of each.

    maps: (c, h, w) each, of one dtype and device. cells: (n, 5), the map's index first.
    Returns (n, c × bins), in the order of `cells`. Raises GeometryError for maps that differ in more than
    their size, and for cells outside their map.
    """
    checked = check_levels(levels)
    kinds = {(each.ndim, len(each), each.dtype, each.device) for each in maps}
    if len(kinds) != 1 or maps[0].ndim != 3:
        shapes = [(tuple(each.shape), each.dtype) for each in maps]
        raise GeometryError(f"maps must be (c, h, w) of the same c, dtype and device; got {shapes}")
    windows = _as_indices(torch.as_tensor(cells), maps[0])
    if windows.ndim != 2 or windows.shape[1] != 5:
        raise GeometryError(f"cells must be (n, 5), the map's index first; got {tuple(windows.shape)}")
    chosen = [(windows[:, 0] == index).nonzero()[:, 0] for index in range(len(maps))]
    if sum(map(len, chosen)) != len(windows):
        raise GeometryError(f"cells name maps {windows[:, 0].unique().tolist()}; there are {len(maps)}")
    parts = [F.pad(windows[rows, 1:], (1, 0)) for rows in chosen]
    learning = torch.is_grad_enabled() and any(features.requires_grad for features in maps)
    if choose(maps[0]).name == "cpu" and not learning:
        for features, part in zip(maps, parts, strict=True):
            _check_cells(features[None], part)
        return cast(Tensor, _load_cpu().pool_maps(maps, windows, checked))
    vectors = [
        pyramid_pool(features[None], part, checked) for features, part in zip(maps, parts, strict=True)
    ]
    return torch.cat(vectors)[torch.cat(chosen).argsort()]


# --- windows -------------------------------------------------------------------------------------


def _list_windows(features: Tensor, cells: Windows) -> Tensor | None:
    """(n, 5) int64 on the features' device, or None for the whole maps."""
    if cells is None:
        return None
    if isinstance(cells, np.ndarray):
        cells = torch.from_numpy(cells)
    if isinstance(cells, Tensor):
        if cells.ndim == 2 and cells.shape[1] == 5:
            return _as_indices(cells, features)
        if features.shape[0] != 1:
            raise GeometryError(
                f"for {features.shape[0]} maps, cells must be one (n, 4) tensor a map or (n, 5) with the "
                f"map's index first; got one tensor of shape {tuple(cells.shape)}"
            )
        cells = [cells]
    parts = [torch.as_tensor(part) for part in cells]
    if len(parts) != features.shape[0] or any(part.ndim != 2 or part.shape[1] != 4 for part in parts):
        shapes = [tuple(part.shape) for part in parts]
        raise GeometryError(
            f"cells must be {features.shape[0]} tensors (n, 4), one for each map; got shapes {shapes}"
        )
    rows = [F.pad(part, (1, 0), value=index) for index, part in enumerate(parts)]
    return _as_indices(torch.cat(rows) if rows else torch.empty(0, 5, dtype=torch.int64), features)


def _as_indices(cells: Tensor, features: Tensor) -> Tensor:
    if cells.is_floating_point() or cells.is_complex() or cells.dtype == torch.bool:
        raise GeometryError(
            f"cells must be integers; got {cells.dtype}. boxes_to_cells turns image boxes into cells"
        )
    return cells.to(device=features.device, dtype=torch.int64)


def _check_cells(features: Tensor, cells: Tensor | None) -> Tensor:
    """The windows, whole maps for None; raises GeometryError naming the first that does not fit."""
    batch, _, height, width = features.shape
    if min(height, width) < 1:
        raise GeometryError(
            f"a feature map needs at least 1×1 cells; got {height}×{width}. Use a larger image"
        )
    if cells is None:
        whole = torch.tensor([0, 0, 0, width, height], device=features.device).repeat(batch, 1)
        whole[:, 0] = torch.arange(batch, device=features.device)
        return whole
    which, x0, y0, x1, y1 = cells.unbind(1)
    fits = (which >= 0) & (which < batch) & (x0 >= 0) & (x0 < x1) & (x1 <= width)
    fits &= (y0 >= 0) & (y0 < y1) & (y1 <= height)
    if not fits.all():
        index = int((~fits).nonzero()[0])
        raise GeometryError(
            f"window {index} (map, x0, y0, x1, y1) = {tuple(cells[index].tolist())} is empty or not inside "
            f"the {batch} maps of {height}×{width} cells; boxes_to_cells clips boxes to a map"
        )
    return cells


# --- the choice ----------------------------------------------------------------------------------


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
    from sppnet.ops import cpu

    return cpu


def _load_gpu() -> ModuleType:
    from sppnet.ops import gpu

    return gpu


def _cpu_refuses(features: Tensor) -> str | None:
    return _kernel_refuses(features, "cpu")


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
    "torch": Implementation(lambda: anywhere, lambda _: None, "torch operations take any device and dtype"),
    "definition": Implementation(lambda: definition, lambda _: None, "plain loops, only when forced"),
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


# --- the custom op -------------------------------------------------------------------------------


@torch.library.custom_op("sppnet::pyramid_pool", mutates_args=())
def _pool(features: Tensor, cells: Tensor | None, levels: Sequence[int]) -> Tensor:
    module = IMPLEMENTATIONS[choose(features).name].load()
    return cast(Tensor, module.pool(features, _check_cells(features, cells), tuple(levels)))


@_pool.register_fake
def _(features: Tensor, cells: Tensor | None, levels: Sequence[int]) -> Tensor:
    count = features.shape[0] if cells is None else cells.shape[0]
    return features.new_empty(count, features.shape[1] * count_bins(levels))


@torch.library.custom_op("sppnet::pyramid_pool_backward", mutates_args=())
def _pool_backward(grad: Tensor, features: Tensor, cells: Tensor | None, levels: Sequence[int]) -> Tensor:
    module = IMPLEMENTATIONS[choose(features).name].load()
    return cast(Tensor, module.pool_backward(grad, features, _check_cells(features, cells), tuple(levels)))


@_pool_backward.register_fake
def _(grad: Tensor, features: Tensor, cells: Tensor | None, levels: Sequence[int]) -> Tensor:
    return features.new_empty(features.shape)  # contiguous, whatever the features are


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor | None, list[int]], output: Tensor) -> None:
    features, cells, ctx.levels = inputs
    ctx.save_for_backward(features, cells)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    features, cells = ctx.saved_tensors
    return torch.ops.sppnet.pyramid_pool_backward(grad, features, cells, ctx.levels), None, None


_pool.register_autograd(_differentiate, setup_context=_keep)
