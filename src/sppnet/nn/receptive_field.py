"""Where the cells of a convolutional network lie in the image, read off the network itself.

A table of strides, pads and offsets goes stale with the first changed layer, and a probe with
gradients has to compute on images larger than the receptive field. So the network runs once on
tensors without data, and every operation it calls says what it does to the pixels that a cell sees.
"""

from collections.abc import Iterator, MutableMapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from sppnet.errors import ModelError
from sppnet.geometry.grid import CellGrid
from sppnet.nn.operation_rules import RULES, Axis, Call, Space, keep

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
    follower.spaces[images] = (Axis(-2, 1, 0, 0), Axis(-1, 1, 0, 0))
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


def _grid(space: Space | None) -> CellGrid:
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


class _Follower(TorchDispatchMode):
    """Keeps for every tensor computed from the image where its cells lie. Parameters have no place."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.spaces: MutableMapping[Tensor, Space] = WeakTensorKeyDictionary()

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
        call = Call(_name(func), _arguments(func, args, kwargs), located)
        rule = RULES.get(call.name, keep if torch.Tag.pointwise in func.tags else None)
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

    def _decompose(self, func: OpOverload, args: _Args, kwargs: _Kwargs, call: Call) -> Any:
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
