"""Annotations of tools whose files are not read: named, so that people know what to export instead."""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from sppnet.data.files import is_hidden
from sppnet.data.text import decode

HEAD_BYTES = 2**14

LOOKED_AT = 5
"""Files of each suffix in each folder."""

MARKS = {
    ".xml": {"CVAT's XML for images": r"<annotations>.*<image "},
    ".json": {
        "LabelMe": r'"shapes".*"points"',
        "VGG Image Annotator": r'"shape_attributes"|"_via_',
    },
    ".csv": {"a table of boxes": r"(?i)^[^\n]*\b(xmin|x_min|bbox)\b"},
    ".tfrecord": {"TensorFlow's records": ""},
    ".record": {"TensorFlow's records": ""},
}
"""What the files of each tool have near their beginning, by suffix."""


def unread_annotations(root: Path) -> str:
    """A sentence if files of such a tool lie in a folder or in those directly in it; empty if not."""
    for file in _candidates(root):
        with file.open("rb") as stream:
            head = decode(stream.read(HEAD_BYTES))
        for tool, mark in MARKS[file.suffix.lower()].items():
            if re.search(mark, head, re.DOTALL):
                return (
                    f"{file.relative_to(root).as_posix()} seems to be of {tool}, which is not read; "
                    "export the boxes as VOC, COCO or YOLO"
                )
    return ""


def _candidates(root: Path) -> Iterator[Path]:
    """The first files of each suffix, in the folder and in those directly in it."""
    entries = sorted(entry for entry in root.iterdir() if not is_hidden(entry.name))
    for folder in (root, *(entry for entry in entries if entry.is_dir())):
        for suffix in MARKS:
            found = (file for file in folder.glob("*") if file.suffix.lower() == suffix and file.is_file())
            yield from sorted(islice(found, LOOKED_AT))
