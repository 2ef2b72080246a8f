"""Average pooling of windows: an option of the pyramid, in torch operations that differentiate themselves.

The sum over any rectangle is four reads of the integral image, which is summed in float64 (float32
where the device has no float64): equal to `adaptive_avg_pool2d` up to rounding.
"""

import torch
from torch import Tensor


def pool(features: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """features (b, c, h, w), cells (n, 5) → (n, c × bins)."""
    kind = torch.float32 if features.device.type == "mps" else torch.float64
    rows = features.permute(0, 2, 3, 1).to(kind)
    integral = torch.nn.functional.pad(rows.cumsum(1).cumsum(2), (0, 0, 1, 0, 1, 0))  # (b, h + 1, w + 1, c)
    return torch.cat([_average_level(integral, cells, n) for n in levels], 1).to(features.dtype)


def _average_level(integral: Tensor, cells: Tensor, n: int) -> Tensor:
    """The n×n bins of windows (k, 5): (k, c × n²)."""
    which = cells[:, 0, None, None]
    left, right = _edges(cells[:, 1], cells[:, 3], n)
    top, bottom = _edges(cells[:, 2], cells[:, 4], n)
    left, right, top, bottom = left[:, None, :], right[:, None, :], top[:, :, None], bottom[:, :, None]
    total = integral[which, bottom, right] - integral[which, top, right]
    total = total - integral[which, bottom, left] + integral[which, top, left]  # (k, n, n, c)
    count = (bottom - top) * (right - left)
    return (total / count[..., None]).permute(0, 3, 1, 2).flatten(1)


def _edges(low: Tensor, high: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """First cell and end of n bins of each side [low, high); (k, n) each."""
    steps = torch.arange(n, device=low.device)
    size = (high - low)[:, None]
    return low[:, None] + steps * size // n, low[:, None] + ((steps + 1) * size + n - 1) // n
