"""Which images of a data set are held out where it brings no split to judge by."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from sppnet.data.files import composed
from sppnet.errors import ConfigError

HOLD_OUT = 0.2
"""Share that is held out by default."""


def draw_held_out(paths: Sequence[Path], root: Path, fraction: float, seed: int) -> set[int]:
    """Indices of `fraction` of the paths, to the nearest: of two or more one at least, and never all.

    Which ones is a pure function of the seed and the file names below the root, so it is the same on every
    machine, and adding an image moves few others.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"the fraction held out must lie between 0 and 1; got {fraction}")
    count = min(max(int(len(paths) * fraction + 0.5), 1), len(paths) - 1) if paths else 0
    return set(sorted(range(len(paths)), key=lambda i: _draw(paths[i], root, seed))[:count])


def _draw(path: Path, root: Path, seed: int) -> str:
    # Composed letters, since some file systems hand names back decomposed.
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    return hashlib.sha256(composed(f"{seed}/{name}").encode("utf-8", "surrogateescape")).hexdigest()
