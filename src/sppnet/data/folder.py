"""A folder of classes: ROOT/class/image.jpg, as torchvision and most people lay them out.

Classes and files stand in natural order ("2" before "10"), hidden files are left out, and folders
inside a class folder belong to it. Links are followed, also out of ROOT: large data sets are
often linked into place, and nothing here is ever written.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sppnet.arrays import Ints
from sppnet.data.files import is_hidden, is_image_name, walk_files
from sppnet.data.files import natural_key as natural_key
from sppnet.errors import ConfigError, DataError, did_you_mean

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Folder names that are taken for each split, compared in lower case."""

COCO_NAME = re.compile(r"annotations|.*(annotations|instances).*\.json")

HOLD_OUT = 0.2
"""Share of every class that is held out where the data set brings no validation images."""


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Image files and their classes; `folder[i]` is (path, label)."""

    root: Path
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: Ints
    """(n,) indices into `classes`; read-only."""

    def __post_init__(self) -> None:
        labels = np.array(self.labels, dtype=np.int64)
        if labels.shape != (len(self.paths),):
            raise DataError(f"{len(self.paths)} images need as many labels; got shape {labels.shape}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise DataError(f"labels must be 0..{len(self.classes) - 1}; got {labels.min()}..{labels.max()}")
        labels.setflags(write=False)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Path, int]:
        return self.paths[index], int(self.labels[index])

    def take(self, indices: Iterable[int]) -> "ImageFolder":
        """The images of these indices, with all classes."""
        chosen = np.fromiter(indices, dtype=np.int64)
        return ImageFolder(self.root, self.classes, tuple(self.paths[i] for i in chosen), self.labels[chosen])

    def counts(self) -> dict[str, int]:
        """Images of every class, in the order of `classes`."""
        totals = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(total) for name, total in zip(self.classes, totals, strict=True)}


def open_folder(root: str | Path, split: str | None = None) -> ImageFolder:
    """The images of ROOT/class/, or of one split of ROOT: "train", "val" or "test".

    A split is ROOT/split/class/ where ROOT has split folders (see SPLIT_NAMES); elsewhere "train"
    and "val" are the two parts of `hold_out`, and "val" is that of ROOT/train if it stands alone.
    Raises DataError where the layout is another, a class folder is empty, or ROOT has split folders
    and none is asked for.
    """
    here = existing_folder(root)
    splits = find_splits(here)
    if split is None:
        if splits:
            raise DataError(f"{root} holds splits ({', '.join(splits)}), not classes: ask for one of them")
        return _read_classes(here)
    if split not in SPLIT_NAMES:
        raise ConfigError(f"a split is train, val or test; got {split!r}: {did_you_mean(split, SPLIT_NAMES)}")
    if split in splits:
        return _read_classes(splits[split])
    if split == "test" or "test" in splits:
        held = ", ".join(splits) or "class folders only"
        raise DataError(f"{root} has no {split} split (it holds {held}); make a folder {here / split}/CLASS/")
    return hold_out(_read_classes(splits.get("train", here)))[split == "val"]


def split_folder(
    root: str | Path, fraction: float = HOLD_OUT, seed: int = 0
) -> tuple[ImageFolder, ImageFolder]:
    """Images to train on and images to validate on, with the same classes.

    ROOT/train with ROOT/val, or with ROOT/test if there is no val; without those, `hold_out` of
    ROOT/train or of ROOT itself.
    """
    here = existing_folder(root)
    splits = find_splits(here)
    train = _read_classes(splits.get("train", here))
    held = splits.get("val") or splits.get("test")
    if held is None:
        return hold_out(train, fraction, seed)
    val = _read_classes(held)
    _check_same_classes(train, val)
    return train, val


def hold_out(
    folder: ImageFolder, fraction: float = HOLD_OUT, seed: int = 0
) -> tuple[ImageFolder, ImageFolder]:
    """Two parts of a folder, (the rest, the held out): `fraction` of every class, to the nearest image.

    Of two images or more one at least is held out and one kept; a single one is kept. Which ones is
    a pure function of the seed and the file names below the root, so it is the same on every
    machine, and adding an image moves few others.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"the fraction held out must lie between 0 and 1; got {fraction}")
    held: set[int] = set()
    for label in range(len(folder.classes)):
        members = np.flatnonzero(folder.labels == label).tolist()
        ranked = sorted(members, key=lambda i: _draw(folder.paths[i].relative_to(folder.root), seed))
        held.update(ranked[: _held_count(len(members), fraction)])
    if not held:
        raise DataError(f"no class of {folder.root} has 2 images, so none can be held out; add images")
    kept = [i for i in range(len(folder)) if i not in held]
    return folder.take(kept), folder.take(sorted(held))


def _held_count(count: int, fraction: float) -> int:
    return min(max(int(count * fraction + 0.5), 1), count - 1) if count else 0


def _draw(name: Path, seed: int) -> str:
    # Composed letters, since some file systems hand names back decomposed.
    text = unicodedata.normalize("NFC", f"{seed}/{name.as_posix()}")
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


# --- layouts -------------------------------------------------------------------------------------


def find_splits(root: Path) -> dict[str, Path]:
    """The split folders of ROOT by their name in SPLIT_NAMES; empty where ROOT holds classes.

    There are splits where a train folder with folders in it stands beside a val or test folder, or
    alone. A class may be called "train": then images lie in it, or other classes beside it.
    """
    folders = _visible_folders(root)
    by_name = {folder.name.lower(): folder for folder in folders}
    found = {}
    for split, names in SPLIT_NAMES.items():
        if name := next(filter(by_name.__contains__, names), None):
            found[split] = by_name[name]
    if "train" not in found or not (len(found) > 1 or len(folders) == 1):
        return {}
    return found if all(_visible_folders(folder) for folder in found.values()) else {}


def list_classes(root: Path) -> dict[str, list[Path]]:
    """The image files of every class folder in natural order, also of the empty ones."""
    return {
        folder.name: [file for file in walk_files(folder) if is_image_name(file)]
        for folder in _visible_folders(root)
    }


def _read_classes(root: Path) -> ImageFolder:
    files = list_classes(root)
    if not any(files.values()):
        raise DataError(f"{root} should hold folders of images, ROOT/class/image.jpg. {_layout_hint(root)}")
    if empty := [name for name, paths in files.items() if not paths]:
        hint = _foreign_layout(root) or "Add images or remove the folders"
        raise DataError(f"class folders without images in {root}: {', '.join(empty)}. {hint}")
    labels = [label for label, paths in enumerate(files.values()) for _ in paths]
    paths = tuple(path for paths in files.values() for path in paths)
    return ImageFolder(root, tuple(files), paths, np.array(labels, dtype=np.int64))


def existing_folder(root: str | Path) -> Path:
    """`root` as a path; raises DataError if it is not a folder."""
    here = Path(root)
    if here.is_dir():
        return here
    if here.exists():
        raise DataError(f"{root} is a file; expected a folder of class folders, ROOT/class/image.jpg")
    siblings = _visible_folders(here.parent) if here.parent.is_dir() else []
    hint = did_you_mean(here.name, (folder.name for folder in siblings)) if siblings else "check the path"
    raise DataError(f"{root} does not exist; {hint}")


def _visible_folders(root: Path) -> list[Path]:
    folders = [entry for entry in root.iterdir() if entry.is_dir() and not is_hidden(entry.name)]
    return sorted(folders, key=lambda folder: natural_key(folder.name))


def _layout_hint(root: Path) -> str:
    """What a folder without classes seems to be instead."""
    if foreign := _foreign_layout(root):
        return foreign
    names = sorted(entry.name for entry in root.iterdir() if not is_hidden(entry.name))
    if count := sum(is_image_name(Path(name)) for name in names):
        return f"Its {count} images lie in it directly. Make a folder for each class and move them there"
    return f"It holds {', '.join(names[:5]) or 'nothing'}. Make a folder of images for each class"


def _foreign_layout(root: Path) -> str:
    """A sentence if the folder looks like a data set of boxes, which people mistake for classes."""
    names = {entry.name for entry in root.iterdir()}
    layouts = {
        "VOC (Annotations, JPEGImages)": {"Annotations", "JPEGImages"} <= names,
        "COCO (annotations in JSON)": any(map(COCO_NAME.fullmatch, names)),
        "YOLO (images, labels)": {"images", "labels"} <= names,
    }
    looks = next((layout for layout, fits in layouts.items() if fits), None)
    return f"It is laid out like {looks}: boxes in photographs, not a folder for each class" if looks else ""


def _check_same_classes(train: ImageFolder, val: ImageFolder) -> None:
    if train.classes == val.classes:
        return
    missing = [name for name in train.classes if name not in val.classes]
    unknown = [name for name in val.classes if name not in train.classes]
    differences = [f"{train.root} alone has {', '.join(missing)}"] if missing else []
    differences += [f"{val.root} alone has {', '.join(unknown)}"] if unknown else []
    hint = f" ({did_you_mean(unknown[0], missing)})" if missing and unknown else ""
    raise DataError(f"the splits must have the same class folders; {', '.join(differences)}{hint}")
