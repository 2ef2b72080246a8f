"""The photographs of a folder and the class of each, on the disk after every change."""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sppnet.data.annotations import plain_name
from sppnet.data.files import list_images, natural_key
from sppnet.data.image import ImageHeader, read_header
from sppnet.errors import DataError
from sppnet.label.sheets import ConflictError
from sppnet.label.whole.class_files import ClassFiles, ClassFormat, open_class_files


@dataclass(frozen=True)
class ClassSheet:
    """What is known of a photograph."""

    name: str | None = None
    """Of its class."""
    revision: int = 0
    """One more with every change."""


@dataclass
class ClassStore:
    """Photographs by their number, in natural order. For any thread."""

    root: Path
    files: ClassFiles
    paths: list[Path]
    names: tuple[str, ...]
    """Of the photographs, as they were when the folder was opened."""
    classes: tuple[str, ...]
    omitted: tuple[str, ...] = ()
    """Why image files of the folder are not shown."""
    sheets: dict[int, ClassSheet] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def sheet(self, photo: int) -> ClassSheet:
        return self.sheets.get(photo, ClassSheet())

    def header(self, photo: int) -> ImageHeader:
        """Raises ImageError for a photograph that vanished or cannot be read."""
        return read_header(self.paths[photo])

    def labelled(self) -> dict[int, str]:
        """The class of each photograph that has one."""
        return {photo: one.name for photo, one in sorted(self.sheets.items()) if one.name is not None}

    def counts(self) -> dict[str, int]:
        """Photographs of every class."""
        found = Counter(self.labelled().values())
        return {name: found[name] for name in self.classes}

    def change(self, photo: int, name: str | None, revision: int | None = None) -> ClassSheet:
        """The class of a photograph, or None for none, written before this returns.

        revision: of the sheet that was changed. Raises ConflictError if that is not the newest, DataError for
        a class there is not, StoreError or OSError for what cannot be written.
        """
        with self._lock:
            before = self.sheet(photo)
            if revision is not None and revision != before.revision:
                raise ConflictError(
                    f"{self.names[photo]} was changed elsewhere meanwhile; its newest class is shown"
                )
            if name is not None and name not in self.classes:
                raise DataError(f"{name!r} is no class of this folder; add it first")
            self.paths[photo] = self.files.write(self.paths[photo], name)
            sheet = self.sheets[photo] = ClassSheet(name, before.revision + 1)
            return sheet

    def add_class(self, name: str) -> str:
        """The name as it is kept. Raises DataError for an empty name."""
        plain = plain_name(name)
        if not plain or len(plain) > 100:
            raise DataError(f"the name of a class has 1 to 100 letters; got {name!r}")
        with self._lock:
            if plain not in self.classes:
                self.classes = (*self.classes, plain)
        return plain


def open_class_store(
    root: Path, format: ClassFormat | None = None, classes: Sequence[str] = ()
) -> ClassStore:
    """The photographs of a folder with the classes that they have; those go on in their own layout.

    classes: added to those there are. Raises DataError for a folder without photographs, ConfigError for
    classes of another layout.
    """
    root = Path(root).resolve()
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; name the folder of the photographs")
    listed = list_images(root)
    files = open_class_files(root, format, listed.paths)
    known = files.read(listed.paths)
    store = ClassStore(
        root,
        files,
        list(listed.paths),
        tuple(path.relative_to(root).as_posix() for path in listed.paths),
        tuple(sorted(set(known.values()), key=natural_key)),
        tuple(one.reason for one in listed.omitted),
        {number: ClassSheet(known[path]) for number, path in enumerate(listed.paths) if path in known},
    )
    for name in classes:
        store.add_class(name)
    return store
