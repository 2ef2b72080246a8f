"""What each operation of a convolutional network does to the pixels that a cell sees.

`RULES` has a function for each operation that is known; `receptive_field` follows networks by them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from sppnet.errors import ModelError


@dataclass(frozen=True)
class Axis:
    """Along one side of the image, cell i sees the pixels i·stride + first … i·stride + last."""

    dim: int
    """Where the side stands in the tensor, counted from its end: -1 is the last dimension."""
    stride: int
    first: int
    last: int

    def windowed(self, kernel: int, stride: int, padding: int, dilation: int) -> "Axis":
        """The axis of windows that start at cell i·stride − padding and span (kernel − 1)·dilation + 1."""
        first = self.first - padding * self.stride
        last = self.last + ((kernel - 1) * dilation - padding) * self.stride
        return Axis(self.dim, self.stride * stride, first, last)

    def moved(self, cells: int) -> "Axis":
        """The axis after padding with `cells` cells in front."""
        shift = cells * self.stride
        return replace(self, first=self.first - shift, last=self.last - shift)


Space = tuple[Axis, Axis]
"""Down and across."""


@dataclass(frozen=True)
class Call:
    """One operation, with the tensors among its arguments that have a place in the image."""

    name: str
    arguments: dict[str, Any]
    located: list[tuple[Tensor, Space]]

    def refuse(self, reason: str) -> ModelError:
        return ModelError(
            f"cannot follow {self.name}: {reason}. Only convolutional trunks can be used: convolutions, "
            "pooling, and what acts on each cell alone"
        )

    def union(self) -> Space:
        """The space of the located tensors together: the widest of what they see."""
        spaces = [space for _, space in self.located]
        if len({(axis.dim, axis.stride) for space in spaces for axis in space}) != 2:
            raise self.refuse("it joins maps of different strides or layouts")
        down, across = (_widest([space[side] for space in spaces]) for side in (0, 1))
        return down, across


def _widest(axes: list[Axis]) -> Axis:
    return replace(axes[0], first=min(axis.first for axis in axes), last=max(axis.last for axis in axes))


# --- one rule an operation: the space of an output, None where it has none ------------------------


def keep(call: Call, out: Tensor) -> Space | None:
    return call.union()


def _window(call: Call, out: Tensor) -> Space | None:
    """Convolution and pooling over windows; in three dimensions they take the channels for the first."""
    ((_, (down, across)), *others) = call.located
    if others or (down.dim, across.dim) != (-2, -1):
        raise call.refuse("its windows do not run over an image's rows and columns")
    arguments, rank = call.arguments, 3 if call.name.endswith("3d") else 2
    kernel = _sides(
        arguments["weight"].shape[2:] if "weight" in arguments else arguments["kernel_size"], rank
    )
    dilation = _sides(arguments.get("dilation", 1), rank)
    stride, padding = _sides(arguments["stride"] or kernel, rank), arguments["padding"]
    if isinstance(padding, str):
        same = padding == "same"
        padding = [(k - 1) * d // 2 * same for k, d in zip(kernel, dilation, strict=True)]
    for_down, for_across = zip(kernel, stride, _sides(padding, rank), dilation, strict=True)
    return down.windowed(*for_down), across.windowed(*for_across)


def _sides(value: int | Sequence[int], rank: int) -> list[int]:
    """The numbers for rows and for columns, from one number or one for each of `rank` dimensions."""
    values = [value] if isinstance(value, int) else list(value)
    return (values * rank if len(values) == 1 else values)[-2:]


def _divide(call: Call, out: Tensor) -> Space | None:
    """The numerator's place: what a map is divided by is a norm, which only sets its scale."""
    numerator = [pair for pair in call.located if pair[0] is call.arguments["self"]]
    return replace(call, located=numerator or call.located).union()


def _concatenate(call: Call, out: Tensor) -> Space | None:
    space = call.union()
    if call.arguments["dim"] % out.ndim - out.ndim in (space[0].dim, space[1].dim):
        raise call.refuse("it joins maps side by side")
    return space


def _view(call: Call, out: Tensor) -> Space | None:
    """A view keeps the length and the step in memory of the sides it leaves alone, so they find them."""
    ((source, (down, across)),) = call.located
    return _found(call, source, down, out), _found(call, source, across, out)


def _found(call: Call, source: Tensor, axis: Axis, out: Tensor) -> Axis:
    side = (source.shape[axis.dim], source.stride(axis.dim))
    dims = [dim for dim in range(-out.ndim, 0) if (out.shape[dim], out.stride(dim)) == side]
    if len(dims) != 1:
        raise call.refuse("it cuts or reshapes rows and columns")
    return replace(axis, dim=dims[0])


def _reduce(call: Call, out: Tensor) -> Space | None:
    """Mean, maximum and the like: over both sides the result is global, over channels it keeps its place."""
    ((source, (down, across)),) = call.located
    given = call.arguments.get("dim")
    dims = [given] if isinstance(given, int) else given or range(source.ndim)
    gone = {dim % source.ndim - source.ndim for dim in dims}
    if {down.dim, across.dim} <= gone:
        return None
    if {down.dim, across.dim} & gone:
        raise call.refuse("it pools one side of the image only")
    if call.arguments.get("keepdim"):
        return down, across
    shifts = [sum(dim > axis.dim for dim in gone) for axis in (down, across)]
    return replace(down, dim=down.dim + shifts[0]), replace(across, dim=across.dim + shifts[1])


def _pool_to_size(call: Call, out: Tensor) -> Space | None:
    if out.shape[-2:] != (1, 1):
        raise call.refuse("its bins grow with the image, so no stride describes them")
    return None


def _last_dims(call: Call, out: Tensor) -> Space | None:
    """Linear layers and layer norms, where they act on channels alone."""
    space = call.union()
    count = len(call.arguments.get("normalized_shape", [0]))
    if max(axis.dim for axis in space) >= -count:
        raise call.refuse("it mixes the cells of a row")
    return space


def _pad(call: Call, out: Tensor) -> Space | None:
    ((_, (down, across)),) = call.located
    before = dict(zip(range(-1, -out.ndim - 1, -1), call.arguments["pad"][::2], strict=False))
    return down.moved(before.get(down.dim, 0)), across.moved(before.get(across.dim, 0))


Rule = Callable[[Call, Tensor], Space | None]
_RULE_FOR: dict[Rule, str] = {
    _window: "conv2d avg_pool2d max_pool2d max_pool2d_with_indices conv3d avg_pool3d",
    _divide: "div",
    keep: "batch_norm group_norm instance_norm dropout feature_dropout clone contiguous to _to_copy copy "
    "hardswish hardsigmoid hardtanh silu gelu mish elu leaky_relu prelu",  # not all are tagged pointwise
    _last_dims: "linear layer_norm rms_norm",
    _view: "view _unsafe_view _reshape_alias permute transpose expand squeeze unsqueeze select slice alias "
    "detach split split_with_sizes unbind",
    _reduce: "mean sum amax amin var var_mean norm linalg_vector_norm",
    _pool_to_size: "adaptive_avg_pool2d adaptive_max_pool2d",
    _concatenate: "cat",
    _pad: "constant_pad_nd",
}
RULES = {name: rule for rule, names in _RULE_FOR.items() for name in names.split()}
