"""Every error this package raises on purpose.

    SppnetError
    ├── GeometryError (ValueError)   sizes, levels, boxes or cells that cannot be
    ├── ImageError (ValueError)      an image that cannot be read, or is too large
    ├── DataError (ValueError)       a data set that cannot be used
    ├── ModelError (ValueError)      a model, trunk or weights file that does not fit
    ├── ConfigError (ValueError)     options that contradict each other
    └── MissingExtraError (ImportError)   an optional package is not installed

A message says what was expected, what came, and what to do. The command line
prints it in one line and exits with 1; it prints no traceback for these.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable

UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of controls (the escapes of terminals), halves of pairs, and line ends."""

LONGEST = 2000
"""Letters of a message: a damaged file may have a name of a megabyte in it."""


class SppnetError(Exception):
    """Base of all errors raised on purpose."""

    def __str__(self) -> str:
        return printable(super().__str__())


class GeometryError(SppnetError, ValueError):
    """Sizes, levels, boxes or cells that cannot be."""


class ImageError(SppnetError, ValueError):
    """An image that cannot be read, or is too large."""


class DataError(SppnetError, ValueError):
    """A data set that cannot be used."""


class ModelError(SppnetError, ValueError):
    """A model, trunk or weights file that does not fit."""


class ConfigError(SppnetError, ValueError):
    """Options that contradict each other."""


class MissingExtraError(SppnetError, ImportError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs {package}, which is not installed: pip install 'sppnet[{extra}]'")


def printable(text: str) -> str:
    """On one line and fit for any terminal: files may hold names that are neither."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 3 :]}"
    if text.isprintable():
        return text
    return "".join(
        sign.encode("unicode_escape").decode() if unicodedata.category(sign) in UNPRINTABLE else sign
        for sign in encodable(text)
    )


def encodable(text: str) -> str:
    r"""Text that UTF-8 can hold: a byte of a file name that is not UTF-8 becomes `\xe9` and the like.

    So does half a pair of UTF-16, as Windows allows in names: `\ud800`.
    """
    bytes_told = re.sub(
        "[\udc80-\udcff]+",
        lambda match: match[0].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
        text,
    )
    return bytes_told.encode("utf-8", "backslashreplace").decode()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known ones, or all of a short list."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(choices)}" if len(choices) <= 20 else f"{len(choices)} names are known"
