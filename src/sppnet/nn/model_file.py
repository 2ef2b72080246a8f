"""The one file a model lives in: safetensors with a readable JSON header. Nothing in it can run."""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sppnet import __version__
from sppnet.errors import ModelError
from sppnet.nn.file_signature import foreign_kind

KEY = "sppnet"
"""Where the header stands among safetensors' metadata."""

FORMAT = 1

LARGEST = 2**31
LARGEST_SIDE = 2**14
"""Of numbers in a header, and of those that are sides in pixels: more is a mistake, or an attack."""

UNFINISHED = ".*.unfinished"
"""Names of files that `write_file` had not ended; one stays only where its process was killed."""

MAX_LINKS = 40
"""That lead from one to the next."""


def save_model(path: str | Path, kind: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a model; a file already there is replaced whole or not at all.

    kind: what the file is, such as "classifier". header: the rest of its description, fit for JSON.
    """
    described = {"kind": kind, "format": FORMAT, "sppnet": __version__, **header}
    metadata = {KEY: json.dumps(described, ensure_ascii=False)}
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    write_file(path, content)


def load_model(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a model of this kind; raises ModelError naming what is wrong with the file."""
    header = read_header(path)
    if header.get("kind") != kind:
        raise ModelError(f"{path} holds a {header.get('kind')}; expected a {kind}")
    try:
        with safe_open(path, "pt") as file:
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error


def read_header(path: str | Path) -> dict[str, Any]:
    """What a model file says about itself, without its weights."""
    if not Path(path).is_file():
        files = ", ".join(sorted(file.name for file in Path(path).glob("*.safetensors")))
        held = f"a folder; name a file in it ({files or 'it holds no .safetensors'})"
        raise ModelError(f"no model file at {path}: {held if Path(path).is_dir() else 'check the path'}")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError) as error:
        kind = foreign_kind(path)
        reason = f"it is {kind}" if kind else str(error)
        raise ModelError(f"{path} is not a readable safetensors file: {reason}") from error
    if text is None:
        raise ModelError(
            f"{path} holds weights without sppnet's header; pass it as --weights, not as --model"
        )
    return _parse_header(path, text)


def _parse_header(path: str | Path, text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, a number of too many digits, nested too deep
        raise ModelError(f"{path} has a damaged header: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else type(header).__name__
        raise ModelError(f"{path} has header format {found}; this version of sppnet reads format {FORMAT}")
    return header


def check_settings(settings: Any) -> None:
    """Raises ModelError unless the fields of a dataclass are of the kinds of their defaults.

    For settings that come from a header: numbers are finite, 0 or more, and not enormous, those of a
    tuple above 0. Fields without a default, or with None for one, are not looked at.
    """
    for field in fields(settings):
        value, default = getattr(settings, field.name), field.default
        limit = LARGEST_SIDE if field.name.startswith(("scale", "size")) else LARGEST
        if value is None:
            good = "None" in str(field.type)
        elif isinstance(default, tuple):
            names = "str" in str(field.type)  # of which there may be none
            one = "" if names else default[0] if default else 1  # whole numbers that are found later
            fits = isinstance(value, tuple) and all(_fits(v, one, limit) and v for v in value)
            good = fits and (names or value)
        else:
            good = not isinstance(default, str | int | float) or _fits(value, default, limit)
        if not good:
            raise ModelError(f"its {field.name} is {value!r}; expected something like {default!r}")


def _fits(value: object, default: object, limit: int) -> bool:
    if isinstance(default, str) or isinstance(value, bool):
        return type(value) is type(default)
    kinds = int | float if isinstance(default, float) else int
    return isinstance(value, kinds) and math.isfinite(value) and 0 <= value <= limit


def write_file(path: str | Path, content: bytes, *, sync: bool = True) -> None:
    """Put `content` at `path` in one step: whoever reads sees the old file or the new one, whole.

    What a link leads to is replaced, and devices, pipes and open files, as /dev/stdout, are written into.
    sync: wait until the disk has it, so that a power cut leaves one or the other too.
    Raises OSError naming the path, as where the disk is full or the folder cannot be written to.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _descriptor_of(path)
        if descriptor is not None or (path.exists() and not path.is_file()):
            with open(path if descriptor is None else os.dup(descriptor), "wb") as file:
                file.write(content)
        else:
            _replace(Path(os.path.realpath(path)), content, sync)
    except OSError as error:
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from error


def _descriptor_of(path: Path) -> int | None:
    """The open file that /dev/fd/1, /proc/self/fd/1, or a link to one of them, as /dev/stdout, stands for.

    To open it anew would start at its beginning once more.
    """
    for _ in range(MAX_LINKS):
        folder = os.path.realpath(path.parent)
        if folder in ("/dev/fd", f"/proc/{os.getpid()}/fd") and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = Path(folder, os.readlink(path))
    return None


def _replace(path: Path, content: bytes, sync: bool) -> None:
    prefix = f".{path.name[:40]}."  # a name may be as long as the disk takes
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=".unfinished")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
