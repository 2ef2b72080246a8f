"""Weights from files, and into a network that may be only the front of the one they were made for.

Files are data: safetensors, or torch files read without running anything pickled in them.
"""

import pickle
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sppnet.errors import ModelError
from sppnet.nn.file_signature import foreign_kind

TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".tar")
"""Names of files that torch.save wrote: its own, Lightning's, Hugging Face's, and .pth.tar."""

NESTS = (
    "state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights", "params", "module",
    "ema", "model_ema", "state_dict_ema", "ema_state_dict", "params_ema",
)  # fmt: skip
"""Under which checkpoints keep a state dict, the most likely first: weights before their moving averages."""

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile and others put into names, at any depth."""
PREFIXES = ("module.", "model.", "network.", "net.")
"""What DataParallel, Lightning and modules around a network put before every name."""

NAMED_IN_ERRORS = 5
"""How many keys an error names before it counts the rest."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of one that torch.save wrote, by name, on the CPU.

    A state dict within a checkpoint is taken out (`NESTS`), and what wrappers put before every name is
    dropped (`WRAPPERS`, `PREFIXES`). Raises ModelError for every other content.
    """
    if "://" in str(path):
        raise ModelError(f"weights are read from files, not from the network: download {path} first")
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"no weights file at {path}")
    if path.suffix == ".safetensors":
        return _without_wrappers(_read_safetensors(path))
    if path.suffix in TORCH_SUFFIXES:
        return _without_wrappers(_tensors(_read_torch(path), path))
    known = ", ".join((".safetensors", *TORCH_SUFFIXES))
    raise ModelError(f"weights are read from files named {known}; got {path}")


def trunk_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a model file of ours, the trunk's weights under its own names; others as they are."""
    for prefix in ("trunk.body.network.", "trunk.body."):  # timm's network is one level further down
        own = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
        if own:
            return own
    return dict(state)


def load_weights(module: nn.Module, state: Mapping[str, Tensor], *, known: Collection[str] = ()) -> None:
    """Set the parameters and buffers of `module` from `state`, which may be a larger network's.

    known: all names of the larger network; its parts that `module` lacks are passed over. Parameters
    on the meta device take the tensors themselves, without a copy; others are copied into.
    Raises ModelError for names that are missing, unknown, of another shape or kind, and for values that are
    not finite, and then sets nothing.
    """
    own = module.state_dict()
    # Counters came with torch 0.4.1; older files do without them, and evaluation does not need them.
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    _refuse("lack", own.keys() - state.keys() - optional)
    _refuse("hold what the network does not have:", state.keys() - own.keys() - set(known))
    shared = own.keys() & state.keys()
    _refuse("have another shape at", _misfits(own, state, shared))
    _refuse(
        "hold another kind of number at", [name for name in shared if _kind(own[name]) != _kind(state[name])]
    )
    check_finite({name: state[name] for name in shared})
    fitting = {name: state[name].to(own[name].dtype) for name in shared}
    on_meta = any(tensor.is_meta for tensor in own.values())
    module.load_state_dict(fitting, strict=False, assign=on_meta)


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raises ModelError that names the tensors which hold NaN or infinity: what they give is no number."""
    bad = [
        f"{name} ({int((~one.float().isfinite()).sum())} of {one.numel()} values)"
        for name, one in tensors.items()
        if not _is_finite(one)
    ]
    if bad:
        raise ModelError(
            f"these weights hold NaN or infinity in {_listed(bad)}: the training that made them diverged, or "
            "the file is damaged; take an earlier checkpoint, or train again at a lower learning rate"
        )


def current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with the names of today: DenseNet files of before 2018 write norm.1 for norm1."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name): tensor
        for name, tensor in state.items()
    }


# --- reading -------------------------------------------------------------------------------------


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or no safetensors file: {_reason(path, error)}") from error


def _read_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of other kinds, which are refused just below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if kind := foreign_kind(path):
            raise ModelError(f"{path} is damaged or not a torch file: it is {kind}") from error
        raise ModelError(
            f"{path} is damaged or holds Python objects, which are never unpickled here because that can run "
            "code; where you trust it, load it with torch and save its state_dict() as .safetensors"
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise ModelError(f"{path} is damaged or not a torch file: {_reason(path, error)}") from error


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping) and (nest := _nest(content)):
        content = content[nest]
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds a {type(content).__name__}; expected a state dict: tensors by name")
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        raise ModelError(
            f"{path} is not a state dict: {_listed(others) or 'nothing'} in it instead of tensors"
        )
    return {str(name): tensor for name, tensor in content.items()}


def _reason(path: Path, error: Exception) -> str:
    kind = foreign_kind(path)
    return f"it is {kind}" if kind else str(error)


def _nest(content: Mapping[Any, Any]) -> str | None:
    """The name under which a checkpoint keeps its state dict; None if it keeps none deeper."""
    return next((name for name in NESTS if isinstance(content.get(name), Mapping) and content[name]), None)


def _without_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        state = {name.replace(wrapper, ""): tensor for name, tensor in state.items()}
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def under_prefix(state: dict[str, Tensor], known: Collection[str]) -> dict[str, Tensor]:
    """`state`, or what stands in it under the one prefix behind which names of the network stand.

    known: names of the whole network. A training module keeps the network under a name, beside others.
    """
    if not state or any(name in known for name in state):
        return state
    counts: Counter[str] = Counter()
    for name in state:
        steps = [i + 1 for i, sign in enumerate(name) if sign == "."]
        counts.update(name[:i] for i in steps if name[i:] in known)
    best = counts.most_common(2)
    if not best or (len(best) > 1 and best[0][1] == best[1][1]):
        return state
    prefix = best[0][0]
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


# --- fitting -------------------------------------------------------------------------------------


def _kind(tensor: Tensor) -> str:
    """float16 is as good as float32, integers and complex numbers are not."""
    return "float" if tensor.is_floating_point() else "complex" if tensor.is_complex() else "integer"


def _is_finite(tensor: Tensor) -> bool:
    """In one pass without a copy."""
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return True
    wide = tensor if tensor.itemsize > 1 else tensor.float()  # extremes of 8-bit floats are not there
    return bool(torch.stack(wide.aminmax()).isfinite().all())


def _misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor], names: Iterable[str]) -> list[str]:
    return [
        f"{name} (expected {tuple(own[name].shape)}, got {tuple(state[name].shape)})"
        for name in names
        if own[name].shape != state[name].shape
    ]


def _refuse(what: str, names: Collection[str]) -> None:
    if names:
        raise ModelError(f"these weights {what} {_listed(names)}; are they for another network?")


def _listed(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(sorted(names)[:NAMED_IN_ERRORS])
    more = len(names) - NAMED_IN_ERRORS
    return f"{shown} and {more} more" if more > 0 else shown
