"""Boxes from a file, for proposals that were made elsewhere or earlier.

    JSON   {"image": [[x0, y0, x1, y1], …]}, or {"image": {"boxes": [[…], …], "scores": [number, …]}}
    CSV    a line for each box: image,x0,y0,x1,y1 or image,x0,y0,x1,y1,score. A line of names may come
           first; an image without boxes has one line with nothing after its name.

Boxes stand in order, the best first; scores, where there are any, decide instead.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sppnet.arrays import Floats
from sppnet.boxes import check_boxes
from sppnet.data.files import writable_name
from sppnet.data.text import read_text
from sppnet.errors import ConfigError, DataError, did_you_mean

FORMATS = (".json", ".csv")
COLUMNS = ("image", "x0", "y0", "x1", "y1", "score")


@dataclass(frozen=True, eq=False)
class PrecomputedBoxes:
    """The boxes of many images; `given.of(path)` are those of one."""

    source: Path
    boxes: Mapping[str, Floats]
    """(n, 4) by the name of the image, the best first."""

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        return f"PrecomputedBoxes({self.source}: {len(self)} images)"

    def of(self, image: str | Path, root: str | Path | None = None) -> Floats:
        """The boxes of an image file, found by its path, its path below `root`, or its file name alone.

        Raises DataError if there are none under any of these names, or several under the file name.
        """
        path = Path(image)
        names = [writable_name(path)]
        if root is not None and path.is_relative_to(root):
            names.append(writable_name(path.relative_to(root)))
        path = Path(names[0])
        for name in names:
            if name in self.boxes:
                return self.boxes[name]
        return self.boxes[self._same_file_name(path)]

    def _same_file_name(self, path: Path) -> str:
        found = [name for name in self.boxes if Path(name).name == path.name]
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(
                f"{self.source} has {len(found)} images called {path.name} ({', '.join(found[:3])}), "
                f"none of them {path}; name them by their paths"
            )
        hint = (
            did_you_mean(path.name, (Path(name).name for name in self.boxes)) if self.boxes else "it is empty"
        )
        raise DataError(f"{self.source} has no boxes for {path}; {hint}")


def read_boxes(file: str | Path) -> PrecomputedBoxes:
    """The boxes in a .json or .csv file. Raises DataError that names the file and the line or key."""
    path = Path(file)
    check_format(path)
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise DataError(f"{file} does not exist; check the path") from None
    read = _read_json if path.suffix.lower() == ".json" else _read_csv
    return PrecomputedBoxes(path, {writable_name(name): boxes for name, boxes in read(path, text)})


def write_boxes(file: str | Path, boxes: Mapping[str, npt.ArrayLike]) -> None:
    """Writes boxes by image name, in order, as .json or .csv, for `read_boxes`; see `writable_name`."""
    path = Path(file)
    check_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lists = {writable_name(name): _plain(check_boxes(array)) for name, array in boxes.items()}
    if path.suffix.lower() == ".json":
        entries = [f"{_dump(name)}: {_dump(rows)}" for name, rows in lists.items()]
        path.write_text("{\n" + ",\n".join(entries) + "\n}\n", "utf-8", "backslashreplace")
        return
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS[:5])
        for name, rows in lists.items():
            writer.writerows([name, *row] for row in rows)
            if not rows:
                writer.writerow([name, *[""] * 4])


def check_format(path: Path) -> None:
    """Raises ConfigError unless the name ends in .json or .csv."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"a file of boxes ends in .json or .csv; got {path.name}")


def _plain(boxes: Floats) -> list[list[float]]:
    """Whole numbers without a point: 12 rather than 12.0."""
    return [[int(side) if side.is_integer() else side for side in box] for box in boxes.tolist()]


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# --- JSON ----------------------------------------------------------------------------------------


def _read_json(path: Path, text: str) -> Iterator[tuple[str, Floats]]:
    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: _each_once(path, pairs))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise DataError(f'{path} must hold an object, {{"image": [[x0, y0, x1, y1], …]}}; got {_kind(data)}')
    for name, entry in data.items():
        yield name, _read_entry(f'{path}, "{name}"', entry)


def _each_once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = Counter(key for key, _ in pairs)
    if repeated := [key for key, count in counts.items() if count > 1]:
        raise DataError(f'{path} has "{repeated[0]}" twice; join the boxes of an image in one list')
    return dict(pairs)


def _read_entry(place: str, entry: Any) -> Floats:
    if isinstance(entry, list):
        return _checked(place, entry, None)
    if not isinstance(entry, dict) or "boxes" not in entry:
        raise DataError(f'{place} must be a list of boxes or {{"boxes": …, "scores": …}}; got {_kind(entry)}')
    if unknown := entry.keys() - {"boxes", "scores"}:
        raise DataError(f"{place} has {sorted(unknown)[0]!r} beside boxes and scores; remove it")
    return _checked(place, entry["boxes"], entry.get("scores"))


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


# --- CSV -----------------------------------------------------------------------------------------


def _read_csv(path: Path, text: str) -> Iterator[tuple[str, Floats]]:
    images: dict[str, list[list[float]]] = {}
    width = 0
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    for fields in _lines(path, reader):
        place = f"{path}, line {reader.line_num}"
        if not fields or (reader.line_num == 1 and fields[0] == COLUMNS[0]):
            _check_columns(place, fields)
            continue
        rows = images.setdefault(fields[0], [])
        if any(fields[1:]):
            rows.append(_read_line(place, fields, width))
            width = len(fields)
    for name, rows in images.items():
        scores = [row[4] for row in rows] if width == len(COLUMNS) else None
        yield name, _checked(f"{path}, {name}", [row[:4] for row in rows], scores)


def _read_line(place: str, fields: list[str], width: int) -> list[float]:
    if len(fields) not in (5, 6) or len(fields) != (width or len(fields)):
        expected = f"{width} fields as before" if width else "image,x0,y0,x1,y1 or image,x0,y0,x1,y1,score"
        raise DataError(f"{place}: expected {expected}; got {len(fields)} fields")
    numbers = [_number(place, field) for field in fields[1:]]
    x0, y0, x1, y1 = numbers[:4]
    if not (x0 < x1 and y0 < y1 and math.isfinite(sum(numbers))):
        raise DataError(f"{place}: a box needs x0 < x1 and y0 < y1, all finite; got {','.join(fields[1:])}")
    return numbers


def _lines(path: Path, reader: Any) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error


def _check_columns(place: str, fields: list[str]) -> None:
    names = [field.strip() for field in fields]
    if names and names != list(COLUMNS[: len(names)]):
        raise DataError(f"{place}: the columns are image,x0,y0,x1,y1[,score]; got {','.join(names)}")


def _number(place: str, field: str) -> float:
    try:
        return float(field)
    except ValueError:
        raise DataError(f"{place}: expected a number; got {field!r}") from None


# --- both ----------------------------------------------------------------------------------------


def _checked(place: str, rows: Any, scores: Any) -> Floats:
    """Boxes in order of their scores; equal ones stay in order."""
    try:
        boxes = check_boxes(rows)
        if scores is None:
            return boxes
        values = np.array(scores, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{place}: {error}") from error
    if values.shape != (len(boxes),) or not all(map(math.isfinite, values)):
        raise DataError(f"{place}: {len(boxes)} boxes need as many finite scores; got {values.size}")
    return check_boxes(boxes[np.argsort(-values, kind="stable")])
