"""The licence of a network's file, from the text beside it: it goes where the network goes."""

from pathlib import Path

MAX_CHARACTERS = 100_000
SUFFIXES = "", ".txt", ".md"
WORDS = "LICENSE", "LICENCE", "COPYING"


def find_licence(path: Path) -> dict[str, str] | None:
    """Name and text of the licence beside a file: NAME_LICENSE, NAME.LICENSE, then LICENSE of its folder."""
    names = [f"{stem}{sign}{word}" for word in WORDS for stem in (path.stem, path.name) for sign in "_.-"]
    for name in (*names, *WORDS):
        for suffix in SUFFIXES:
            beside = path.with_name(f"{name}{suffix}")
            try:
                with beside.open(encoding="utf-8", errors="replace") as file:
                    return {"file": beside.name, "text": file.read(MAX_CHARACTERS)}
            except (OSError, ValueError):  # none there; or a name that no file can have
                continue
    return None


def licence_title(text: str) -> str:
    """Its first line."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
