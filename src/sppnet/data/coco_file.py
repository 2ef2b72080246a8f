"""One COCO file: its images with their objects, as written.

Ids and flags are compared by what they say: some tools write 7, 7.0 and "7" for one id, and "0" for no.
"""

import json
import math
from collections import Counter
from collections.abc import Container, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sppnet.data.annotations import BoxAnnotation, flag, plain_name, said_size
from sppnet.data.files import natural_key
from sppnet.data.foreign import unread_tool_of
from sppnet.data.frames import Box, Size
from sppnet.data.problems import Problems
from sppnet.data.text import read_text
from sppnet.errors import DataError

KEYS = ("images", "annotations", "categories")

MAX_DIGITS = 18
"""Of an id in text that is read as a number."""


@dataclass(frozen=True)
class Entry:
    """An image as the file lists it."""

    name: str
    size_hw: Size | None
    marks: tuple[BoxAnnotation, ...]
    """With the boxes as they are written, not yet held against the size."""


@dataclass(frozen=True)
class Table:
    """One JSON file."""

    categories: dict[Hashable, str]
    """Names by id, in the order of the ids."""
    images: tuple[Entry, ...]
    problems: tuple[str, ...]


def read_table(path: Path) -> Table:
    """Raises DataError for a file that is no COCO."""
    data = _load(path)
    problems = Problems()
    images = _by_id(data["images"], "file_name", path.name, problems)
    categories = _by_id(data["categories"], "name", path.name, problems)
    by_image: dict[Hashable, list[BoxAnnotation]] = {}
    for number, item in enumerate(data["annotations"]):
        image, mark = _mark(item, images, categories)
        if isinstance(mark, str):
            problems.count(
                f"annotations {mark} in {path.name}", "they are left out", f"annotations[{number}]"
            )
        else:
            by_image.setdefault(image, []).append(mark)
            if not item.get("bbox"):
                what = f"annotations have an outline and no bbox in {path.name}"
                problems.count(what, "the box around each is read", f"annotations[{number}]")
    sizes = {key: said_size(item.get("height"), item.get("width")) for key, item in images.items()}
    listed = tuple(
        Entry(str(item["file_name"]), sizes[key], tuple(by_image.get(key, ())))
        for key, item in images.items()
    )
    ordered = sorted(categories, key=lambda key: natural_key(str(key)))
    names = {key: plain_name(categories[key]["name"]) for key in ordered}
    if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
        problems.add(f"{path.name} names {', '.join(twice)} twice; those categories are read as one class")
    if _look_like_corners(listed):
        problems.add(
            f"{path.name}: most boxes reach beyond their images, and would not if they were corners x0, y0, "
            "x1, y1; they are read as x, y, width, height, as COCO has them"
        )
    return Table(names, listed, tuple(problems))


def _mark(
    item: Any, images: Container[Hashable], categories: Mapping[Hashable, dict[str, Any]]
) -> tuple[Hashable, BoxAnnotation | str]:
    """The image of an annotation, and its object or what is wrong with it."""
    if not isinstance(item, dict) or not _are_ids(item.get("image_id"), item.get("category_id")):
        return None, "are not understood"
    image, category = id_of(item.get("image_id")), id_of(item.get("category_id"))
    if image not in images:
        return image, "are of images that are not listed"
    if category not in categories:
        return image, "are of categories that are not listed"
    box = corners_of(item["bbox"]) if item.get("bbox") else outline_box(item.get("segmentation"))
    if box is None:
        return image, "have no bbox of four numbers"
    name = plain_name(categories[category]["name"])
    return image, BoxAnnotation(name, box, flag(item.get("ignore")), flag(item.get("iscrowd")))


def _look_like_corners(entries: Iterable[Entry]) -> bool:
    """Whether most boxes reach beyond their image, and every box would be one within it as two corners."""
    beyond = count = 0
    for entry in entries:
        for x0, y0, x1, y1 in (mark.box for mark in entry.marks if entry.size_hw):
            height, width = entry.size_hw or (0, 0)
            if x1 - x0 <= x0 or y1 - y0 <= y0 or x1 - x0 > width + 1 or y1 - y0 > height + 1:
                return False
            count += 1
            beyond += x1 > width + 1 or y1 > height + 1
    return 2 * beyond > count


def _by_id(entries: list[Any], name: str, file: str, problems: Problems) -> dict[Hashable, dict[str, Any]]:
    """The images or categories by their ids; those without, or of which several share one, are left out."""
    kind = "images" if name == "file_name" else "categories"
    found: dict[Hashable, list[dict[str, Any]]] = {}
    lost = 0
    for item in entries:
        if isinstance(item, dict) and "id" in item and _are_ids(item["id"]) and _is_name(item.get(name)):
            found.setdefault(id_of(item["id"]), []).append(item)
        else:
            lost += 1
    if lost:
        problems.add(f"{file}: {lost} of its {kind} have no id or {name}; they are left out")
    for key, items in list(found.items()):
        if names := list(dict.fromkeys(str(item[name]) for item in items))[1:]:
            what, outcome = f"{kind} in {file} share their id with another", "which is meant is not known"
            problems.count(what, f"{outcome}, and all of that id are left out", names)
            del found[key]
    return {key: items[0] for key, items in found.items()}


def _load(path: Path) -> dict[str, list[Any]]:
    try:
        data = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    keys = data if isinstance(data, dict) else {}
    missing = [key for key in KEYS if not isinstance(keys.get(key), list)]
    if not missing:
        return keys
    if tool := unread_tool_of(path):
        raise DataError(f"{path} is not COCO: it {tool}")
    if not isinstance(data, dict):
        raise DataError(f"{path} is not COCO: expected an object with {', '.join(KEYS)}, got a list or value")
    held = ", ".join(map(str, data)) or "nothing"
    raise DataError(f"{path} is not COCO: it has no list of {' and '.join(missing)} (it has {held})")


def _are_ids(*values: Any) -> bool:
    return all(isinstance(value, int | str | float | None) for value in values)


def _is_name(value: Any) -> bool:
    return value is not None and bool(str(value).strip())


def id_of(value: Any) -> Hashable:
    """An id for comparison: text of digits is the number."""
    text = value.strip() if isinstance(value, str) else ""
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else value


def corners_of(bbox: Any) -> Box | None:
    """xyxy of x, y, width, height, in numbers or in text."""
    numbers = _finite(bbox)
    if numbers is None or len(numbers) != 4:
        return None
    x, y, width, height = numbers
    box = x, y, x + width, y + height
    return box if all(map(math.isfinite, box)) else None


def outline_box(outlines: Any) -> Box | None:
    """xyxy around outlines, each a list x, y, x, y, …; None for masks in other forms."""
    parts = [_finite(outline) for outline in outlines] if isinstance(outlines, list) else []
    if not parts or any(part is None or len(part) < 6 or len(part) % 2 for part in parts):
        return None
    xs = [x for part in parts if part for x in part[::2]]
    ys = [y for part in parts if part for y in part[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _finite(values: Any) -> list[float] | None:
    try:
        numbers = [float(value) for value in values] if isinstance(values, list) else []
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
