"""Which files are meant: the images that paths, folders and patterns name, in natural order."""

import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from sppnet.data.image_formats import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from sppnet.errors import DataError, did_you_mean


def natural_key(text: str) -> tuple[tuple[str | int, ...], str]:
    """Sorts "2" before "10", and letters without regard to case; equal ones by their exact text."""
    parts = re.split(r"([0-9]+)", text)
    return tuple(int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)), text


def path_key(path: Path) -> tuple[tuple[tuple[str | int, ...], str], ...]:
    """Natural order of paths, folder by folder."""
    return tuple(natural_key(part) for part in path.parts)


def is_hidden(name: str) -> bool:
    """Names that people do not mean: dot files, and the shadow folder in archives made on a Mac."""
    return name.startswith(".") or name == "__MACOSX"


def walk_files(root: Path) -> list[Path]:
    """All files below a folder in natural order, hidden ones left out, links followed (a loop once)."""
    found: list[Path] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        found += [Path(folder, name) for name in names if not is_hidden(name)]
    return sorted(found, key=path_key)


def is_image_name(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def find_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The image files that paths name: files as they are, folders with all below them, and patterns.

    Each file once, in the order of `paths` and naturally within a folder or pattern. Raises
    DataError for a path or pattern that names nothing, and for a folder without images.
    """
    listed: Sequence[str | Path] = [paths] if isinstance(paths, (str, Path)) else list(paths)
    return list(dict.fromkeys(found for path in listed for found in _named_by(path)))


def _named_by(path: str | Path) -> list[Path]:
    here = Path(path)
    if here.is_dir():
        images = [file for file in walk_files(here) if is_image_name(file)]
        if not images:
            raise DataError(f"{path} holds no images (names that end in {' '.join(sorted(IMAGE_SUFFIXES))})")
        return images
    if here.exists():
        return [here]
    if not glob.has_magic(str(path)):
        raise DataError(f"{path} does not exist; {_nearest(here)}")
    matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
    matches = [match for match in matches if not any(map(is_hidden, set(match.parts) - set(here.parts)))]
    files = {file for match in matches for file in (walk_files(match) if match.is_dir() else [match])}
    images = sorted(filter(is_image_name, files), key=path_key)
    if not images:
        raise DataError(f"the pattern {path} matches no image; check it, and quote it from the shell")
    return images


def _nearest(missing: Path) -> str:
    """A hint for a path that does not exist: its neighbours of a like name."""
    parent = missing.parent
    if not parent.is_dir():
        return f"nor does its folder {parent}"
    return did_you_mean(missing.name, (entry.name for entry in parent.iterdir() if not is_hidden(entry.name)))
