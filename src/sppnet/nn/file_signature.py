"""What a file is that should hold weights and does not, by its first bytes."""

import json
import zipfile
from pathlib import Path

MAX_HEADER_BYTES = 10**8
"""As safetensors itself reads."""

_CUT_OFF = "the beginning of one, whose end is missing: download or copy it again, whole"
_BEGINNINGS = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file itself: run `git lfs pull` in its repository, or download the file",
    ),
    (b"\x89HDF", "an HDF5 file, as Keras writes; save the weights from PyTorch, as .safetensors or .pth"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"BZh", "a bzip2 archive: unpack it first"),
    (b"\xfd7zXZ", "an xz archive: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
)
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")


def foreign_kind(path: str | Path) -> str | None:
    """What the file is and what to do, to follow "it is"; None if it begins like nothing known."""
    try:
        with Path(path).open("rb") as file:
            start = file.read(512)
            if kind := foreign_kind_of(start):
                return kind
            if _lacks_end(Path(path), start):
                return _CUT_OFF
            return "a zip archive: unpack it first" if _is_archive(Path(path), start) else None
    except OSError:
        return None


def foreign_kind_of(start: bytes) -> str | None:
    """`foreign_kind` of the first bytes of a file, 512 or more of a longer one."""
    if not start:
        return "empty (0 bytes): download or copy it again"
    for beginning, kind in _BEGINNINGS:
        if start.startswith(beginning):
            return kind
    if start[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    if not start.strip(b"\0"):
        return "nothing but zeros, as an unfinished download leaves: download or copy it again"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_PAGES):
        return "a web page, such as a login or an error: download the file again, past what sent the page"
    if text.startswith((b"{", b"[")) or start.decode("utf-8", "replace").isprintable():
        return f"text that begins with {start[:40].decode('utf-8', 'replace')!r}: download the file again"
    return None


def _is_archive(path: Path, start: bytes) -> bool:
    """Whether it is a zip file that torch.save did not write."""
    if not start.startswith(b"PK\x03\x04"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return not any(name.endswith(("/data.pkl", "/constants.pkl")) for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):  # damaged
        return False


def _lacks_end(path: Path, start: bytes) -> bool:
    """Whether a file of safetensors or of torch.save stops before the end that its beginning tells."""
    if start.startswith(b"PK\x03\x04"):
        try:
            return not zipfile.is_zipfile(path)
        except zipfile.BadZipFile:  # its end is there, and damaged
            return False
    length, size = int.from_bytes(start[:8], "little"), path.stat().st_size - 8
    if start[8:9] != b"{" or length > MAX_HEADER_BYTES:
        return False
    if size < length:
        return True
    with path.open("rb") as file:
        header = file.read(8 + length)[8:]
    try:
        tensors = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        return size < length + max((entry["data_offsets"][1] for entry in tensors), default=0)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return False
