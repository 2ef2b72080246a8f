"""Split files of VOC data sets: names of images, one a line, some with further columns."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from sppnet.data.files import image_stem, is_image_name, natural_key
from sppnet.data.lookup import Lookup
from sppnet.data.split_names import SPLIT_OF, SPLIT_ORDER
from sppnet.data.text import read_lines

PER_CLASS = re.compile(r".+_(train|val|trainval|test)")
"""A split file of one class, whose second column says −1, 0 or 1."""

MAX_COLUMNS = 8


def read_sets(root: Path, notes: Path) -> dict[str, tuple[str, ...]]:
    """The lines of every split: of ImageSets/Main, else of ImageSets, else of train.txt and others beside."""
    lookup = Lookup()
    for parts in (["ImageSets", "Main"], ["ImageSets"]):
        folder = lookup.below(root, parts)
        if folder and (sets := _read_folder(folder)):
            return sets
    for folder in (root, notes):
        files: dict[str, tuple[str, ...]] = {}
        for word, split in SPLIT_OF.items():
            if (file := lookup.entry(folder, f"{word}.txt")) and file.is_file():
                files.setdefault(split, read_lines(file))
        if files:
            return files
    return {}


def _read_folder(folder: Path) -> dict[str, tuple[str, ...]]:
    """The files of single classes count where no file is the whole split's."""
    files = sorted(folder.glob("*.txt"), key=lambda file: natural_key(file.stem)) if folder.is_dir() else []
    whole = {file.stem: read_lines(file) for file in files if not PER_CLASS.fullmatch(file.stem)}
    single: dict[str, tuple[str, ...]] = {}
    for file in files:
        if (match := PER_CLASS.fullmatch(file.stem)) and match[1] not in whole:
            single[match[1]] = single.get(match[1], ()) + read_lines(file)
    return _with_usual_names({**whole, **single})


def _with_usual_names(sets: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """ "Train" and "Validation" are train and val, unless those are there as well."""
    named: dict[str, tuple[str, ...]] = {name: lines for name, lines in sets.items() if name in SPLIT_ORDER}
    for name, lines in sets.items():
        usual = SPLIT_OF.get(name.lower(), name)
        named.setdefault(name if usual in named else usual, lines)
    return named


def ids_in(line: str) -> Iterator[str]:
    """What a line of a split file may mean, the likeliest first: 000012, 000012 −1, 000012.jpg, a 1 2 3."""
    plain = line.replace("\\", "/")
    for text in dict.fromkeys((plain, _first_column(plain))):
        yield text
        if text.lower().endswith(".xml"):
            text = text[: -len(".xml")]  # of the annotation, where the image's is usual
            yield text
        if is_image_name(Path(text)):
            yield PurePosixPath(text).with_suffix("").as_posix()
        name = PurePosixPath(text).name if "/" in text else text
        yield image_stem(name)


def _first_column(line: str) -> str:
    """Without the numbers that follow the name."""
    for _ in range(MAX_COLUMNS):
        parts = line.rsplit(maxsplit=1)
        if len(parts) < 2 or not parts[1].removeprefix("-").isdecimal():
            break
        line = parts[0]
    return line
