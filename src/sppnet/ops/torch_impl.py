"""Pyramid pooling in torch operations, on any device and of any dtype.

A table holds the maximum of every rectangle of 2^a × 2^b cells; a bin of any size is the larger of
four of them. So nothing loops over windows, and the work does not depend on their sizes. For the
backward pass the same table also carries where each maximum stands.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sppnet.ops.plan import filling_order, plan_levels
from sppnet.ops.reference import accumulator, one_nan
from sppnet.ops.windows import bin_edges

WINDOWS_AT_ONCE = 512  # bounds the memory: 4 rows × 512 windows × 36 bins × 256 channels are 75 MB

Entry = tuple[Tensor, ...]
"""Maxima (…, c), or maxima and places: the flat cell y·w + x of each."""
Combine = Callable[[Entry, Entry], Entry]


def pool(features: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """features (b, c, h, w), cells (n, 5) → (n, c × bins)."""
    if _has_ties(features):
        flat = _channels_last(features).flatten()
        return one_nan(torch.cat([flat[index] for index in _winners(features, cells, levels, _as_torch)]))
    parts = [_pool_all((_channels_last(features),), part, levels, _larger) for part in _split(cells)]
    return torch.cat([_as_vectors([level[0] for level in part]) for part in parts])


def pool_backward(grad: Tensor, features: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """grad (n, c × bins) → gradient of features (b, c, h, w)."""
    rows = _channels_last(features)
    result = torch.zeros(rows.numel(), dtype=accumulator(features.dtype), device=grad.device)
    winners = _winners(features, cells, levels, _first_larger)
    for index, some in zip(winners, grad.split(WINDOWS_AT_ONCE), strict=True):
        _add_in_order(result, index.flatten(), some.flatten().to(result.dtype))
    return result.view(rows.shape).permute(0, 3, 1, 2).to(features.dtype).contiguous()


def _winners(features: Tensor, cells: Tensor, levels: tuple[int, ...], combine: Combine) -> Iterator[Tensor]:
    """For some windows at a time, where their maxima stand in the flat channels-last map: (k, c × bins)."""
    _, channels, height, width = features.shape
    rows = _channels_last(features)
    places = torch.arange(height * width, device=rows.device).view(1, height, width, 1).expand(rows.shape)
    channel = torch.cat([torch.arange(channels, device=rows.device).repeat_interleave(n * n) for n in levels])
    for part in _split(cells):
        pooled = _pool_all((rows, places), part, levels, combine)
        winners = _as_vectors([level[1] for level in pooled])
        yield (part[:, :1] * height * width + winners) * channels + channel


def _has_ties(features: Tensor) -> bool:
    """Whether the maximum of a bin may not be one number: NaN, which have many bits, and 0 beside −0."""
    if not features.is_floating_point():
        return False
    zeros, negative = features == 0, features.signbit()
    both = (zeros & negative).any() & (zeros & ~negative).any()
    return bool(both | features.isnan().any())


def _add_in_order(result: Tensor, index: Tensor, numbers: Tensor) -> None:
    """result[index] += numbers in one order: index_put_ has none on the CPU, scatter_add_ none elsewhere."""
    if result.device.type == "cpu":
        result.scatter_add_(0, index, numbers)
    else:
        result.index_put_((index,), numbers, accumulate=True)


def _channels_last(features: Tensor) -> Tensor:
    return features.permute(0, 2, 3, 1)


def _split(cells: Tensor) -> tuple[Tensor, ...]:
    return tuple(cells.split(WINDOWS_AT_ONCE))


def _as_vectors(levels: list[Tensor]) -> Tensor:
    """For each level (k, n², c) → (k, c × bins)."""
    return torch.cat([level.transpose(1, 2).flatten(1) for level in levels], 1)


def _larger(a: Entry, b: Entry) -> Entry:
    return (torch.maximum(a[0], b[0]),)


def _first_larger(a: Entry, b: Entry) -> Entry:
    """The larger value of each two and its place; of equal ones the earlier place; NaN is largest."""
    return _larger_placed(a, b, last_nan=False)


def _as_torch(a: Entry, b: Entry) -> Entry:
    """As `_first_larger`, but of two NaN the later, as torch's adaptive pooling has it."""
    return _larger_placed(a, b, last_nan=True)


def _larger_placed(a: Entry, b: Entry, last_nan: bool) -> Entry:
    nan_a, nan_b = a[0] != a[0], b[0] != b[0]
    larger = (b[0] > a[0]) | (nan_b & ~nan_a)
    earlier = b[1] < a[1]
    take = larger | ((b[0] == a[0]) & earlier) | (nan_a & nan_b & (earlier != last_nan))
    return torch.where(take, b[0], a[0]), torch.where(take, b[1], a[1])


# --- the table -----------------------------------------------------------------------------------


def _pool_all(rows: Entry, cells: Tensor, levels: tuple[int, ...], combine: Combine) -> list[Entry]:
    """rows (b, h, w, c) → for each level the entries (k, n², c) of windows (k, 5)."""
    plans = plan_levels(levels)
    longest = _longest_bin(cells, min(plan.n for plan in plans if plan.source is None))
    table = _build_table(rows, longest, combine)
    pooled: dict[int, Entry] = {}
    for index in filling_order(plans):
        plan = plans[index]
        if plan.source is None:
            pooled[index] = _look_up(table, rows[0].shape, cells, plan.n, combine)
        else:
            pooled[index] = _merge_bins(pooled[plan.source], levels[plan.source], plan.n, combine)
    return [pooled[index] for index in range(len(levels))]


def _longest_bin(cells: Tensor, n: int) -> list[int]:
    """The longest bins (down, across) of n×n grids on the windows: at most ⌈side/n⌉ + 1 cells."""
    if len(cells) == 0:
        return [1, 1]
    longest = (cells[:, 3:] - cells[:, 1:3]).amax(0).tolist()
    return [min(side, (side + n - 1) // n + 1) for side in reversed(longest)]


def _build_table(rows: Entry, longest: list[int], combine: Combine) -> tuple[Entry, int]:
    """Entries (table, b, h, w, c) for all 2^a × 2^b, a outermost, and how many powers b there are."""
    down, across = (side.bit_length() for side in longest)
    firsts = [rows]
    for a in range(1, down):
        firsts.append(combine(firsts[-1], _moved(firsts[-1], 1, 1 << (a - 1))))
    entries = []
    for entry in firsts:
        entries.append(entry)
        for b in range(1, across):
            entries.append(combine(entries[-1], _moved(entries[-1], 2, 1 << (b - 1))))
    return tuple(torch.stack(component) for component in zip(*entries, strict=True)), across


def _moved(entry: Entry, dim: int, by: int) -> Entry:
    """The entry moved `by` towards its beginning along dim; what no bin reads keeps any value."""
    size = entry[0].shape[dim]
    keep = max(size - by, 0)
    return tuple(
        torch.cat([x.narrow(dim, size - keep, keep), x.narrow(dim, keep, size - keep)], dim) for x in entry
    )


def _look_up(table: tuple[Entry, int], shape: torch.Size, cells: Tensor, n: int, combine: Combine) -> Entry:
    """The bins (k, n², c) of n×n grids on the windows: four rectangles each."""
    entries, across = table
    batch, height, width, _ = shape
    flat = tuple(component.flatten(0, 3) for component in entries)
    top, bottom, a = _spans(cells[:, 2], cells[:, 4], n)
    left, right, b = _spans(cells[:, 1], cells[:, 3], n)
    layer = (a[:, :, None] * across + b[:, None, :]) * batch + cells[:, 0, None, None]  # (k, n, n)
    corners = [
        (layer * height + y[:, :, None]) * width + x[:, None, :] for y in (top, bottom) for x in (left, right)
    ]
    picked = [tuple(x[corner.flatten(1)] for x in flat) for corner in corners]
    return combine(combine(picked[0], picked[1]), combine(picked[2], picked[3]))


def _spans(low: Tensor, high: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """For n bins of each side [low, high): where two spans of 2^power cells that cover it begin; (k, n)."""
    start, end = bin_edges(low, high, n)
    power = (end - start >= 2).long()
    for exponent in range(2, 32):
        longer = end - start >= 1 << exponent
        if not longer.any():
            break
        power += longer
    return start, end - (1 << power), power


def _merge_bins(entry: Entry, m: int, n: int, combine: Combine) -> Entry:
    """Bins (k, m², c) of a fine level → those (k, n², c) of a level that divides it."""
    factor = m // n
    grids = [x.unflatten(1, (n, factor, n, factor)) for x in entry]
    parts = [tuple(grid[:, :, i, :, j] for grid in grids) for i in range(factor) for j in range(factor)]
    merged = parts[0]
    for part in parts[1:]:
        merged = combine(merged, part)
    return tuple(x.flatten(1, 2) for x in merged)
