"""pyramid_pool in ONNX's own operators.

`torch.export` keeps the operator as one node, which is translated here: whole maps by slices and
ReduceMax, rows then columns; windows by MaxRoiPool. That operator divides windows into bins in float32,
which is one cell off here and there (level 7 of a window of 57 cells), so every bin is handed over as a
region of its own, computed in integers. As in every other implementation, coarse levels are maxima of
fine ones where they can be.
"""

from collections.abc import Sequence
from typing import Any, cast

import onnxscript
from onnxscript.onnx_types import FLOAT, INT64

from sppnet.ops.plan import filling_order, plan_levels

Value = Any
"""A tensor of the graph that is being written."""


def translate_pool(features: FLOAT, cells: INT64 | None, levels: Sequence[int]) -> FLOAT:
    """features (b, c, h, w), cells (n, 5) or None for the whole maps → (n, c × bins)."""
    return cast(FLOAT, write_pool(onnxscript.opset18, features, cells, levels))


def write_pool(op: Any, features: Value, cells: Value | None, levels: Sequence[int]) -> Value:
    """`translate_pool` in nodes of `op`, which writes one for each call: op.Concat(x, y, axis=1)."""
    plans = plan_levels(tuple(levels))
    grids: dict[int, Value] = {}  # by index of the level: (n, c, level, level)
    for index in filling_order(plans):
        n, source = plans[index].n, plans[index].source
        if source is not None:
            grids[index] = _merge_bins(op, grids[source], levels[source], n)
        elif cells is None:
            grids[index] = _pool_side(op, _pool_side(op, features, 2, n), 3, n)
        else:
            grids[index] = _pool_windows(op, features, cells, n)
    return op.Concat(*(op.Flatten(grids[index]) for index in range(len(plans))), axis=1)


def _pool_side(op: Any, features: Value, axis: int, n: int) -> Value:
    """The maximum of each of n bins along an axis: its size becomes n."""
    size = op.Shape(features, start=axis, end=axis + 1)
    parts = []
    for i in range(n):
        start, end = _bin(op, size, _ints(op, i), n)
        part = op.Slice(features, start, end, _ints(op, axis))
        parts.append(op.ReduceMax(part, _ints(op, axis), keepdims=1))
    return op.Concat(*parts, axis=axis)


def _bin(op: Any, size: Value, i: Value, n: int) -> tuple[Value, Value]:
    """Bin i of n: where it starts, and where it ends. ONNX divides towards 0, so nothing may be negative."""
    end = op.Div(op.Add(op.Mul(op.Add(i, _ints(op, 1)), size), _ints(op, n - 1)), _ints(op, n))
    return op.Div(op.Mul(i, size), _ints(op, n)), end


def _pool_windows(op: Any, features: Value, cells: Value, n: int) -> Value:
    """(k, c, n, n) of windows (k, 5): map, x0, y0, x1, y1."""
    which, x0, y0, x1, y1 = (op.Slice(cells, _ints(op, i), _ints(op, i + 1), _ints(op, 1)) for i in range(5))
    steps = op.Constant(value_ints=list(range(n)))
    left, right = _bin(op, op.Sub(x1, x0), steps, n)  # (k, n), from the window's corner
    top, bottom = _bin(op, op.Sub(y1, y0), steps, n)
    last = _ints(op, 1)  # MaxRoiPool's regions are inclusive at both ends
    whole = op.Unsqueeze(which, _ints(op, 2))
    columns = [
        op.Unsqueeze(side, _ints(op, 1)) for side in (op.Add(left, x0), op.Sub(op.Add(right, x0), last))
    ]
    rows = [op.Unsqueeze(side, _ints(op, 2)) for side in (op.Add(top, y0), op.Sub(op.Add(bottom, y0), last))]
    every_bin = _ints(op, 1, n, n)
    sides = [op.Expand(side, every_bin) for side in (whole, columns[0], rows[0], columns[1], rows[1])]
    regions = op.Reshape(op.Concat(*(op.Unsqueeze(s, _ints(op, 3)) for s in sides), axis=3), _ints(op, -1, 5))
    bins = op.MaxRoiPool(features, op.Cast(regions, to=FLOAT.dtype), pooled_shape=(1, 1))  # (k·n², c, 1, 1)
    channels = op.Shape(features, start=1, end=2)
    grid = op.Reshape(bins, op.Concat(_ints(op, -1), _ints(op, n), _ints(op, n), channels, axis=0))
    return op.Transpose(grid, perm=[0, 3, 1, 2])


def _merge_bins(op: Any, grid: Value, m: int, n: int) -> Value:
    """(k, c, m, m) → (k, c, n, n), where n divides m."""
    channels = op.Shape(grid, start=1, end=2)
    split = op.Reshape(grid, op.Concat(_ints(op, -1), channels, _ints(op, n, m // n, n, m // n), axis=0))
    return op.ReduceMax(split, _ints(op, 3, 5), keepdims=0)


def _ints(op: Any, *values: int) -> Value:
    return op.Constant(value_ints=list(values))
