"""Lists of class names in text files, one a line: classes.txt, obj.names, labels.txt.

Tools and people number the lines, quote the names, end them with commas, or write remarks. What is surely
no part of a name is taken off, and that is told; a file of another kind is refused.
"""

import csv
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sppnet.data.annotations import plain_name
from sppnet.data.text import read_lines
from sppnet.errors import DataError, printable

MAX_NAMED = 3
"""Classes that a sentence names."""
FOREIGN = re.compile(r"[\[{<]|(names|nc|path|train|item)\s*[:{]", re.IGNORECASE)
"""How lines of JSON, YAML, XML and pbtxt begin."""
HEAD = re.compile(r"[\"']?(id|ids|index|number|no|class_id|label_id)[\"']?\s*[,;:\t ].*[a-z]", re.IGNORECASE)
"""A line of names over two columns."""
NUMBER_FIRST = re.compile(r"(\d{1,6})(\s*(?:[:=;)]|[,.](?!\d))\s*|\s+)(.+)")
NUMBER_LAST = re.compile(r"(.+?)(\s*[:=,;]\s*|\s+)(\d{1,6})")


@dataclass(frozen=True)
class ClassList:
    """Names by their numbers."""

    names: dict[int, str]
    problems: tuple[str, ...] = ()
    """What was taken off, a sentence each."""


def read_class_list(file: Path, known: Collection[str] = ()) -> ClassList:
    """The classes that a file lists. known: names that annotations use, which lines stand for as they are.

    Raises DataError for a file without names, or of another kind.
    """
    raw = [plain_name(line) for line in read_lines(file)]
    if any(line in known for line in raw):
        return ClassList(dict(enumerate(raw)))
    lines = _clean(raw)
    _check(file, lines)
    numbered = _numbered(lines) or _numbered(lines[1:] if HEAD.match(lines[0]) else ())
    names = numbered or dict(enumerate(lines))
    names = {number: plain_name(name) for number, name in names.items()}
    return ClassList(names, (_told(file, names),) if list(names.values()) != raw else ())


def _check(file: Path, lines: Sequence[str]) -> None:
    if not lines:
        raise DataError(f"{file} names no class; write one class a line")
    if FOREIGN.match(lines[0]):
        raise DataError(
            f"{file} is no list of class names, one a line: it begins with {printable(lines[0][:60])!r}; "
            "write one name a line, or call it data.yaml if it is YAML"
        )


def _clean(raw: Iterable[str]) -> list[str]:
    """Lines without remarks, commas at their ends, quotes around all and bullets before all."""
    lines = [re.split(r"\s#\s", line)[0] for line in raw if not re.match(r"#\s|//", line)]
    lines = [line.rstrip(",; ") for line in lines]
    lines = [line for line in lines if line]
    if len(lines) == 1 and not (FOREIGN.match(lines[0]) or NUMBER_FIRST.fullmatch(lines[0])):
        lines = [name.strip() for name in next(csv.reader(lines, skipinitialspace=True)) if name.strip()]
    for around in (r"[-*•]\s+(?P<name>.+)", r"""(["'])(?P<name>.+)\1"""):
        found = [re.fullmatch(around, line) for line in lines]
        lines = [one["name"] for one in found if one] if all(found) else lines
    return lines


def _numbered(lines: Sequence[str]) -> dict[int, str]:
    """Names by the numbers before or behind them; empty where the lines are not surely numbered."""
    first = [NUMBER_FIRST.fullmatch(line) for line in lines]
    last = [NUMBER_LAST.fullmatch(line) for line in lines]
    for found, number, name in ((first, 1, 3), (last, 3, 1)):
        rows = [(int(one[number]), one[name].strip("\"' "), one[2].strip()) for one in found if one]
        if lines and len(rows) == len(lines) and _are_numbers(rows, found is first):
            return dict(sorted((index, text) for index, text, _ in rows))
    return {}


def _are_numbers(rows: Sequence[tuple[int, str, str]], before: bool) -> bool:
    """Whether the numbers count classes: 7 up and 3 musketeers are names, and so are 4:3 and 16:9."""
    numbers, names = [row[0] for row in rows], [row[1] for row in rows]
    distinct = len(set(numbers)) == len(set(names)) == len(rows)
    if not distinct or not all(re.search(r"[^\W\d_]", name) for name in names):
        return False
    ordered = sorted(numbers)
    counted = ordered in (list(range(len(rows))), list(range(1, len(rows) + 1)))
    if all(row[2] for row in rows):  # signs between them
        return counted or before
    return (counted and numbers == ordered and len(rows) > 1) or (before and ordered[0] == 0)


def _told(file: Path, names: Mapping[int, str]) -> str:
    shown = [f"{number} is {name}" for number, name in names.items()]
    more = " and so on" * (len(shown) > MAX_NAMED)
    return (
        f"{file.name} is read without what is no part of the names (numbers, remarks, quotes, commas): "
        f"{', '.join(shown[:MAX_NAMED])}{more}"
    )
