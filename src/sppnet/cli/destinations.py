"""Where commands write: places are checked before the work, and tables are written in one step."""

import os
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sppnet.destination import check_destination, check_name
from sppnet.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image


def check_file(path: Path | None, option: str, inputs: Iterable[Path] = ()) -> None:
    """Whether a file can be written; its folder may have to be made then. None: the option was not given.

    Raises ConfigError where a folder lies at `path`, nothing can be written there, or it is one of the
    files that are read.
    """
    if path is None:
        return
    check_name(path, option)
    if path.is_dir():
        raise ConfigError(
            f"{option} needs the name of a file to write; {path} is a folder, name a file in it"
        )
    if path.exists() and any(path.samefile(each) for each in inputs if each.exists()):
        from sppnet.data.files import is_image_name

        image = "one of the images; nothing is written over them"
        what = image if is_image_name(path) else "read by this command; nothing is written over it"
        raise ConfigError(f"{option} {path} is {what}, choose another name")
    if path.exists() and not os.access(path, os.W_OK):
        raise ConfigError(f"{option} {path} is there and may not be written; choose another name")
    if not path.exists() or (path.is_file() and path.parent not in (Path("/dev"), Path("/dev/fd"))):
        check_destination(Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent, option)


def check_picture(path: Path | None, option: str, inputs: Iterable[Path] = ()) -> None:
    """As `check_file`, for a PNG; raises ConfigError for the suffix of another format too."""
    if path is not None and path.suffix.lower() not in ("", ".png"):
        raise ConfigError(f"{option} is written as PNG; got {path}. Name it {path.with_suffix('.png').name}")
    check_file(path, option, inputs)


def check_folder(path: Path | None, option: str) -> None:
    """Make a folder that will be written to; raises ConfigError where that cannot be."""
    if path is not None:
        check_destination(path, option)
        path.mkdir(parents=True, exist_ok=True)


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


def write_picture(picture: "Image.Image", path: Path) -> None:
    """As PNG, in one step."""
    import io

    from sppnet.nn.model_file import write_file

    content = io.BytesIO()
    picture.save(content, "PNG")
    write_file(path, content.getvalue())


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table in UTF-8, its names of columns first; file names go through `writable_name` before."""
    import csv
    import io

    from sppnet.nn.model_file import write_file

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    write_file(path, text.getvalue().encode("utf-8", "backslashreplace"))
