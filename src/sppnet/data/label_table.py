"""One table of labels: its columns of file names, of classes and of splits, and the lines.

The delimiter is a comma, a semicolon or a tab. Names of columns are compared without regard to case; one
column of 0 and 1 for each class is read too.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sppnet.data.class_files import split_of
from sppnet.data.files import is_image_name
from sppnet.data.text import read_text

SUFFIXES = (".csv", ".tsv")
DELIMITERS = ",;\t"
FILE_COLUMNS = (
    "filename", "file_name", "file", "filepath", "filepaths", "file_path", "path", "image", "image_name",
    "image_path", "image_file", "image_id", "images", "img", "img_name", "img_path", "id", "id_code", "name",
)  # fmt: skip
LABEL_COLUMNS = (
    "label_name", "class_name", "classname", "category_name", "label", "labels", "class", "category",
    "target", "species", "breed", "diagnosis", "name", "class_id", "label_id", "category_id",
)  # fmt: skip
"""The first of these that a table has counts; names of classes come before their numbers."""
SPLIT_COLUMNS = ("split", "data_set", "dataset", "set", "subset", "partition")
_ONES, _ZEROS = frozenset({"1", "1.0"}), frozenset({"0", "0.0"})
NO_LABEL = frozenset({"nan", "NaN", "<NA>"})
"""What pandas writes where nothing is known."""
BOX_COLUMNS = frozenset({"xmin", "x_min", "x0", "x1", "bbox", "bbox_x", "left"})
"""What no table of labels has, but one of boxes."""


@dataclass(frozen=True)
class Row:
    """One line: an image as the table names it, its class, "" if it has none, and its split."""

    image: str
    label: str
    split: str


@dataclass(frozen=True)
class LabelTable:
    """A file whose columns are known."""

    path: Path
    columns: tuple[str, str]
    """Of file names, and of classes."""
    rows: tuple[Row, ...]


def read_table(path: Path) -> LabelTable | None:
    """The table in a file; None if it has no columns of file names and classes."""
    lines = _lines(path)
    if not lines or len(lines[0]) < 2:
        return None
    if len(lines[0]) == 2 and is_image_name(Path(lines[0][0])):  # there is no line of names
        lines.insert(0, ["file", "label"])
    written = lines[0]
    header = [re.sub(r"[\s\-]+", "_", cell.strip("# ").lower()) for cell in written]
    lines = [_without_end(line, len(header)) for line in lines[1:]]
    body = [line for line in lines if len(line) == len(header)]
    file = _file_column(header, body)
    if file is None or BOX_COLUMNS & set(header):
        return None
    splits = next((header.index(name) for name in SPLIT_COLUMNS if name in header), None)
    others = [column for column in range(len(header)) if column not in (file, splits)]
    found = _labels(written, header, body, others)
    if found is None:
        return None
    name, labels = found
    rows = [
        Row(line[file].strip(), label, "" if splits is None else split_named(line[splits]))
        for line, label in zip(body, labels, strict=True)
    ]
    odd = (line for line in lines if len(line) != len(header) and len(line) > file)
    rows += [Row(line[file].strip(), "", "") for line in odd]
    return LabelTable(path, (header[file], name), tuple(row for row in rows if row.image))


# --- reading -------------------------------------------------------------------------------------


def first_line(path: Path) -> str:
    """What a file begins with, for messages."""
    return read_text(path).partition("\n")[0].strip()


def _without_end(line: list[str], count: int) -> list[str]:
    """A line without the empty cells that are too many: some tools end each line with a comma."""
    return line if any(line[count:]) else line[:count]


def _lines(path: Path) -> list[list[str]]:
    text = read_text(path)
    first, _, rest = text.partition("\n")
    while first.startswith("#") and not any(map(first.count, DELIMITERS)):  # a remark
        text = rest
        first, _, rest = text.partition("\n")
    delimiter = max(DELIMITERS, key=first.count)
    if told := re.fullmatch(r"sep=(.)", first.strip("\r")):  # as Excel writes it
        delimiter, text = told[1], rest
    try:
        return [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(line)]
    except csv.Error:
        return []


def _file_column(header: Sequence[str], body: Sequence[Sequence[str]]) -> int | None:
    """The column of file names: one that begins with an image's, else one that is called so."""
    if body and (found := [place for place, cell in enumerate(body[0]) if is_image_name(Path(cell.strip()))]):
        return found[0]
    return next((header.index(name) for name in FILE_COLUMNS if name in header), None)


def _labels(
    written: Sequence[str], header: Sequence[str], body: Sequence[Sequence[str]], columns: Sequence[int]
) -> tuple[str, list[str]] | None:
    """The name of the column of classes and the class of each line; None if there is no such column."""
    called = [
        header.index(name) for name in LABEL_COLUMNS if name in header and header.index(name) in columns
    ]
    column = next(iter(called or columns[: len(columns) == 1]), None)
    if column is not None:
        labels = (line[column].strip() for line in body)
        return header[column], ["" if label in NO_LABEL else label for label in labels]
    if (
        body
        and columns
        and all(line[column].strip() in _ONES | _ZEROS for line in body for column in columns)
    ):
        return "a column for each class", list(_of_ones(written, body, columns))
    return None


def _of_ones(header: Sequence[str], body: Iterable[Sequence[str]], columns: Sequence[int]) -> Iterator[str]:
    """The class of each line by the column that holds its only 1."""
    for line in body:
        ones = [column for column in columns if line[column].strip() in _ONES]
        yield header[ones[0]].strip() if len(ones) == 1 else ""


def split_named(text: str) -> str:
    found = split_of(text.strip())
    return found[0] if found else ""
