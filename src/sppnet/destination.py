"""Where results go: tried before the work, so that hours of it are not lost at their end."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sppnet.errors import ConfigError

STAGING = ".unfinished"
"""Folder in a folder that is being written."""


def check_destination(folder: Path, called: str) -> None:
    """Whether files can be written to a folder, or to one that has to be made; nothing is left behind.

    called: what the caller knows the folder by, as "--out". Raises ConfigError.
    """
    check_name(folder, called)
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        kind = "a file" if there.exists() else "a link that leads nowhere"
        raise ConfigError(
            f"{called}: the folder {folder} cannot be made: {there} is {kind}; choose another place"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{called}: nothing may be written to the folder {there}; choose another place")
    try:  # an administrator may write everywhere by what the line above says, also where no file can be made
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise ConfigError(
            f"{called}: nothing can be written to the folder {there} ({error.strerror}); choose another place"
        ) from error


def check_name(path: Path, called: str) -> None:
    """Raises ConfigError for names that no file can have here."""
    try:
        os.lstat(path)
    except ValueError as error:
        raise ConfigError(f"{called}: {str(path)!r} is no name of a file ({error})") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            longest = max(path.parts, key=len)
            raise ConfigError(
                f"{called}: a name is too long for this disk, mostly 255 bytes at most; got "
                f"{len(os.fsencode(longest))} bytes, {longest[:40]}…"
            ) from error


@contextmanager
def whole_or_nothing(target: Path) -> Iterator[Path]:
    """A folder in the target, whose content is moved there at the end; an error or Ctrl-C leaves nothing."""
    made = [folder for folder in (target, *target.parents) if not folder.exists()]
    unfinished = target / STAGING
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        for each in list(unfinished.iterdir()):
            each.replace(target / each.name)
        unfinished.rmdir()
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise
