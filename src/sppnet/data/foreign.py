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
MAX_FOLDERS = 100
"""That are looked into."""

FLAGS = re.DOTALL, re.MULTILINE
"""Of searches in a text as a whole, and line by line."""

MARKS = {
    ".xml": {"CVAT's XML for images": r"<annotations>.*<image "},
    ".json": {
        "LabelMe": r'"shapes".*"points"',
        "VGG Image Annotator": r'"shape_attributes"|"_via_',
        "Label Studio": r'"(rectangle|polygon|brush|keypoint)labels"|"from_name".*"to_name"',
        "CreateML": r'"annotations?"\s*:\s*\[\s*\{[^[\]]*"coordinates"\s*:\s*\{',
        "Supervisely": r'"classTitle"|"geometryType"',
        "Labelbox": r'"Labeled Data"|"data_row"',
        "BDD100K or Scalabel": r'"box2d"',
        "Datumaro": r'^\s*\{.*"items"\s*:\s*\[',
        "a detector's results in COCO's form": r'^\s*\[\s*\{[^{}]*"category_id"',
    },
    ".jsonl": {"lines of JSON": r'"(objects|bbox|boxes|annotations)"'},
    ".csv": {
        "VGG Image Annotator": r"region_shape_attributes",
        "a table of boxes": r"(?i)^[^\n]*\b(xmin|x_min|bbox)\b",
    },
    ".txt": {
        "KITTI": r"^[A-Za-z_]+ [\d.]+ [0-3] -?[\d.]+( -?[\d.]+){11,12}\s*$",
        "WIDER FACE": r"^\S+\.jpg\s*\n\d+\s*\n\d+ \d+ \d+ \d+ ",
        "DOTA": r"^(imagesource:|(-?[\d.]+ ){8}[A-Za-z][\w-]* [0-2]\s*$)",
        "MOT Challenge": r"^\d+,-?\d+,-?[\d.]+,-?[\d.]+,[\d.]+,[\d.]+,[\d.-]+,-?[\d.]+,-?[\d.]+(,|\s*$)",
        "VisDrone": r"^\d+,\d+,\d+,\d+,[01],\d+,\d+,\d+,?\s*$",
        "a list of images with boxes": r"^\S+\.(jpe?g|png|bmp)[ ,]\d+,\d+,\d+,\d+,\w+",
    },
    ".tfrecord": {"TensorFlow's records": ""},
    ".record": {"TensorFlow's records": ""},
}
"""What the files of each tool have near their beginning, by suffix."""


def unread_annotations(root: Path) -> str:
    """A sentence if files of such a tool lie in a folder or in those up to two levels below; else empty."""
    for file in _candidates(root):
        if said := unread_tool_of(file):
            return f"{file.relative_to(root).as_posix()} {said}"
    return ""


def unread_tool_of(file: Path) -> str:
    """What to say of a file of such a tool; empty of another."""
    with file.open("rb") as stream:
        tool = unread_tool(file.suffix.lower(), decode(stream.read(HEAD_BYTES)))
    return tool and f"seems to be of {tool}, which is not read; export the boxes as VOC, COCO or YOLO"


def unread_tool(suffix: str, head: str) -> str:
    """The tool whose files of that suffix begin so."""
    marks = MARKS[suffix].items()
    return next((tool for tool, mark in marks if re.search(mark, head, FLAGS[suffix == ".txt"])), "")


def _candidates(root: Path) -> Iterator[Path]:
    """The first files of each suffix in the folder and in those below it."""
    below = list(islice(_folders(root), MAX_FOLDERS))
    deeper = islice((folder for each in below for folder in _folders(each)), MAX_FOLDERS)
    for folder in (root, *below, *deeper):
        for suffix in MARKS:
            found = (file for file in folder.glob("*") if file.suffix.lower() == suffix and file.is_file())
            yield from sorted(islice(found, LOOKED_AT))


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name))
