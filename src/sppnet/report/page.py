"""Self-contained web pages: no script, no network, one file. Templates escape every text they are given."""

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from sppnet import __version__
from sppnet.data.files import writable_name
from sppnet.data.image import ImageArray, read_image
from sppnet.errors import ImageError

JPEG_QUALITY = 80

Figure = tuple[Markup, str]
"""A picture or a chart, and its caption."""


def render(template: str, **values: Any) -> Markup:
    """A file of templates/ with values filled in."""
    return Markup(TEMPLATES.get_template(template).render(values))


def page(template: str, title: str, what: str, **values: Any) -> str:
    """A whole document. what: is told below the title."""
    return str(render(template, title=title, lead=f"{what}, by sppnet {__version__}.", **values))


def in_words(value: Any) -> str:
    """A value as one reads it: 224, 180 rather than [224, 180]."""
    if isinstance(value, list | tuple):
        return ", ".join(map(in_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def picture(image: ImageArray, says: str, longest_px: int) -> Markup:
    """An image (h, w, 3) inside the page, as a JPEG of at most so many pixels a side. says: for the blind."""
    small = Image.fromarray(shrink(image, longest_px))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=JPEG_QUALITY)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return Markup('<img src="data:image/jpeg;base64,{}" alt="{}" width="{}" height="{}">').format(
        data, says, small.width, small.height
    )


def photograph(
    path: Path, words: str, says: str, draw: Callable[[ImageArray], ImageArray], px: int
) -> Figure:
    """An image file over its caption, words and its name; if it cannot be read any more, why."""
    caption = f"{words} · {writable_name(path.name)}"
    try:
        return picture(draw(read_image(path)), says, px), caption
    except ImageError as error:
        return Markup("<p>{}</p>").format(error), caption


def shrink(image: ImageArray, longest_px: int) -> ImageArray:
    """The image, no longer than that."""
    small = Image.fromarray(image)
    small.thumbnail((longest_px, longest_px))
    return np.array(small)


def name_of(path: Path) -> str:
    """Of a file or folder in a title: two parts say more than "best.safetensors"."""
    return "/".join(path.resolve().parts[-2:])


def share(value: float | None) -> str:
    """97.4 %; a dash where nothing was measured."""
    return "–" if value is None else f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """17 min 28 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def time_rows(seconds: Mapping[str, float]) -> tuple[list[list[str]], list[float | None]]:
    """How long each stage took, and all of them: rows of a table, and lengths of its bars."""
    total = sum(seconds.values())
    shares = [spent / total if total else 0.0 for spent in seconds.values()]
    rows = [
        [name, duration(spent), share(part)]
        for (name, spent), part in zip(seconds.items(), shares, strict=True)
    ]
    return [*rows, ["all", duration(total), ""]], [*shares, None]


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {"in_words": in_words, "share": share, "duration": duration}
TEMPLATES.globals["time_rows"] = time_rows


# --- a call in Python, as one would write it -----------------------------------------------------


class Name(str):
    """A variable: what it holds is too long to write."""


def in_python(name: str, *given: Any, **options: Any) -> str:
    """sppnet.train('photos', 'runs/photos', sppnet.TrainingConfig(sizes='96'), resume=True).

    Options that are None or False are left out: they are what nobody asked for.
    """
    asked = {key: value for key, value in options.items() if value is not None and value is not False}
    return _call(name, [*map(_in_words, given), *_named(asked)])


def _in_words(value: Any) -> str:
    if isinstance(value, Name):
        return str(value)
    if is_dataclass(value) and hasattr(value, "to_json"):
        return _call(f"sppnet.{type(value).__name__}", _named(_changed(value)))
    return repr(str(value)) if isinstance(value, str | Path) else repr(value)


def _changed(config: Any) -> dict[str, Any]:
    """The fields that make this configuration again. One that is left open may depend on another."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    changed: dict[str, Any] = {}
    while (made := type(config)(**changed)) != config:
        changed |= {name: value for name, value in values.items() if value != getattr(made, name)}
    return {name: value for name, value in values.items() if name in changed}


def _named(values: dict[str, Any]) -> list[str]:
    return [f"{name}={_in_words(value)}" for name, value in values.items()]


def _call(name: str, words: list[str]) -> str:
    return f"{name}({', '.join(words)})"
