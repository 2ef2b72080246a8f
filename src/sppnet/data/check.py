"""What is in a folder of classes, and what is wrong with it, before hours are spent on it.

Every image is decoded, on threads. Nothing is changed: the report names the files, people decide.
"""

import hashlib
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sppnet.data.class_files import LabelledFiles
from sppnet.data.detection_dataset import find_annotated_below
from sppnet.data.files import Walk, is_image_name, is_unread_name, walk, writable_name
from sppnet.data.folder import find_splits, layout_hint
from sppnet.data.foreign import unread_annotations
from sppnet.data.image import read_header, read_image
from sppnet.errors import DataError, ImageError
from sppnet.progress import NullProgress, Progress, track
from sppnet.threads import ordered_map


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
    """One image, two labels; where boxes are marked, marked in two ways."""


@dataclass(frozen=True, kw_only=True)
class ImageSummary:
    """What the images of a data set are. Paths are relative to `root`, sizes are of upright images."""

    root: str
    width: SideRange | None
    height: SideRange | None
    """None where no image could be read, as for `width`."""
    most_extreme: tuple[str, int, int] | None
    """The image whose sides differ most: path, width, height."""
    modes: dict[str, int]
    """Pillow's names of the pixel layouts, the most common first."""
    damaged: tuple[DamagedFile, ...]
    duplicates: tuple[Duplicates, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class FolderReport(ImageSummary):
    """What `check_folder` found."""

    splits: dict[str, dict[str, int]]
    """Images of each class of each split; a folder without splits has one split, named ""."""
    not_images: tuple[str, ...]
    """Files whose names are not those of images; they are ignored."""
    empty_classes: tuple[str, ...]
    classes_from: dict[str, str]
    """What tells the classes of each split: a table of labels, or a folder; "" where it is the usual one."""
    omitted: tuple[str, ...] = ()
    """Image files that training leaves out, a sentence for each reason."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Hidden folders and folders of the system that hold images, by name, and how many they hold."""

    unread_tables: tuple[str, ...] = ()
    """Of labels, beside class folders: a sentence."""
    unread_boxes: str = ""
    """A sentence if a tool's annotations lie there that are not read."""


@dataclass(frozen=True)
class Entry:
    """One image file and its place."""

    path: Path
    split: str
    label: str
    """Its class; where boxes are marked, a text that differs where they do."""


@dataclass(frozen=True)
class Finding:
    """What reading one image file gave; `reason` says why it could not be read."""

    digest: str = ""
    size_hw: tuple[int, int] = (0, 0)
    mode: str = ""
    reason: str = ""


def check_folder(root: str | Path, workers: int = 2, progress: Progress | None = None) -> FolderReport:
    """Reads every image of class folders, or of a table of labels, and reports on them.

    Raises DataError if ROOT holds neither.
    """
    splits = find_splits(root)
    here = Path(root) if Path(root).is_dir() else Path(root).parent
    entries = [
        Entry(path, split, name)
        for split, listed in splits.items()
        for name, paths in listed.files.items()
        for path in paths
    ]
    if not entries:
        omitted = "".join(f"; {each.reason}" for listed in splits.values() for each in listed.omitted)
        hint = layout_hint(here)
        raise DataError(f"{root} should hold folders of images, ROOT/class/image.jpg. {hint}{omitted}")
    return _report(here, splits, summarise(here, entries, workers, progress))


def summarise(
    root: Path, entries: Sequence[Entry], workers: int, progress: Progress | None
) -> dict[str, Any]:
    """The fields of an ImageSummary; every image is decoded, on threads."""
    examined = ordered_map(_examine, (entry.path for entry in entries), workers, ahead=workers)
    tracked = track(examined, "reading", len(entries), progress or NullProgress())
    findings = dict(zip(entries, tracked, strict=True))
    readable = [(entry, finding) for entry, finding in findings.items() if not finding.reason]
    sizes = {entry.path: finding.size_hw for entry, finding in readable}
    return {
        "root": str(root),
        "width": _side_range(width for _, width in sizes.values()),
        "height": _side_range(height for height, _ in sizes.values()),
        "most_extreme": _most_extreme(root, sizes),
        "modes": dict(Counter(finding.mode for _, finding in readable).most_common()),
        "damaged": tuple(
            DamagedFile(relative_name(entry.path, root), finding.reason)
            for entry, finding in findings.items()
            if finding.reason
        ),
        "duplicates": _find_duplicates(root, readable),
    }


def _examine(path: Path) -> Finding:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        header = read_header(path)
        read_image(path)
    except (ImageError, OSError) as error:
        return Finding(reason=str(error))
    return Finding(digest, header.size_hw, header.mode)


# --- the report ----------------------------------------------------------------------------------


def _report(root: Path, splits: dict[str, LabelledFiles], summary: dict[str, Any]) -> FolderReport:
    below = walk(root)
    others = (path for path in below.files if not is_image_name(path) and not is_unread_name(path))
    return FolderReport(
        **summary,
        splits={
            split: {name: len(paths) for name, paths in listed.files.items()}
            for split, listed in splits.items()
        },
        not_images=tuple(relative_name(path, root) for path in others),
        empty_classes=tuple(
            "/".join(filter(None, (split, name)))
            for split, listed in splits.items()
            for name, paths in listed.files.items()
            if not paths
        ),
        classes_from={split: _told_by(split, listed, root) for split, listed in splits.items()},
        omitted=tuple(each.reason for listed in splits.values() for each in listed.omitted),
        ignored=count_ignored(below),
        unread_boxes=unread_annotations(root) or _boxes_below(root),
        unread_tables=tuple(sentence for listed in splits.values() for sentence in listed.unread),
    )


def _boxes_below(root: Path) -> str:
    """A sentence if folders in it are data sets with boxes, as two years of VOC beside each other."""
    try:
        found = [relative_name(path, root) for path in find_annotated_below(root)]
    except (DataError, OSError):  # of something that is no data set either
        return ""
    return f"boxes are marked in {', '.join(found)}; check each folder alone" if found else ""


def _told_by(split: str, listed: LabelledFiles, root: Path) -> str:
    expected = listed.root.parent if split else listed.root
    return listed.table or ("" if expected == root else relative_name(listed.root, root))


def count_ignored(below: Walk) -> dict[str, int]:
    """Images in hidden folders and in those of the system, by the folders' names."""
    totals: Counter[str] = Counter()
    for folder in below.hidden:
        inside = (path for path in folder.rglob("*") if is_image_name(path) or is_unread_name(path))
        totals[writable_name(folder.name)] += sum(path.is_file() for path in inside)
    return {name: count for name, count in totals.items() if count}


def relative_name(path: Path, root: Path) -> str:
    """As reports name a file."""
    return writable_name(path.relative_to(root))


def _side_range(lengths: Iterable[int]) -> SideRange | None:
    """None where there are no lengths."""
    known = list(lengths)
    return SideRange(min(known), statistics.median(known), max(known)) if known else None


def _most_extreme(root: Path, sizes: dict[Path, tuple[int, int]]) -> tuple[str, int, int] | None:
    """Path, width and height of the image whose sides differ most."""
    if not sizes:
        return None
    path = max(sizes, key=lambda path: max(sizes[path]) / min(sizes[path]))
    height, width = sizes[path]
    return relative_name(path, root), width, height


def _find_duplicates(root: Path, readable: Iterable[tuple[Entry, Finding]]) -> tuple[Duplicates, ...]:
    """The images that are byte for byte the same."""
    groups: dict[str, list[Entry]] = {}
    for entry, finding in readable:
        groups.setdefault(finding.digest, []).append(entry)
    return tuple(
        Duplicates(
            tuple(relative_name(entry.path, root) for entry in group),
            across_splits=len({entry.split for entry in group}) > 1,
            across_classes=len({entry.label for entry in group}) > 1,
        )
        for group in groups.values()
        if len(group) > 1
    )
