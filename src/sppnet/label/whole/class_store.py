"""The photographs of a folder and the class of each, on the disk after every change."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sppnet.data.files import natural_key
from sppnet.errors import DataError
from sppnet.label.base import PhotoStore, list_photographs
from sppnet.label.whole.class_files import ClassFiles, ClassFormat, open_class_files


@dataclass(frozen=True)
class ClassSheet:
    """What is known of a photograph."""

    name: str | None = None
    """Of its class."""
    revision: int = 0
    """One more with every change."""


@dataclass(kw_only=True)
class ClassStore(PhotoStore[ClassSheet]):
    """Photographs and the class of each."""

    files: ClassFiles

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
            before = self.newest(photo, revision, "its newest class is shown")
            if name is not None and name not in self.classes:
                raise DataError(f"{name!r} is no class of this folder; add it first")
            self.paths[photo] = self.files.write(self.paths[photo], name)
            sheet = self.sheets[photo] = ClassSheet(name, before.revision + 1)
            return sheet

    def list_class(self, name: str) -> None:
        """Files list no classes: they name those of their photographs."""


def open_class_store(
    root: Path, format: ClassFormat | None = None, classes: Sequence[str] = ()
) -> ClassStore:
    """The photographs of a folder with the classes that they have; those go on in their own layout.

    classes: added to those there are. Raises DataError for a folder without photographs, ConfigError for
    classes of another layout.
    """
    root, listed = list_photographs(root)
    files = open_class_files(root, format, listed.paths)
    known = files.read(listed.paths)
    store = ClassStore(
        root=root,
        paths=list(listed.paths),
        omitted=tuple(one.reason for one in listed.omitted),
        unknown=ClassSheet(),
        sheets={number: ClassSheet(known[path]) for number, path in enumerate(listed.paths) if path in known},
        classes=tuple(sorted(set(known.values()), key=natural_key)),
        files=files,
    )
    for name in classes:
        store.add_class(name)
    return store
