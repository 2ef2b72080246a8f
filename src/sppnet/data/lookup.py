"""Files by the names that annotations give them: of another machine or in other letters.

A name is compared exactly first, then without regard to upper and lower case and to how accents are
composed, as Windows and Macs compare. Of folders that are not here, the last ones are dropped first.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from urllib.parse import unquote


def fold(name: str) -> str:
    """Equal for names that differ in case or in the composition of letters alone."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def shards_of(written: str) -> list[str]:
    """The folders and the name in a path of any system, without drive, root, "." and ".."."""
    plain = PureWindowsPath(written)  # takes both kinds of slash
    parts = plain.parts[bool(plain.anchor) :]
    return [part for part in parts if part not in ("..", ".")] if "\0" not in written else []


def base_name(written: str) -> str:
    """The last part of a path of any system."""
    return shards_of(written)[-1] if shards_of(written) else ""


@dataclass
class Lookup:
    """Entries of folders, which are listed once."""

    _folded: dict[Path, dict[str, list[Path]]] = field(default_factory=dict, repr=False)

    def entry(self, folder: Path, name: str) -> Path | None:
        """What has that name in a folder: exactly, else the one of folded name; None for none or several."""
        path = folder / name
        if exists(path):
            return path
        alike = self._listed(folder).get(fold(name), [])
        return alike[0] if len(alike) == 1 else None

    def below(self, folder: Path, parts: Sequence[str]) -> Path | None:
        """What lies at that path below a folder."""
        path: Path | None = folder.joinpath(*parts)
        if path is not None and exists(path):
            return path
        path = folder
        for part in parts:
            path = self.entry(path, part) if path else None
        return path

    def file(self, folders: Sequence[Path], written: str) -> Path | None:
        """The file that a path of any machine means: its longest end that one of the folders has."""
        literal = [written] if PurePath(written).name == written != ".." else []
        for name in dict.fromkeys((written, written.strip(), unquote(written.strip()))):
            for tail in (literal, *_tails(shards_of(name))):
                for folder in folders:
                    path = self.below(folder, tail)
                    if path is not None and path.is_file():
                        return path
        return None

    def _listed(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self._folded:
            found: dict[str, list[Path]] = {}
            for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
                found.setdefault(fold(entry.name), []).append(entry)
            self._folded[folder] = found
        return self._folded[folder]


def _tails(parts: list[str]) -> Iterator[list[str]]:
    return (parts[start:] for start in range(len(parts)))


def is_written_so(path: Path, root: Path, written: str) -> bool:
    """Whether a path below `root` ends exactly as written, but for the kind of slash."""
    found = path.relative_to(root).parts
    parts = [part for part in PurePosixPath(written.strip().replace("\\", "/")).parts if part != "."]
    return found[-1] == written or list(found[-len(parts) :]) == parts


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; names too long for the system, or with a zero, are of none."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True
