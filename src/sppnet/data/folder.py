"""Images and their classes: class folders, ROOT/class/image.jpg, as most people lay them out, or a CSV table.

Classes and files stand in natural order ("2" before "10"), hidden files are left out, and folders
inside a class folder belong to it. Links are followed, also out of ROOT: large data sets are
often linked into place, and nothing here is ever written.
"""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sppnet.arrays import Ints
from sppnet.data.class_files import (
    CLASS_SPLITS,
    HOLD_OUT,
    LabelledFiles,
    Layout,
    draw_held_out,
    find_layout,
    list_classes,
    visible_folders,
)
from sppnet.data.files import Omission, is_hidden, is_image_name, walk
from sppnet.data.files import natural_key as natural_key
from sppnet.data.foreign import unread_annotations
from sppnet.data.label_table import SUFFIXES as TABLE_SUFFIXES
from sppnet.data.label_table import LabelTable, first_line, read_table
from sppnet.data.labels import find_tables, read_labels, tell_unread
from sppnet.errors import ConfigError, DataError, did_you_mean, printable

logger = logging.getLogger(__name__)

COCO_NAME = re.compile(r"annotations|.*(annotations|instances).*\.json")

GENERIC_FOLDERS = frozenset(
    {"images", "image", "imgs", "img", "photos", "pictures", "jpg", "jpeg", "png", "masks"}
)
"""Folders of these names alone are no classes where a table of labels lies beside them."""


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Image files and their classes; `folder[i]` is (path, label)."""

    root: Path
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: Ints
    """(n,) indices into `classes`; read-only."""
    omitted: tuple[Omission, ...] = ()
    """Images of the data set that are not among these, by reason."""

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
        """The images of these indices, with all classes and omissions."""
        chosen = np.fromiter(indices, dtype=np.int64)
        paths = tuple(self.paths[i] for i in chosen)
        return ImageFolder(self.root, self.classes, paths, self.labels[chosen], self.omitted)

    def counts(self) -> dict[str, int]:
        """Images of every class, in the order of `classes`."""
        totals = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(total) for name, total in zip(self.classes, totals, strict=True)}


def open_folder(root: str | Path, split: str | None = None) -> ImageFolder:
    """The images of ROOT/class/ or of a table of labels, or of one split: "train", "val" or "test".

    A split is ROOT/split/class/ where ROOT has split folders (see split_names), or what tables of labels
    tell; elsewhere "train" and "val" are the two parts of `hold_out`, and "val" is that of ROOT/train if
    it stands alone. Raises DataError where the layout is another, a class folder is empty, or ROOT has
    splits and none is asked for.
    """
    if split is not None and split not in CLASS_SPLITS:
        raise ConfigError(
            f"a split is train, val or test; got {split!r}: {did_you_mean(split, CLASS_SPLITS)}"
        )
    splits = find_splits(root)
    _tell(root, splits)
    names = [name for name in splits if name]
    if split is None:
        if names:
            raise DataError(f"{root} holds splits ({', '.join(names)}), not classes: ask for one of them")
        return _as_folder(splits[""])
    if split in splits:
        return _as_folder(splits[split])
    if split == "test" or "test" in splits or not {"train", ""} & splits.keys():
        held = ", ".join(names) or "class folders only"
        raise DataError(
            f"{root} has no {split} split (it holds {held}); make a folder {Path(root) / split}/CLASS/"
        )
    return hold_out(_as_folder(_to_train_on(root, splits)))[split == "val"]


def split_folder(
    root: str | Path, fraction: float = HOLD_OUT, seed: int = 0
) -> tuple[ImageFolder, ImageFolder]:
    """Images to train on and images to validate on, with the same classes.

    The train split with val, or with test if there is no val; without those, `hold_out` of train or of
    everything. Where no class has two images nothing can be held out: both are then the same images.
    """
    splits = find_splits(root)
    _tell(root, splits)
    train = _as_folder(_to_train_on(root, splits))
    held = splits.get("val") or splits.get("test")
    if held is None:
        return hold_out(train, fraction, seed) if max(train.counts().values()) > 1 else (train, train)
    return train, _with_classes(_as_folder(held), train)


def find_splits(root: str | Path) -> dict[str, LabelledFiles]:
    """The images of every split by its name; under "" where there are no splits.

    Raises DataError where ROOT holds neither class folders nor a table of labels.
    """
    here = _existing(root)
    if here.is_file():
        return read_labels(here.parent, [_named_table(here)])
    layout = find_layout(here)
    if layout.splits:
        splits, places = _listed(layout), [layout.root, *layout.splits.values(), *layout.flat]
        return _with_unread(here, places, splits)
    whole = LabelledFiles(here, {}) if layout.flat else list_classes(layout.root)
    generic = {name.lower() for name in whole.files} <= GENERIC_FOLDERS
    tables = find_tables(here) if whole.labelled_classes < 2 or generic else []
    if tables:
        return read_labels(here, tables)
    if layout.flat:
        names = " and ".join(folder.name for folder in layout.flat)
        hint = _other_layout(layout.root) or (
            "Make a folder for each class inside, ROOT/train/class/image.jpg, or put a table of labels "
            "beside them: labels.csv with the columns filename,label"
        )
        raise DataError(f"{names} in {layout.root} hold no folders of classes. {hint}")
    return _with_unread(here, [layout.root], {"": whole})


def hold_out(
    folder: ImageFolder, fraction: float = HOLD_OUT, seed: int = 0
) -> tuple[ImageFolder, ImageFolder]:
    """Two parts of a folder, (the rest, the held out): `fraction` of every class, to the nearest image.

    Of two images or more one at least is held out and one kept; a single one is kept (see `draw_held_out`).
    """
    held: set[int] = set()
    for label in range(len(folder.classes)):
        members = np.flatnonzero(folder.labels == label).tolist()
        drawn = draw_held_out([folder.paths[i] for i in members], folder.root, fraction, seed)
        held.update(members[i] for i in drawn)
    if not held:
        raise DataError(f"no class of {folder.root} has 2 images, so none can be held out; add images")
    kept = [i for i in range(len(folder)) if i not in held]
    return folder.take(kept), folder.take(sorted(held))


# --- layouts -------------------------------------------------------------------------------------


def _with_unread(
    root: Path, folders: Iterable[Path], splits: dict[str, LabelledFiles]
) -> dict[str, LabelledFiles]:
    """Told with the first split: the tables of labels in ROOT and in these folders, which are not read."""
    images = [path for listed in splits.values() for paths in listed.files.values() for path in paths]
    first = next(iter(splits))
    unread = tell_unread(root, [root, *folders], images)
    return {**splits, first: replace(splits[first], unread=unread)}


def _tell(root: str | Path, splits: dict[str, LabelledFiles]) -> None:
    for listed in splits.values():
        for sentence in listed.unread:
            logger.warning("%s: %s", root, printable(sentence))


def _listed(layout: Layout) -> dict[str, LabelledFiles]:
    """Every split; what lies beside them is told with the first."""
    splits = {split: list_classes(folder) for split, folder in layout.splits.items()}
    unused = [
        Omission(count, f"{count} {'image' if count == 1 else 'images'} in {folder} {why}")
        for folders, why in ((layout.flat, "without class folders"), (layout.beside, "beside the splits"))
        for folder in folders
        if (count := len(walk(folder).images))
    ]
    first = next(iter(splits))
    splits[first] = replace(splits[first], omitted=(*splits[first].omitted, *unused))
    return splits


def _to_train_on(root: str | Path, splits: dict[str, LabelledFiles]) -> LabelledFiles:
    if found := splits.get("train", splits.get("")):
        return found
    raise DataError(
        f"{root} has no train split (it holds {', '.join(splits)}); make {Path(root) / 'train'}/CLASS/"
    )


def _as_folder(listed: LabelledFiles) -> ImageFolder:
    root, files = listed.root, listed.files
    omitted = "".join(f". {omission.reason}" for omission in listed.omitted)
    if not listed.labelled_classes:
        raise DataError(
            f"{root} should hold folders of images, ROOT/class/image.jpg. {layout_hint(root)}{omitted}"
        )
    if empty := [name for name, paths in files.items() if not paths]:
        hint = _other_layout(root) or "Add images or remove the folders"
        raise DataError(f"class folders without images in {root}: {', '.join(empty)}. {hint}{omitted}")
    labels = [label for label, paths in enumerate(files.values()) for _ in paths]
    paths = tuple(path for paths in files.values() for path in paths)
    return ImageFolder(root, tuple(files), paths, np.array(labels, dtype=np.int64), listed.omitted)


def _named_table(path: Path) -> LabelTable:
    """The table that ROOT names itself."""
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(
            f"{path} is a file; expected a folder of class folders, ROOT/class/image.jpg, or a table of "
            "labels in CSV"
        )
    if table := read_table(path):
        return table
    raise DataError(
        f"{path} should have a line of names first and columns of file names and of classes, as in "
        f"filename,label; its first line is {first_line(path)!r}"
    )


def _existing(root: str | Path) -> Path:
    """`root` as a path; raises DataError if there is no such thing."""
    here = Path(root)
    if here.exists():
        return here
    siblings = visible_folders(here.parent) if here.parent.is_dir() else []
    hint = did_you_mean(here.name, (folder.name for folder in siblings)) if siblings else "check the path"
    raise DataError(f"{root} does not exist; {hint}")


def layout_hint(root: Path) -> str:
    """What a folder without classes seems to be instead."""
    if other := _other_layout(root):
        return other
    names = sorted(entry.name for entry in root.iterdir() if not is_hidden(entry.name))
    if count := sum(is_image_name(Path(name)) for name in names):
        return f"Its {count} images lie in it directly. Make a folder for each class and move them there"
    return f"It holds {', '.join(names[:5]) or 'nothing'}. Make a folder of images for each class"


def _other_layout(root: Path) -> str:
    """A sentence if the folder looks like a data set of boxes, which people mistake for classes."""
    names = {entry.name for entry in root.iterdir()}
    layouts = {
        "VOC (Annotations, JPEGImages)": {"Annotations", "JPEGImages"} <= names,
        "COCO (annotations in JSON)": any(map(COCO_NAME.fullmatch, names)),
        "YOLO (images, labels)": {"images", "labels"} <= names,
    }
    if layout := next((layout for layout, fits in layouts.items() if fits), None):
        return f"It is laid out like {layout}: boxes in photographs, not a folder for each class"
    return unread_annotations(root)


def _with_classes(val: ImageFolder, train: ImageFolder) -> ImageFolder:
    """Validation images with the labels of the classes that are learnt; some classes may have none."""
    unknown = [name for name in val.classes if name not in train.classes]
    if unknown:
        missing = [name for name in train.classes if name not in val.classes]
        differences = [f"{train.root} alone has {', '.join(missing)}"] if missing else []
        differences += [f"{val.root} alone has {', '.join(unknown)}"]
        hint = f" ({did_you_mean(unknown[0], missing)})" if missing else ""
        raise DataError(
            f"the splits must have the same class folders; {', '.join(differences)}{hint}. Add images "
            f"of it to {train.root}, or move its folder out of {val.root}"
        )
    places = np.array([train.classes.index(name) for name in val.classes], np.int64)
    return ImageFolder(val.root, train.classes, val.paths, places[val.labels], val.omitted)
