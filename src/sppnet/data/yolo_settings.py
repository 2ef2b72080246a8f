"""What a YOLO data set says of itself: data.yaml, or darknet's obj.data and obj.names, or classes.txt.

Of data.yaml every word is taken as it is written, so that classes may be called no, off, 007 or 12:30.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sppnet.data.annotations import plain_name
from sppnet.data.class_list import read_class_list
from sppnet.data.lookup import base_name, exists
from sppnet.data.split_names import SPLIT_OF
from sppnet.data.text import read_lines, read_text
from sppnet.errors import DataError

OTHER_KEYS = ("path", "names", "nc", "download", "yaml_file", "backup", "kpt_shape", "flip_idx", "roboflow")
"""Keys of data.yaml that name no split."""

MAX_YAML_BYTES = 2**20

MAX_YAML_DEPTH = 20

NOTHING = ("", "~", "null", "Null", "NULL")
"""What YAML takes for no value."""

FOREIGN_TAG = "tag:yaml.org,2002:python"


@dataclass(frozen=True)
class Settings:
    """The classes and the splits of a data set."""

    file: Path
    names: dict[int, str]
    """Class names by their numbers in the label files."""
    entries: dict[str, tuple[str, ...]]
    """Folders, lists and images of each split, as the file names them."""
    base: str = ""
    """The folder that those paths start from."""
    has_points: bool = False
    """Key points follow each box."""
    problems: tuple[str, ...] = field(default=())


def read_yaml(file: Path) -> dict[str, Any]:
    """A data.yaml, every value in it as text; empty for a file that holds something else than a mapping."""
    if file.stat().st_size > MAX_YAML_BYTES:
        raise DataError(f"{file} is larger than {MAX_YAML_BYTES:,} bytes; a data.yaml has a few lines")
    text = read_text(file)
    try:
        _check_events(text)
        settings = yaml.BaseLoader(text).get_single_data()
    except Exception as error:  # what builds values out of text fails in any way
        raise DataError(f"{file} is not YAML that can be used: {' '.join(str(error).split())}") from error
    return {_key(str(key)): value for key, value in settings.items()} if isinstance(settings, dict) else {}


def _key(written: str) -> str:
    """Of a key that is known, its own letters."""
    plain = written.strip().lower()
    return plain if plain in (*OTHER_KEYS, *SPLIT_OF) else written


def _check_events(text: str) -> None:
    """Refuses what makes a small file grow without bound when it is read, or names code of Python."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it uses the alias *{event.anchor}; write out what it stands for")
        if str(getattr(event, "tag", "")).startswith(FOREIGN_TAG):
            raise ValueError(f"it has the tag {event.tag}; a data set needs none")
        if depth > MAX_YAML_DEPTH:
            raise ValueError(f"it is nested more than {MAX_YAML_DEPTH} deep")


def from_yaml(file: Path, settings: dict[str, Any]) -> Settings:
    """Raises DataError for a file without class names."""
    path = settings.get("path")
    base = path if isinstance(path, str) and path not in NOTHING else ""
    entries: dict[str, tuple[str, ...]] = {}
    for key, value in settings.items():
        named = [value] if isinstance(value, str) else value
        if key in OTHER_KEYS or not isinstance(named, list):
            continue
        paths = [entry for entry in named if isinstance(entry, str) and entry not in NOTHING]
        if paths and (key in SPLIT_OF or all(_is_folder(file.parent / path) for path in paths)):
            split = SPLIT_OF.get(key, key)
            entries[split] = entries.get(split, ()) + tuple(paths)
    names, told = _names(settings, file)
    odd = tuple(_odd_names(names, settings, file))
    return Settings(file, names, entries, base, "kpt_shape" in settings, (*told, *odd))


def _is_folder(path: Path) -> bool:
    return exists(path) and path.is_dir()


def from_darknet(names: Path, data: Path | None, lists: dict[str, Path]) -> Settings:
    """obj.names, and the splits of obj.data; without that the lists train.txt, valid.txt, … beside it."""
    entries: dict[str, tuple[str, ...]] = {split: (path.name,) for split, path in lists.items()}
    for line in read_lines(data) if data else ():
        key, _, value = (part.strip() for part in line.partition("="))
        if value and (split := SPLIT_OF.get(key.lower())):
            entries[split] = (value,)
    return from_list(names, entries)


def from_list(file: Path, entries: dict[str, tuple[str, ...]]) -> Settings:
    """A classes.txt or obj.names, one class a line; raises DataError for one that is numbered from 1."""
    listed = read_class_list(file)
    if 0 not in listed.names:
        raise DataError(
            f"{file} numbers its classes from {min(listed.names)}, and label files of YOLO count from 0: "
            "write the names alone, in the order of the numbers in the label files"
        )
    return Settings(file, listed.names, entries, problems=listed.problems)


def _names(settings: dict[str, Any], file: Path) -> tuple[dict[int, str], tuple[str, ...]]:
    """Class names by number, and what was odd: a list, a mapping, a file, or only how many there are."""
    names, count = settings.get("names"), settings.get("nc")
    if isinstance(names, str) and _is_list(place := file.parent / base_name(names)):
        listed = read_class_list(place)
        return listed.names, listed.problems
    if isinstance(names, str) and _count(count) != 1 and "," in names:
        names = names.split(",")
    if isinstance(names, list) and any(isinstance(name, dict) for name in names):
        names = _joined(names)
    if isinstance(names, dict):
        names = _by_number(names)
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        names = dict(enumerate(names))
    if isinstance(names, dict) and names:
        return {number: plain_name(name) or str(number) for number, name in names.items()}, ()
    if isinstance(names, str) and _count(count) == 1 and plain_name(names):
        return {0: plain_name(names)}, ()
    if names is None and _count(count):
        return {number: str(number) for number in range(_count(count))}, ()
    raise DataError(f"{file} has no names: expected a list of class names, or a mapping from 0, 1, … to them")


def _joined(names: list[Any]) -> dict[str, Any] | None:
    """One mapping for a list of them, - 0: cat or - {id: 0, name: cat}; None for another list."""
    whole: dict[str, Any] = {}
    for one in names:
        if not isinstance(one, dict):
            return None
        pairs = {one["id"]: one["name"]} if one.keys() >= {"id", "name"} else one
        if whole.keys() & pairs.keys():
            return None
        whole |= pairs
    return whole


def _by_number(names: dict[Any, Any]) -> dict[int, str] | None:
    """Of a mapping from numbers to names, or from names to numbers that differ; None for another."""
    if not all(isinstance(name, str) for name in names.values()):
        return None
    if all(map(_is_number, names)):
        return {int(key): name for key, name in names.items()}
    if all(map(_is_number, names.values())) and len(set(map(int, names.values()))) == len(names):
        return {int(number): name for name, number in sorted(names.items(), key=lambda item: int(item[1]))}
    return None


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 10


def _is_list(path: Path) -> bool:
    """Whether a text file of names is there."""
    return path.suffix.lower() in (".txt", ".names") and exists(path) and path.is_file()


def _count(text: Any) -> int:
    plain = isinstance(text, str) and text.isdecimal() and len(text) < len(str(MAX_YAML_BYTES))
    return int(text) if plain else 0


def _odd_names(names: dict[int, str], settings: dict[str, Any], file: Path) -> list[str]:
    """Sentences on names that stand twice, and on a number of them that does not fit."""
    odd = []
    twice = [name for name in dict.fromkeys(names.values()) if list(names.values()).count(name) > 1]
    if twice:
        odd.append(f"{file.name} names {', '.join(twice)} twice; those numbers are read as one class")
    count = _count(settings.get("nc"))
    if count and count != len(names):
        odd.append(f"{file.name} has nc {count} and {len(names)} names; the names count")
    return odd
