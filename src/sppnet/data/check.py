"""What is in a folder of classes, and what is wrong with it, before hours are spent on it.

Every image is decoded, on threads. Nothing is changed: the report names the files, people decide.
"""

import hashlib
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sppnet.data.files import is_image_name, walk_files
from sppnet.data.folder import existing_folder, find_splits, list_classes
from sppnet.data.image import read_header, read_image
from sppnet.errors import DataError, ImageError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SideRange:
    """Lengths in pixels."""

    min: int
    median: float
    max: int


@dataclass(frozen=True)
class DamagedFile:
    path: str
    reason: str


@dataclass(frozen=True)
class Duplicates:
    """Readable images with exactly the same bytes."""

    paths: tuple[str, ...]
    across_splits: bool
    """In training and validation both: the validation score flatters."""
    across_classes: bool
    """One image, two labels."""


@dataclass(frozen=True)
class FolderReport:
    """What `check_folder` found. Paths are relative to `root`, sizes are of upright images."""

    root: str
    splits: dict[str, dict[str, int]]
    """Images of each class of each split; a folder without splits has one split, named ""."""
    width: SideRange | None
    height: SideRange | None
    """None where no image could be read, as for `width`."""
    most_extreme: tuple[str, int, int] | None
    """The image whose sides differ most: path, width, height."""
    modes: dict[str, int]
    """Pillow's names of the pixel layouts, the most common first."""
    damaged: tuple[DamagedFile, ...]
    duplicates: tuple[Duplicates, ...]
    not_images: tuple[str, ...]
    """Files whose names are not those of images; they are ignored."""
    empty_classes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Entry:
    """One image file and its place."""

    path: Path
    split: str
    class_name: str


@dataclass(frozen=True)
class _Finding:
    """What reading one image file gave; `reason` says why it could not be read."""

    digest: str = ""
    size_hw: tuple[int, int] = (0, 0)
    mode: str = ""
    reason: str = ""


def check_folder(root: str | Path, workers: int = 2, progress: Progress | None = None) -> FolderReport:
    """Reads every image of ROOT/class/ or ROOT/split/class/ and reports on them.

    progress: called with (images done, images in all) after each, on the calling thread.
    Raises DataError if ROOT is no folder or holds no folders of images.
    """
    here = existing_folder(root)
    splits = {split: list_classes(folder) for split, folder in (find_splits(here) or {"": here}).items()}
    entries = [
        _Entry(path, split, name)
        for split, classes in splits.items()
        for name, paths in classes.items()
        for path in paths
    ]
    if not entries:
        raise DataError(f"{root} holds no images in class folders; expected ROOT/class/image.jpg")
    findings = _examine_all(entries, workers, progress)
    return _report(here, splits, dict(zip(entries, findings, strict=True)))


def _examine_all(entries: list[_Entry], workers: int, progress: Progress | None) -> list[_Finding]:
    findings: list[_Finding] = []
    with ThreadPoolExecutor(max(workers, 1), thread_name_prefix="sppnet-check") as pool:
        try:
            for finding in pool.map(_examine, (entry.path for entry in entries)):
                findings.append(finding)
                if progress is not None:
                    progress(len(findings), len(entries))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return findings


def _examine(path: Path) -> _Finding:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        header = read_header(path)
        read_image(path)
    except (ImageError, OSError) as error:
        return _Finding(reason=str(error))
    return _Finding(digest, header.size_hw, header.mode)


# --- the report ----------------------------------------------------------------------------------


def _report(
    root: Path, splits: dict[str, dict[str, list[Path]]], findings: dict[_Entry, _Finding]
) -> FolderReport:
    readable = {entry.path: finding for entry, finding in findings.items() if not finding.reason}
    sizes = {path: finding.size_hw for path, finding in readable.items()}
    return FolderReport(
        root=str(root),
        splits={
            split: {name: len(paths) for name, paths in classes.items()} for split, classes in splits.items()
        },
        width=_side_range(width for _, width in sizes.values()),
        height=_side_range(height for height, _ in sizes.values()),
        most_extreme=_most_extreme(root, sizes),
        modes=dict(Counter(finding.mode for finding in readable.values()).most_common()),
        damaged=tuple(
            DamagedFile(_relative(entry.path, root), finding.reason)
            for entry, finding in findings.items()
            if finding.reason
        ),
        duplicates=_find_duplicates(root, findings),
        not_images=tuple(_relative(path, root) for path in walk_files(root) if not is_image_name(path)),
        empty_classes=tuple(
            "/".join(filter(None, (split, name)))
            for split, classes in splits.items()
            for name, paths in classes.items()
            if not paths
        ),
    )


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _side_range(lengths: Iterable[int]) -> SideRange | None:
    known = list(lengths)
    return SideRange(min(known), statistics.median(known), max(known)) if known else None


def _most_extreme(root: Path, sizes: dict[Path, tuple[int, int]]) -> tuple[str, int, int] | None:
    if not sizes:
        return None
    path = max(sizes, key=lambda path: max(sizes[path]) / min(sizes[path]))
    height, width = sizes[path]
    return _relative(path, root), width, height


def _find_duplicates(root: Path, findings: dict[_Entry, _Finding]) -> tuple[Duplicates, ...]:
    groups: dict[str, list[_Entry]] = {}
    for entry, finding in findings.items():
        if not finding.reason:
            groups.setdefault(finding.digest, []).append(entry)
    return tuple(
        Duplicates(
            tuple(_relative(entry.path, root) for entry in group),
            across_splits=len({entry.split for entry in group}) > 1,
            across_classes=len({entry.class_name for entry in group}) > 1,
        )
        for group in groups.values()
        if len(group) > 1
    )
