"""Where the classes of photographs are kept: a table beside them, or a folder for each class.

labels.csv                  filename,label: a line a photograph, written anew after every change
apple/a.jpg, pear/b.jpg     a photograph that gets a class is moved into its folder
"""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from sppnet.data.files import is_hidden, writable_name
from sppnet.data.label_table import read_table
from sppnet.data.labels import ImageIndex, find_tables
from sppnet.data.text import read_text
from sppnet.errors import ConfigError
from sppnet.label.sheets import StoreError
from sppnet.nn.model_file import write_file

TABLE = "labels.csv"
COLUMNS = "filename", "label"

ClassFormat = Literal["csv", "folders"]


class ClassFiles(Protocol):
    """The classes of photographs, in one layout."""

    def read(self, photos: Sequence[Path]) -> dict[Path, str]:
        """The class of each photograph that has one."""

    def write(self, photo: Path, name: str | None) -> Path:
        """Where the photograph lies once its class, or that it has none, is on the disk.

        Raises StoreError and OSError.
        """


class ClassTable:
    """`labels.csv`. Of a table that is there already other columns, lines and the delimiter stay."""

    def __init__(self, root: Path, path: Path | None = None) -> None:
        """path: a table that is there. Raises ConfigError for one that cannot be continued."""
        self.root, self.path = root, path or root / TABLE
        self.lines: list[list[str]] = [list(COLUMNS)]
        self.delimiter, self.file, self.label = ",", 0, 1
        self._line_of: dict[Path, list[str]] = {}
        self._written = b""
        if path is not None:
            self._continue(path)

    def _continue(self, path: Path) -> None:
        text = read_text(path)
        self._written = path.read_bytes()
        first = text.partition("\n")[0]
        self.delimiter = max(",;\t", key=first.count)
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter))
        self.lines = [line for line in lines if any(line)]
        table = read_table(path)
        header = [cell.strip().lower() for cell in self.lines[0]] if self.lines else []
        if table is None or not set(table.columns) <= set(header):
            raise ConfigError(
                f"{path} cannot be continued: a table with the columns filename,label was expected, its "
                f"first line is {first.strip()!r}. Name its columns so, or move it away"
            )
        self.file, self.label = map(header.index, table.columns)

    def read(self, photos: Sequence[Path]) -> dict[Path, str]:
        table = read_table(self.path) if self._written else None
        if table is None:
            return {}
        index = ImageIndex(photos)
        of_name = {row.image: index.find(row, table, self.root) for row in table.rows}
        found = {}
        for line in self.lines[1:]:
            photo = of_name.get(line[self.file].strip()) if len(line) > max(self.file, self.label) else None
            if isinstance(photo, Path):
                self._line_of[photo] = line
                if name := line[self.label].strip():
                    found[photo] = name
        return found

    def write(self, photo: Path, name: str | None) -> Path:
        if (self.path.read_bytes() if self.path.exists() else b"") != self._written:
            raise StoreError(
                f"{self.path.name} was changed by another program meanwhile; open the page anew to go on"
            )
        line = self._line_of.get(photo)
        before = None if line is None else list(line)
        if line is None:
            line = [""] * len(self.lines[0])
            line[self.file] = writable_name(photo.relative_to(self.root))
            self.lines.append(line)
            self._line_of[photo] = line
        line[self.label] = name or ""
        try:
            self._save()
        except OSError:
            self._take_back(photo, line, before)
            raise
        return photo

    def _save(self) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=self.delimiter, lineterminator="\n").writerows(self.lines)
        content = text.getvalue().encode()
        write_file(self.path, content)
        self._written = content

    def _take_back(self, photo: Path, line: list[str], before: list[str] | None) -> None:
        if before is not None:
            line[:] = before
            return
        self.lines.remove(line)
        del self._line_of[photo]


class ClassFolders:
    """A folder for each class; photographs without one lie beside those folders."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, photos: Sequence[Path]) -> dict[Path, str]:
        parts = {photo: photo.relative_to(self.root).parts for photo in photos}
        return {photo: own[0] for photo, own in parts.items() if len(own) > 1}

    def write(self, photo: Path, name: str | None) -> Path:
        if name is not None and (name in (".", "..") or "/" in name or "\\" in name or is_hidden(name)):
            raise StoreError(f"{name!r} cannot be the name of a folder; choose another name for the class")
        target = (self.root if name is None else self.root / name) / photo.name
        if target == photo:
            return photo
        if target.exists():
            raise StoreError(
                f"{target.parent.name} holds a photograph named {photo.name} already; rename one"
            )
        target.parent.mkdir(exist_ok=True)
        os.rename(photo, target)
        return target


def open_class_files(root: Path, format: ClassFormat | None, photos: Sequence[Path]) -> ClassFiles:
    """The table or the folders that are there, which go on; else what `format` says, by default a table.

    Raises ConfigError for another format than that of the classes that are there.
    """
    tables = find_tables(root)
    there: ClassFormat | None = None
    if tables:
        there = "csv"
    elif any(len(photo.relative_to(root).parts) == 2 for photo in photos):
        there = "folders"
    if format is not None and there is not None and format != there:
        raise ConfigError(
            f"{root} has {'a table of classes' if there == 'csv' else 'folders of classes'}, which "
            f"is continued; leave --format out, or label a copy of the photographs"
        )
    if (there or format or "csv") == "folders":
        return ClassFolders(root)
    return ClassTable(root, tables[0].path if tables else None)
