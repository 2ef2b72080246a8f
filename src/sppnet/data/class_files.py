"""Class folders and split folders: which of the folders below ROOT are which, and the images in them.

    ROOT/class/image.jpg           classes
    ROOT/split/class/image.jpg     splits; "seg_train" beside "seg_test" are splits too

Archives often hold one folder more at any of these places (ROOT/photos/photos/class): it is passed through.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sppnet.data.files import (
    Omission,
    Walk,
    composed,
    is_hidden,
    is_image_name,
    natural_key,
    omit,
    path_key,
    walk,
    writable_name,
)
from sppnet.data.split_names import SPLIT_OF
from sppnet.errors import ConfigError, DataError

CLASS_SPLITS = ("train", "val", "test")
_WORDS = {**SPLIT_OF, "trainval": "train"}

MAX_WRAPPERS = 8
"""Folders around the data set that are passed through, at most."""


@dataclass(frozen=True)
class LabelledFiles:
    """The images of one split by class, and what was left out when they were listed."""

    root: Path
    files: dict[str, list[Path]]
    """The images of every class, in natural order; a class may have none."""
    omitted: tuple[Omission, ...] = ()
    table: str = ""
    """What tells the classes, if not folders: a file and its columns."""
    unread: tuple[str, ...] = ()
    """A sentence if tables of labels lie beside the folders."""

    @property
    def labelled_classes(self) -> int:
        """How many classes have images."""
        return sum(map(bool, self.files.values()))


@dataclass(frozen=True)
class Layout:
    """Where the classes are."""

    root: Path
    """What holds the folders of the classes or of the splits: ROOT, or a folder further down."""
    splits: dict[str, Path]
    """The folder of class folders of each split, by its name; empty where there are none."""
    flat: tuple[Path, ...] = ()
    """Folders named like splits that hold no class folders."""
    beside: tuple[Path, ...] = ()
    """Other folders beside the splits, which are not used."""


def split_of(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The split that a name tells, and the rest of the name; None if it tells none, or several.

    "train" → ("train", ("",)); "seg_Test" → ("test", ("seg", "_", "")).
    """
    parts = re.split(r"([^a-z]+)", composed(name).lower())
    places = [place for place, part in enumerate(parts) if part in _WORDS]
    if len(places) != 1:
        return None
    split = _WORDS[parts[places[0]]]
    return split, tuple("" if place == places[0] else part for place, part in enumerate(parts))


def find_layout(root: Path) -> Layout:
    """The splits or classes of ROOT, or of the folder inside it that holds them."""
    here = root
    for _ in range(MAX_WRAPPERS):
        layout = _splits_in(here)
        if layout.splits or layout.flat:
            return layout
        inner = pass_wrapper(here)
        if inner is None:
            break
        here = inner
    return Layout(pass_wrappers(root), {})


def pass_wrapper(here: Path) -> Path | None:
    """The only folder of `here`, if no image lies beside it; None otherwise."""
    folders = visible_folders(here)
    return folders[0] if len(folders) == 1 and not images_in(here) else None


def pass_wrappers(here: Path) -> Path:
    """The first folder below that holds several folders, through folders that hold one alone; else `here`."""
    inner: Path | None = here
    for _ in range(MAX_WRAPPERS):
        if inner is None:
            return here
        if len(visible_folders(inner)) > 1:
            return inner
        inner = pass_wrapper(inner)
    return here


def _splits_in(here: Path) -> Layout:
    """The splits among the folders of `here`; none where these are classes.

    Folders whose names differ in the word for the split alone are splits together; numbers behind it are
    those of a year or a part ("test1" beside "train"). A class may be called
    "train": then images lie in it, or less than two folders, and other classes beside it.
    """
    folders = visible_folders(here)
    groups: dict[tuple[str, ...], dict[str, Path]] = defaultdict(dict)
    members: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for folder in sorted(folders, key=_word_order):
        if found := split_of(folder.name):
            rest = ("",) if all(re.fullmatch(r"[\W\d_]*", part) for part in found[1]) else found[1]
            split = _free_split(groups[rest], found[0], folder.name)
            groups[rest].setdefault(split, folder)
            members[rest].append(folder)
    for rest, group in sorted(groups.items(), key=lambda item: (item[0] != ("",), -len(item[1]), item[0])):
        labelled = {split: pass_wrappers(folder) for split, folder in group.items() if _holds_classes(folder)}
        alone = rest == ("",) and (len(folders) == 1 or _is_lone_train(group))
        if len(members[rest]) > 1 or (labelled and alone):
            flat = tuple(folder for split, folder in group.items() if split not in labelled)
            beside = tuple(folder for folder in folders if folder not in group.values())
            return Layout(here, labelled, flat, beside)
    return Layout(here, {})


def _free_split(group: dict[str, Path], split: str, name: str) -> str:
    """Beside "dev" or "val" a folder "eval" is to be tested on."""
    taken = "val" in group and "test" not in group
    return "test" if taken and "eval" in name.lower() else split


def _word_order(folder: Path) -> int:
    """ "val" before "valid" before "validation", where several are there."""
    words = re.split(r"[^a-z]+", folder.name.lower())
    return next((place for place, word in enumerate(_WORDS) if word in words), 0)


def _holds_classes(folder: Path) -> bool:
    return bool(visible_folders(folder))


def _is_lone_train(group: dict[str, Path]) -> bool:
    """A folder "train" of two class folders or more, whatever stands beside it."""
    train = group.get("train")
    return train is not None and not images_in(train) and len(visible_folders(pass_wrappers(train))) > 1


def visible_folders(root: Path) -> list[Path]:
    """The folders in ROOT in natural order, without hidden ones and those of the system."""
    folders = [entry for entry in entries_of(root) if entry.is_dir() and not is_hidden(entry.name)]
    return sorted(folders, key=lambda folder: natural_key(composed(folder.name)))


def images_in(root: Path) -> list[Path]:
    """The image files that lie in ROOT directly."""
    images = (entry for entry in entries_of(root) if is_image_name(entry) and not is_hidden(entry.name))
    return sorted((image for image in images if image.is_file()), key=path_key)


def entries_of(root: Path) -> list[Path]:
    """What lies in a folder; raises DataError for one that the system does not let be listed."""
    try:
        return list(root.iterdir())
    except PermissionError as error:
        raise DataError(f"{root} cannot be listed ({error.strerror}); change its permissions") from error


def list_classes(root: Path) -> LabelledFiles:
    """The image files of every class folder in natural order, also of the empty ones.

    Folders whose names differ in Unicode's composition alone are one class.
    """
    by_name: dict[str, list[Path]] = defaultdict(list)
    for folder in visible_folders(root):
        by_name[writable_name(composed(folder.name))].append(folder)
    walks = {name: walk(*folders) for name, folders in by_name.items()}
    whole = Walk([file for each in walks.values() for file in each.files])
    for each in walks.values():
        whole.unlisted |= each.unlisted
    _check_listed(root, whole.unlisted)
    omitted = whole.omissions()
    stray = images_in(root) if by_name else []
    omitted += omit(stray, "beside the class folders", advice="move them into a class")
    return LabelledFiles(root, {name: each.images for name, each in walks.items()}, tuple(omitted))


def _check_listed(root: Path, unlisted: dict[Path, str]) -> None:
    """Raises DataError for a class folder that cannot be listed: its class would have no images."""
    if lost := [folder for folder in unlisted if folder.parent == root]:
        names = ", ".join(f"{folder} ({unlisted[folder]})" for folder in lost)
        raise DataError(
            f"class folders that cannot be listed: {names}. Change their permissions, or move them away"
        )


# --- validation images ---------------------------------------------------------------------------


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
