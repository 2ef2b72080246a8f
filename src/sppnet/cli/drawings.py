"""Where drawings go: a file for each image, none of them in an image's own place."""

from collections.abc import Iterable
from itertools import count
from pathlib import Path


def drawing_files(images: Iterable[Path], folder: Path) -> dict[Path, Path]:
    """FOLDER/name.png for each image; name-2.png, … where that is taken by another or by an image itself."""
    images = list(images)
    taken = {image.resolve() for image in images}
    files: dict[Path, Path] = {}
    for image in images:
        ends = (f"-{number}" if number > 1 else "" for number in count(1))
        choices = ((folder / f"{image.stem}{end}.png").resolve() for end in ends)
        chosen = next(choice for choice in choices if choice not in taken)
        taken.add(chosen)
        files[image] = folder / chosen.name
    return files
