"""Tables of labels: a CSV file with a column of file names and a column of classes.

    labels.csv, train.csv, …     filename,label  or  id,breed  or  image_id,class_name  …

A table names its images by path, by name, or without suffix; they are looked for below the folder of the
table alone, so that no path leads out of the data set. The reading of one file is in `label_table`.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from sppnet.data.class_files import LabelledFiles, entries_of
from sppnet.data.files import (
    Omission,
    composed,
    name_from_text,
    natural_key,
    omit,
    path_key,
    walk,
    writable_name,
)
from sppnet.data.label_table import SUFFIXES, LabelTable, Row, read_table, split_named
from sppnet.errors import DataError


def find_tables(root: Path) -> list[LabelTable]:
    """The tables of labels that lie in ROOT or in a folder of it, in natural order."""
    return _tables_of(file for file in walk(root).files if len(file.relative_to(root).parts) <= 2)


def tell_unread(root: Path, folders: Iterable[Path], images: Iterable[Path]) -> tuple[str, ...]:
    """A sentence if tables of labels lie in these folders whose images folders of classes hold already."""
    files = {file: None for folder in folders for file in entries_of(folder)}
    if not (tables := _tables_of(sorted(files, key=path_key))):
        return ()
    index = ImageIndex(images)
    fit = [each for each in tables if any(index.find(row, each, root) != "missing" for row in each.rows)]
    if not fit:
        return ()
    verb, name = ("is", "the file") if len(fit) == 1 else ("are", "one")
    told = f"{_describe(fit)} {verb} not read: the class folders tell the classes"
    return (f"{told}; name {name} as DATA to read it",)


def _tables_of(files: Iterable[Path]) -> list[LabelTable]:
    """A sample of a competition's submission has the same columns, but its classes are invented."""
    named = (
        file for file in files if file.suffix.lower() in SUFFIXES and "submission" not in file.stem.lower()
    )
    return [table for file in named if (table := read_table(file))]


def read_labels(root: Path, tables: Sequence[LabelTable]) -> dict[str, LabelledFiles]:
    """The images that tables label, by split; "" where no split is told by columns or the tables' names.

    A table that names no image is not used. Raises DataError where all are so.
    """
    below = walk(root)
    index = ImageIndex(below.images)
    located = {table.path: [index.find(row, table, root) for row in table.rows] for table in tables}
    used = [table for table in tables if any(isinstance(found, Path) for found in located[table.path])]
    several = len({_split_of_table(table, root) for table in used}) > 1
    splits: dict[str, _Gathered] = defaultdict(_Gathered)
    for table in used:
        own = _split_of_table(table, root) if several else ""
        for row, found in zip(table.rows, located[table.path], strict=True):
            splits[row.split or own].add(row, found)
    labelled = {split: each for split, each in splits.items() if each.classes()}
    if not labelled:
        raise DataError(_nothing_found(root, tables))
    known = {path for each in splits.values() for path in (*each.labels, *each.unlabelled)}
    rest = [path for path in below.images if path not in known]
    told = omit(rest, "without a line in " + " and ".join(table.path.name for table in used))
    shared = (*below.omissions(), *told)
    return {
        split: each.files(root, shared if place == 0 else (), _describe(used))
        for place, (split, each) in enumerate(labelled.items())
    }


def _split_of_table(table: LabelTable, root: Path) -> str:
    """The split that a table's name tells, or that of its folder."""
    inside = table.path.parent.name if table.path.parent != root else ""
    return next(filter(None, map(split_named, (table.path.stem, inside))), "")


# --- images --------------------------------------------------------------------------------------


class ImageIndex:
    """The images below a folder, by what a table may call them."""

    def __init__(self, images: Iterable[Path]) -> None:
        self.by_name: dict[str, list[Path]] = defaultdict(list)
        for image in images:
            for name in {image.name, image.stem}:
                self.by_name[composed(name)].append(image)

    def find(self, row: Row, table: LabelTable, root: Path) -> Path | str:
        """The image that a line means, or why there is none: "missing" or "ambiguous"."""
        parts = [composed(part) for part in PurePosixPath(row.image.replace("\\", "/")).parts]
        parts = [part for part in parts if part not in ("/", "..", ".")]
        found = self._called(parts[-1] if parts else "")
        split = row.split or _split_of_table(table, root)
        for fits in (
            lambda path: [composed(part) for part in path.with_suffix("").parts[-len(parts) :]] == parts,
            lambda path: [composed(part) for part in path.parts[-len(parts) :]] == parts,
            lambda path: table.path.parent != root and path.is_relative_to(table.path.parent),
            lambda path: split and split in map(split_named, path.relative_to(root).parts[:-1]),
        ):
            if len(found) > 1:
                found = list(filter(fits, found)) or found
        return found[0] if len(found) == 1 else "ambiguous" if found else "missing"

    def _called(self, name: str) -> list[Path]:
        return self.by_name.get(name) or self.by_name.get(composed(name_from_text(name)), [])


class _Gathered:
    """The lines of one split."""

    def __init__(self) -> None:
        self.labels: dict[Path, str] = {}
        self.unlabelled: set[Path] = set()
        self.lost: dict[str, list[str]] = defaultdict(list)
        """Lines that label no image, by reason."""
        self.twice: set[Path] = set()

    def add(self, row: Row, found: Path | str) -> None:
        if isinstance(found, str):
            self.lost[found].append(row.image)
        elif not row.label:
            self.unlabelled.add(found)
        elif self.labels.setdefault(found, row.label) != row.label:
            self.twice.add(found)

    def classes(self) -> set[str]:
        return {_class(label) for path, label in self.labels.items() if path not in self.twice}

    def files(self, root: Path, more: Iterable[Omission], table: str) -> LabelledFiles:
        files: dict[str, list[Path]] = {name: [] for name in sorted(self.classes(), key=natural_key)}
        for path, label in sorted(self.labels.items(), key=lambda item: path_key(item[0])):
            if path not in self.twice:
                files[_class(label)].append(path)
        omitted = [
            *omit(self.lost["missing"], "listed in the table of labels but not there"),
            *omit(self.lost["ambiguous"], "listed by a name that several images have; give their paths"),
            *omit(
                _in_order(self.unlabelled),
                "listed without a class, with several, or in a longer line",
            ),
            *omit(_in_order(self.twice), "listed twice, with two classes"),
        ]
        return LabelledFiles(root, files, (*omitted, *more), table)


def _in_order(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=path_key)


def _describe(tables: Iterable[LabelTable]) -> str:
    """Which columns of which files tell the classes."""
    return " and ".join(f"{table.path.name} (columns {' and '.join(table.columns)})" for table in tables)


def _class(label: str) -> str:
    return writable_name(composed(label))


def _nothing_found(root: Path, tables: Sequence[LabelTable]) -> str:
    table = tables[0]
    example = table.rows[0].image if table.rows else "nothing"
    return (
        f"{table.path} labels no image below {root}: its column {table.columns[0]!r} holds {example!r}, of "
        "which there is no image; put the images beside the table, or correct the names"
    )
