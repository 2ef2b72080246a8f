"""Which files are meant: the images that paths, folders and patterns name, in natural order.

Nothing is passed over in silence: a listing also says how many image files it left out, and why.
"""

import glob
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from sppnet.data.image_formats import begins_as_image, readable_suffixes, unreadable_hint
from sppnet.errors import DataError, did_you_mean, encodable, printable

SYSTEM_FOLDERS = frozenset(
    {
        "__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot",
        "$recycle.bin", "recycler", "system volume information", "lost+found", "found.000",
        "thumbs.db", "__pycache__",
    }
)  # fmt: skip
"""Folders that an operating system, a network drive or an archive makes beside the user's own."""

OTHER_SUFFIXES = frozenset(
    {
        ".txt", ".xml", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".md", ".html", ".py", ".log",
        ".npy", ".npz", ".mat", ".pkl", ".pt", ".pth", ".safetensors", ".onnx", ".parquet", ".zip", ".pdf",
    }
)  # fmt: skip
"""Files that are not looked into for images: of these a data set may have as many."""


# --- names ---------------------------------------------------------------------------------------


def natural_key(text: str) -> tuple[tuple[str | int, ...], str]:
    """Sorts "2" before "10", and letters without regard to case; equal ones by their exact text."""
    parts = re.split(r"([0-9]+)", text)
    return tuple(int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)), text


def path_key(path: Path) -> tuple[tuple[tuple[str | int, ...], str], ...]:
    """Natural order of paths, folder by folder."""
    return tuple(natural_key(part) for part in path.parts)


def is_hidden(name: str) -> bool:
    """Names that people do not mean: dot files, and folders of the system."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def composed(name: str) -> str:
    """The name in Unicode's composed form (NFC): Macs and archives exchange é with e and an accent."""
    return unicodedata.normalize("NFC", name)


def writable_name(name: str | Path) -> str:
    r"""A file name as text for any file or screen: bytes that are not UTF-8 become `\xe9` and the like.

    Other names stay as they are. `name_from_text` is the way back.
    """
    return encodable(name.as_posix() if isinstance(name, Path) else name)


def name_from_text(text: str) -> str:
    r"""The file name that `writable_name` wrote: `\x80` to `\xff` become bytes that are not UTF-8 again."""
    return re.sub(r"\\x([89a-f][0-9a-f])", lambda match: chr(0xDC00 + int(match[1], 16)), text)


def is_image_name(path: PurePath) -> bool:
    """Whether the name ends like that of an image which can be read here."""
    return path.suffix.lower() in readable_suffixes()


def image_stem(name: str) -> str:
    """A file's name without the suffix, if that is one of images: "1.5 km" keeps its end."""
    path = PurePath(name)
    return path.stem if is_image_name(path) else name


def is_unread_name(path: Path) -> bool:
    """Whether the name ends like that of an image in a format which cannot be read here."""
    return unreadable_hint(path.suffix) is not None


def is_nameless_image(path: Path) -> bool:
    """Whether a file is an image by its first bytes, but not by its name, as downloads leave them."""
    if is_image_name(path) or is_unread_name(path) or path.suffix.lower() in OTHER_SUFFIXES:
        return False
    try:
        with path.open("rb") as file:
            return begins_as_image(file.read(16))
    except OSError:
        return False


# --- what lies in folders ------------------------------------------------------------------------


@dataclass(frozen=True)
class Omission:
    """Images that were left out for one reason."""

    count: int
    """How many; 0 where that is not known, as of a folder that cannot be listed."""
    reason: str
    """A sentence with the count and an example in it; names in it go through `writable_name`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", writable_name(self.reason))


def omit(
    named: Sequence[Path] | Sequence[str], what: str, *, noun: str = "image", advice: str = ""
) -> list[Omission]:
    """Those left out for one reason, in a sentence with the first of them; empty where there are none."""
    if not named:
        return []
    many = f"{noun} is" if len(named) == 1 else f"{noun}s are"
    example = printable(f"{named[0]}")
    return [Omission(len(named), f"{len(named)} {many} {what}, such as {example}{advice and f'; {advice}'}")]


@dataclass
class Walk:
    """What lies below folders."""

    files: list[Path] = field(default_factory=list)
    """In natural order, hidden ones left out."""
    hidden: list[Path] = field(default_factory=list)
    """Folders that `is_hidden` left out."""
    unlisted: dict[Path, str] = field(default_factory=dict)
    """Folders that the system does not let be listed, and its reason."""

    @property
    def images(self) -> list[Path]:
        return [file for file in self.files if is_image_name(file)]

    def omissions(self) -> list[Omission]:
        """Images in formats that are not read, and folders that cannot be listed."""
        by_suffix: dict[str, list[Path]] = defaultdict(list)
        for file in filter(is_unread_name, self.files):
            by_suffix[file.suffix.lower()].append(file)
        unread = [
            omission
            for suffix, files in sorted(by_suffix.items())
            for omission in omit(
                files, "not read", noun=f"{suffix} file", advice=unreadable_hint(suffix) or ""
            )
        ]
        nameless = [file for file in self.files if is_nameless_image(file)]
        unnamed = omit(nameless, "named without an image's suffix", advice="add .jpg, .png or the like")
        unlisted = [
            Omission(0, f"the folder {folder} cannot be listed ({why}), so its images are left out")
            for folder, why in self.unlisted.items()
        ]
        return [*unread, *unnamed, *unlisted]


def walk(*roots: Path) -> Walk:
    """Everything below folders, links followed (a loop once)."""
    found = Walk()

    def note(error: OSError) -> None:
        found.unlisted[Path(error.filename)] = error.strerror or str(error)

    seen: set[str] = set()
    for root in roots:
        for folder, folders, names in os.walk(root, onerror=note, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen or _leads_back(folder, real):
                folders.clear()
                continue
            seen.add(real)
            found.hidden += [Path(folder, name) for name in folders if is_hidden(name)]
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            found.files += [Path(folder, name) for name in names if not is_hidden(name)]
    found.files.sort(key=path_key)
    found.hidden.sort(key=path_key)
    return found


def _leads_back(folder: str, real: str) -> bool:
    """Whether a folder is a link to one that it lies in, beside which other classes may be."""
    above = os.path.realpath(os.path.dirname(folder))
    return os.path.islink(folder) and Path(above).is_relative_to(real)


def walk_files(root: Path) -> list[Path]:
    """All files below a folder in natural order, hidden ones left out, links followed (a loop once)."""
    return walk(root).files


# --- what paths name -----------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageList:
    """Image files, and what was left out when they were listed."""

    paths: tuple[Path, ...]
    omitted: tuple[Omission, ...] = ()


def find_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The image files that paths name: `list_images` without what was left out."""
    return list(list_images(paths).paths)


def list_images(paths: str | Path | Iterable[str | Path]) -> ImageList:
    """The image files that paths name: files as they are, folders with all below them, and patterns.

    Each file once, in the order of `paths` and naturally within a folder or pattern. Raises
    DataError for a path or pattern that names nothing, and for a folder without images.
    """
    listed: Sequence[str | Path] = [paths] if isinstance(paths, (str, Path)) else list(paths)
    named = [_named_by(path) for path in dict.fromkeys(listed)]
    images = dict.fromkeys(image for each in named for image in each.paths)
    return ImageList(tuple(images), tuple(omission for each in named for omission in each.omitted))


def _named_by(path: str | Path) -> ImageList:
    here = Path(path)
    if here.is_dir():
        found = walk(here)
        return _listed(
            found, f"{path} holds no images (names that end in {' '.join(sorted(readable_suffixes()))})"
        )
    if here.exists():
        return ImageList((here,))
    if "://" in str(path):
        raise DataError(f"{path} is an address; images are read from files: download it first")
    if not glob.has_magic(str(path)):
        raise DataError(f"{path} does not exist; {_nearest(here)}")
    matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
    matches = [match for match in matches if not any(map(is_hidden, set(match.parts) - set(here.parts)))]
    found = walk(*(match for match in matches if match.is_dir()))
    files = {*found.files, *(match for match in matches if not match.is_dir())}
    found.files = sorted(files, key=path_key)
    return _listed(found, f"the pattern {path} matches no image; check it, and quote it from the shell")


def _listed(found: Walk, nothing: str) -> ImageList:
    """nothing: the error where there is no image that can be read."""
    images, omitted = found.images, tuple(found.omissions())
    if not images:
        raise DataError("; ".join([nothing, *(omission.reason for omission in omitted)]))
    return ImageList(tuple(images), omitted)


def _nearest(missing: Path) -> str:
    """A hint for a path that does not exist: its neighbours of a like name."""
    parent = missing.parent
    if not parent.is_dir():
        return f"nor does its folder {parent}"
    return did_you_mean(missing.name, (entry.name for entry in parent.iterdir() if not is_hidden(entry.name)))
