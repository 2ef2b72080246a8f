"""Every split of a data set of annotated images at once, as checking and converting need them."""

from dataclasses import dataclass
from pathlib import Path

from sppnet.data.annotations import AnnotatedImage, ParsedDataset
from sppnet.data.detection_dataset import AnnotatedImages, find_annotated_splits, find_source, read_annotated
from sppnet.errors import DataError, printable

NAMED = 3
"""Images that a sentence names."""


@dataclass(frozen=True)
class Splits:
    """Each image in one split, those in none under the name ""."""

    sets: dict[str, AnnotatedImages]
    problems: tuple[str, ...]
    """Of the data set as a whole, such as images that are in two splits."""


def open_splits(data: str | Path) -> Splits:
    """The images of every split; an image of two splits counts in the first, which is told.

    "trainval" is left out where it is made of train and val. Raises DataError for a data set without
    any image.
    """
    whole, offered = read_annotated(data), find_annotated_splits(data)
    if not len(whole):
        first = f"; {whole.problems[0]}" if whole.problems else ""
        raise DataError(f"{data} holds no annotated images{first}")
    if {"train", "val"} <= set(offered):
        offered = tuple(name for name in offered if name != "trainval")
    sets: dict[str, AnnotatedImages] = {}
    found: dict[Path, str] = {}
    problems = []
    for name in offered:
        images = read_annotated(data, name)
        own = [i for i, path in enumerate(images.paths) if path not in found]
        if not len(images):
            problems.append(f"no image of the {name} split is there")
        shared: dict[str, list[str]] = {}
        for path in images.paths:
            if path in found:
                shared.setdefault(found[path], []).append(path.name)
        for other, names in shared.items():
            problems.append(
                f"{len(names)} images of {name} are in {other} too, such as {', '.join(names[:NAMED])}; "
                f"they count in {other} alone; a score on {name} would be too high"
            )
        sets[name] = images.take(own)
        found.update((images.paths[i], name) for i in own)
    if rest := [i for i, path in enumerate(whole.paths) if path not in found]:
        sets[""] = whole.take(rest)
    told = {sentence for name, images in sets.items() if name for sentence in images.problems}
    of_all = whole.problems if rest else _unused(data, whole)
    return Splits(sets, (*problems, *(sentence for sentence in of_all if sentence not in told)))


def _unused(data: str | Path, whole: AnnotatedImages) -> tuple[str, ...]:
    reading = ParsedDataset([AnnotatedImage(path, ()) for path in whole.paths])
    find_source(data).tell_unused(reading)
    return tuple(map(printable, reading.problems))
