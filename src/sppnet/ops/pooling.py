"""pyramid_pool: the one operator, and how it stands in torch's graphs.

The chosen implementation runs inside a `torch.library` custom op, so autograd, `torch.compile`
and `torch.export` see one node of known shape, and everything that looks at numbers (checks of
the cells, the choice itself) happens when it runs.
"""

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function, has_torch_function

from sppnet.errors import GeometryError
from sppnet.geometry.grid import check_levels, count_bins
from sppnet.ops import decomposition
from sppnet.ops.dispatch import choose, load_chosen
from sppnet.ops.windows import Cells, RoICells, as_indices, check_cells, list_windows

KERNELS = ("cpu", "cuda")
"""Kinds of devices that have some."""


def pyramid_pool(
    features: Tensor,
    cells: RoICells = None,
    levels: Sequence[int] = (1, 2, 3, 6),
    pooling: Literal["max", "average"] = "max",
) -> Tensor:
    """Pool windows of feature maps on n×n grids into vectors of one length.

    features: (b, c, h, w), integers or floats of 16 bits or more, dense, any memory format.
    cells: the windows, xyxy in feature cells, half-open, integers: None for each whole map; for one
        map (n, 4), tensor or array; b of those, one a map; or (n, 5) with the map's index first.
    levels: n of each grid; (1, 2, 3, 6) has 50 bins.
    Returns (n, c × bins) of the features' dtype: level after level, in each channel, row, column.
    On a window that is `torch.cat([F.adaptive_max_pool2d(window, n).flatten(1) for n in levels], 1)`,
    bit for bit (paper Appendix A). NaN wins a bin.

    The gradient goes to the first maximum of a bin, by rows; the same on every run and any number
    of threads. Raises GeometryError for cells outside a map.
    """
    traced = (features, cells)
    if has_torch_function(traced):  # torch.fx, subclasses of Tensor
        return handle_torch_function(pyramid_pool, traced, features, cells, levels, pooling=pooling)
    checked = check_levels(levels)
    if not hasattr(features, "is_complex"):
        kind = type(features).__name__
        raise GeometryError(f"features must be a tensor (b, c, h, w), as torch.from_numpy makes; got {kind}")
    if features.ndim != 4:
        raise GeometryError(f"features must have shape (b, c, h, w); got {tuple(features.shape)}")
    if features.is_complex() or (features.dtype.itemsize == 1 and features.is_floating_point()):
        raise GeometryError(f"features must be integers or floats of 16 bits or more; got {features.dtype}")
    if features.layout != torch.strided or features.is_quantized:
        raise GeometryError(
            f"features must be a dense tensor of numbers; got {features.layout}, {features.dtype}. Call "
            "to_dense() or dequantize() first"
        )
    if pooling not in ("max", "average"):
        raise GeometryError(f'pooling must be "max" or "average"; got {pooling!r}')
    windows = list_windows(features, cells)
    if windows is None and decomposition.is_wanted():
        return decomposition.pool_whole(features, checked, pooling)
    if pooling == "average":
        return decomposition.average_each(features, windows, checked)
    if torch._C._are_functorch_transforms_active() or _has_tangent(features):  # no rules of the op for these
        return decomposition.pool_each(features, windows, checked)
    if _is_plain(features):
        return _pool_now(features, windows, checked)
    return cast(Tensor, torch.ops.sppnet.pyramid_pool(features, windows, list(checked)))


def _is_plain(features: Tensor) -> bool:
    """Whether numbers alone are wanted, and no graph: the operator's first call imports torch's compiler."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() or torch._C._len_torch_dispatch_stack():
        return False
    learning = torch.is_grad_enabled() and features.requires_grad
    return not learning and type(features) is Tensor and features.device.type in KERNELS


def _pool_now(features: Tensor, cells: Tensor | None, levels: Sequence[int]) -> Tensor:
    module = load_chosen(features)
    return cast(Tensor, module.pool(features, check_cells(features, cells), tuple(levels)))


def _has_tangent(features: Tensor) -> bool:
    """Whether it is being differentiated in forward mode."""
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(features).tangent is not None


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
    windows = as_indices(cells, maps[0])
    if windows.ndim != 2 or windows.shape[1] != 5:
        raise GeometryError(f"cells must be (n, 5), the map's index first; got {tuple(windows.shape)}")
    chosen = [(windows[:, 0] == index).nonzero()[:, 0] for index in range(len(maps))]
    if sum(map(len, chosen)) != len(windows):
        raise GeometryError(f"cells name maps {windows[:, 0].unique().tolist()}; there are {len(maps)}")
    parts = [F.pad(windows[rows, 1:], (1, 0)) for rows in chosen]
    learning = torch.is_grad_enabled() and any(features.requires_grad for features in maps)
    if choose(maps[0]).name == "cpu" and not learning:
        for features, part in zip(maps, parts, strict=True):
            check_cells(features[None], part)
        return cast(Tensor, load_chosen(maps[0]).pool_maps(maps, windows, checked))
    vectors = [
        pyramid_pool(features[None], part, checked) for features, part in zip(maps, parts, strict=True)
    ]
    return torch.cat(vectors)[torch.cat(chosen).argsort()]


# --- the custom op -------------------------------------------------------------------------------


@torch.library.custom_op("sppnet::pyramid_pool", mutates_args=())
def _pool(features: Tensor, cells: Tensor | None, levels: Sequence[int]) -> Tensor:
    return _pool_now(features, cells, levels)


@_pool.register_fake
def _(features: Tensor, cells: Tensor | None, levels: Sequence[int]) -> Tensor:
    count = features.shape[0] if cells is None else cells.shape[0]
    return features.new_empty(count, features.shape[1] * count_bins(levels))


@torch.library.custom_op("sppnet::pyramid_pool_backward", mutates_args=())
def _pool_backward(grad: Tensor, features: Tensor, cells: Tensor | None, levels: Sequence[int]) -> Tensor:
    module = load_chosen(features)
    return cast(Tensor, module.pool_backward(grad, features, check_cells(features, cells), tuple(levels)))


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


def _keep_again(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, list[int]], output: Tensor) -> None:
    _, features, cells, ctx.levels = inputs
    ctx.save_for_backward(features, cells)


def _differentiate_again(ctx: Any, change: Tensor) -> tuple[Tensor, None, None, None]:
    """The gradient is linear in that of the vectors, and does not change with the features."""
    features, cells = ctx.saved_tensors
    windows = check_cells(features, cells)
    return decomposition.pool_tangent(features, change, windows, tuple(ctx.levels)), None, None, None


_pool_backward.register_autograd(_differentiate_again, setup_context=_keep_again)
