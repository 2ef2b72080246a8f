"""Where the cells of a convolutional network lie in the image, read off the network itself.

A table of strides, pads and offsets goes stale with the first changed layer, and a probe with
gradients has to compute on images larger than the receptive field. So the network runs once on
tensors without data, and every operation it calls says what it does to the pixels that a cell sees.
"""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from sppnet.errors import ModelError
from sppnet.geometry.grid import CellGrid

WIDER_PX = 37
"""The image followed is this much wider than high, so that pads which depend on the size show."""


def derive_grid(module: nn.Module, size_px: int = 512) -> tuple[CellGrid, int]:
    """The grid of the feature map of `module`, which takes images (b, 3, h, w), and its channels.

    Nothing is computed and `module` is not changed. What only scales a cell does not count to the
    receptive field: the gates of squeeze-and-excite blocks and all else pooled over the whole map, the
    statistics of group norms, the divisors of local norms. So it is what the paper gives: the extent of
    convolutions and pooling. size_px has to be large enough to leave a map.
    Raises ModelError for what is not a convolutional trunk, naming the operation.
    """
    return next(follow_stages([module], size_px))


def derive_grids(module: nn.Module, size_px: int = 512) -> list[tuple[CellGrid, int]]:
    """`derive_grid` of a module that gives one map, or several in a tuple."""
    follower, images = _begin(size_px)
    maps = _run(_without_data(module), images, follower)
    return [_located(features, follower) for features in maps]


def follow_stages(stages: Sequence[nn.Module], size_px: int = 512) -> Iterator[tuple[CellGrid, int]]:
    """What `derive_grid` gives for the first of `stages`, the first two one after the other, and so on."""
    follower, maps = _begin(size_px)
    for stage in stages:
        maps, *others = _run(_without_data(stage), maps, follower)
        if others:
            raise ModelError(f"a stage must give one map; {type(stage).__name__} gave {1 + len(others)}")
        yield _located(maps, follower)


def _begin(size_px: int) -> tuple["_Follower", Tensor]:
    """A follower, and images that it follows: none, so that nothing is computed, but of a shape.

    On torch's meta device the first operation would import its compiler, which takes seconds.
    """
    follower = _Follower()
    images = torch.empty(0, 3, size_px, size_px + WIDER_PX)
    follower.spaces[images] = (_Axis(-2, 1, 0, 0), _Axis(-1, 1, 0, 0))
    return follower, images


def _located(maps: Tensor, follower: "_Follower") -> tuple[CellGrid, int]:
    return _grid(follower.spaces.get(maps)), maps.shape[1]


def _without_data(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose tensors have shapes only, made without copying any weight."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(_shape_of(parameter), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = _shape_of(buffer)
    return deepcopy(module, memo).eval()


def _shape_of(tensor: Tensor) -> Tensor:
    """A tensor of that shape in the memory of one number."""
    return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)


def _run(module: nn.Module, maps: Tensor, follower: "_Follower") -> tuple[Tensor, ...]:
    """`module` on `maps`, followed. In inference mode operations arrive whole: linear, not view and addmm."""
    try:
        with torch.inference_mode(), follower:
            result = module(maps)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"only convolutional trunks can be used, from images (b, 3, h, w) to features (b, channels, "
            f"h', w'); {type(module).__name__} failed on shape {(1, *maps.shape[1:])}: {error}"
        ) from error
    several = result if isinstance(result, tuple) and result else (result,)
    for one in several:
        if not isinstance(one, Tensor) or one.ndim != 4:
            raise ModelError(
                f"a trunk must give one tensor (b, channels, h', w'); {type(module).__name__} gave "
                f"{(1, *one.shape[1:]) if isinstance(one, Tensor) else type(one).__name__}"
            )
    return several


# --- what a cell sees ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axis:
    """Along one side of the image, cell i sees the pixels i·stride + first … i·stride + last."""

    dim: int
    """Where the side stands in the tensor, counted from its end: -1 is the last dimension."""
    stride: int
    first: int
    last: int

    def windowed(self, kernel: int, stride: int, padding: int, dilation: int) -> "_Axis":
        """The axis of windows that start at cell i·stride − padding and span (kernel − 1)·dilation + 1."""
        first = self.first - padding * self.stride
        last = self.last + ((kernel - 1) * dilation - padding) * self.stride
        return _Axis(self.dim, self.stride * stride, first, last)

    def moved(self, cells: int) -> "_Axis":
        """The axis after padding with `cells` cells in front."""
        shift = cells * self.stride
        return replace(self, first=self.first - shift, last=self.last - shift)


_Space = tuple[_Axis, _Axis]
"""Down and across."""


def _grid(space: _Space | None) -> CellGrid:
    if space is None:
        raise ModelError("this module pools the whole image into one vector; give its convolutional part")
    down, across = space
    if (down.dim, across.dim) != (-2, -1):
        raise ModelError(
            "a trunk must give (b, channels, h', w'); this module puts rows and columns elsewhere"
        )
    if replace(down, dim=-1) != across:
        raise ModelError(
            f"cells must lie alike down and across the image, at every image size; this module gives stride "
            f"{down.stride} and pixels {down.first}…{down.last} for cell 0 down, {across.stride} and "
            f"{across.first}…{across.last} across (pads that depend on the image size do that)"
        )
    return CellGrid(
        stride=down.stride, center0=(down.first + down.last) / 2, receptive_field=down.last - down.first + 1
    )


# --- following the operations --------------------------------------------------------------------

_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]


@dataclass(frozen=True)
class _Call:
    """One operation, with the tensors among its arguments that have a place in the image."""

    name: str
    arguments: _Kwargs
    located: list[tuple[Tensor, _Space]]

    def refuse(self, reason: str) -> ModelError:
        return ModelError(
            f"cannot follow {self.name}: {reason}. Only convolutional trunks can be used: convolutions, "
            "pooling, and what acts on each cell alone"
        )

    def union(self) -> _Space:
        """The space of the located tensors together: the widest of what they see."""
        spaces = [space for _, space in self.located]
        if len({(axis.dim, axis.stride) for space in spaces for axis in space}) != 2:
            raise self.refuse("it joins maps of different strides or layouts")
        down, across = (_widest([space[side] for space in spaces]) for side in (0, 1))
        return down, across


def _widest(axes: list[_Axis]) -> _Axis:
    return replace(axes[0], first=min(axis.first for axis in axes), last=max(axis.last for axis in axes))


class _Follower(TorchDispatchMode):
    """Keeps for every tensor computed from the image where its cells lie. Parameters have no place."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.spaces: MutableMapping[Tensor, _Space] = WeakTensorKeyDictionary()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Else torch imports its compiler, for seconds, to keep it off this class."""
        return False

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: _Args = (), kwargs: _Kwargs | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        located = [(tensor, self.spaces[tensor]) for tensor in tensors if tensor in self.spaces]
        if not located:
            return func(*args, **kwargs)
        call = _Call(_name(func), _arguments(func, args, kwargs), located)
        rule = _RULES.get(call.name, _keep if torch.Tag.pointwise in func.tags else None)
        if rule is None:
            return self._decompose(func, args, kwargs, call)
        # Torch takes a millisecond to find out that a batch norm keeps the shape, and cannot for no images
        # in the other.
        norm = call.name in ("batch_norm", "instance_norm")
        result = torch.empty_like(located[0][0]) if norm else func(*args, **kwargs)
        for out in tree_leaves(result):
            space = rule(call, out)
            if space is not None:
                self.spaces[out] = space
        return result

    def _decompose(self, func: OpOverload, args: _Args, kwargs: _Kwargs, call: _Call) -> Any:
        """The smaller operations that torch makes of this one, each followed."""
        with self:
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            raise call.refuse("it may mix cells in ways that no stride and receptive field describe")
        return result


def _name(func: OpOverload) -> str:
    """relu for aten.relu_.default."""
    return str(func).split(".")[1].removesuffix("_")


def _arguments(func: OpOverload, args: _Args, kwargs: _Kwargs) -> _Kwargs:
    """All arguments by name, defaults included."""
    schema = func._schema.arguments
    defaults = {argument.name: argument.default_value for argument in schema}
    return defaults | {argument.name: value for argument, value in zip(schema, args, strict=False)} | kwargs


# --- one rule an operation: the space of an output, None where it has none ------------------------


def _keep(call: _Call, out: Tensor) -> _Space | None:
    return call.union()


def _window(call: _Call, out: Tensor) -> _Space | None:
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


def _divide(call: _Call, out: Tensor) -> _Space | None:
    """The numerator's place: what a map is divided by is a norm, which only sets its scale."""
    numerator = [pair for pair in call.located if pair[0] is call.arguments["self"]]
    return replace(call, located=numerator or call.located).union()


def _concatenate(call: _Call, out: Tensor) -> _Space | None:
    space = call.union()
    if call.arguments["dim"] % out.ndim - out.ndim in (space[0].dim, space[1].dim):
        raise call.refuse("it joins maps side by side")
    return space


def _view(call: _Call, out: Tensor) -> _Space | None:
    """A view keeps the length and the step in memory of the sides it leaves alone, so they find them."""
    ((source, (down, across)),) = call.located
    return _found(call, source, down, out), _found(call, source, across, out)


def _found(call: _Call, source: Tensor, axis: _Axis, out: Tensor) -> _Axis:
    side = (source.shape[axis.dim], source.stride(axis.dim))
    dims = [dim for dim in range(-out.ndim, 0) if (out.shape[dim], out.stride(dim)) == side]
    if len(dims) != 1:
        raise call.refuse("it cuts or reshapes rows and columns")
    return replace(axis, dim=dims[0])


def _reduce(call: _Call, out: Tensor) -> _Space | None:
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


def _pool_to_size(call: _Call, out: Tensor) -> _Space | None:
    if out.shape[-2:] != (1, 1):
        raise call.refuse("its bins grow with the image, so no stride describes them")
    return None


def _last_dims(call: _Call, out: Tensor) -> _Space | None:
    """Linear layers and layer norms, where they act on channels alone."""
    space = call.union()
    count = len(call.arguments.get("normalized_shape", [0]))
    if max(axis.dim for axis in space) >= -count:
        raise call.refuse("it mixes the cells of a row")
    return space


def _pad(call: _Call, out: Tensor) -> _Space | None:
    ((_, (down, across)),) = call.located
    before = dict(zip(range(-1, -out.ndim - 1, -1), call.arguments["pad"][::2], strict=False))
    return down.moved(before.get(down.dim, 0)), across.moved(before.get(across.dim, 0))


_Rule = Callable[[_Call, Tensor], _Space | None]
_RULE_FOR: dict[_Rule, str] = {
    _window: "conv2d avg_pool2d max_pool2d max_pool2d_with_indices conv3d avg_pool3d",
    _divide: "div",
    _keep: "batch_norm group_norm instance_norm dropout feature_dropout clone contiguous to _to_copy copy "
    "hardswish hardsigmoid hardtanh silu gelu mish elu leaky_relu prelu",  # not all are tagged pointwise
    _last_dims: "linear layer_norm rms_norm",
    _view: "view _unsafe_view _reshape_alias permute transpose expand squeeze unsqueeze select slice alias "
    "detach split split_with_sizes unbind",
    _reduce: "mean sum amax amin var var_mean norm linalg_vector_norm",
    _pool_to_size: "adaptive_avg_pool2d adaptive_max_pool2d",
    _concatenate: "cat",
    _pad: "constant_pad_nd",
}
_RULES = {name: rule for rule, names in _RULE_FOR.items() for name in names.split()}
