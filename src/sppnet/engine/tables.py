"""What was found in images as Arrow tables, which are written as Parquet: a row an image, damaged ones too.

The columns: "number" of the image in the list that was given, "image" its name, "reason" why it could
not be read (null for all that could be), and what was found, null for an image that could not be read:
"labels", "scores" and "boxes" of its objects, the surest first, or its "vector".
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sppnet.arrays import Floats
from sppnet.errors import ConfigError, MissingExtraError, SppnetError
from sppnet.nn.model_file import write_file
from sppnet.structures import Detections


def import_pyarrow() -> Any:
    """Raises MissingExtraError."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    return pyarrow


def listing(names: Sequence[str], reasons: Sequence[str | None], first: int = 0) -> dict[str, Any]:
    """The columns that say which images these are, `first` and on in the list."""
    arrow = import_pyarrow()
    return {
        "number": arrow.array(range(first, first + len(names)), arrow.int64()),
        "image": arrow.array(names, arrow.string()),
        "reason": arrow.array(reasons, arrow.string()),
    }


def detections_table(
    names: Sequence[str], found: Sequence[Detections | None], reasons: Sequence[str | None], first: int = 0
) -> Any:
    """names, found, reasons: a row an image; found is None where a reason is given."""
    arrow = import_pyarrow()
    kinds = {
        "labels": arrow.list_(arrow.string()),
        "scores": arrow.list_(arrow.float32()),
        "probabilities": arrow.list_(arrow.float32()),
        "boxes": arrow.list_(arrow.list_(arrow.float32(), 4)),
    }
    rows: dict[str, list[Any]] = {
        "labels": [each and each.names for each in found],
        "scores": [each and each.scores.tolist() for each in found],
        "probabilities": [each and each.probabilities.tolist() for each in found],
        "boxes": [each and each.boxes.tolist() for each in found],
    }
    written = {name: arrow.array(rows[name], kind) for name, kind in kinds.items()}
    return arrow.table({**listing(names, reasons, first), **written})


def vectors_table(
    names: Sequence[str],
    vectors: Sequence[Floats | None],
    reasons: Sequence[str | None],
    length: int,
    first: int = 0,
    described: str = "{}",
) -> Any:
    """names, vectors (length,), reasons: a row an image; a vector is None where a reason is given.

    described: JSON that says how the vectors were made, for the schema's metadata.
    """
    arrow = import_pyarrow()
    missing = np.array([vector is None for vector in vectors], np.bool_)
    flat = [np.zeros(length, np.float32) if vector is None else vector for vector in vectors]
    values = arrow.array(np.concatenate(flat) if flat else np.empty(0, np.float32))
    rows = arrow.FixedSizeListArray.from_arrays(values, length, mask=arrow.array(missing))
    table = arrow.table({**listing(names, reasons, first), "vector": rows})
    return table.replace_schema_metadata({"sppnet": described})


def read_detections(table: Any, classes: tuple[str, ...]) -> dict[str, Detections]:
    """What `detections_table` wrote, by image; those that could not be read are not among them."""
    found = {}
    for row in table.to_pylist():
        if row["reason"] is None:
            labels = [classes.index(name) for name in row["labels"]]
            boxes = np.array(row["boxes"], np.float32).reshape(-1, 4)
            scores, odds = (np.array(row[name], np.float32) for name in ("scores", "probabilities"))
            found[row["image"]] = Detections(boxes, scores, np.array(labels, np.int64), classes, odds)
    return found


# --- a file a shard ------------------------------------------------------------------------------

# A block that is done again, its worker having been killed, overwrites its own file in one step, so that
# nothing is there twice. The folder takes its name when all images have been counted in it.


NAME = re.compile(r"images-(\d+)-(\d+)\.parquet")


@contextmanager
def unfinished(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` that becomes `out` at the end of the block, or is gone after an error."""
    if out.exists():
        raise ConfigError(f"{out} is there already; remove it or choose another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".unfinished"))
    folder.chmod(0o755)
    try:
        yield folder
        os.rename(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_shard(folder: Path, table: Any) -> None:
    """A table whose rows are consecutive in "number", under the name that these give."""
    first, last = table["number"][0].as_py(), table["number"][-1].as_py()
    write_table(folder / f"images-{first:09d}-{last:09d}.parquet", table)


def write_table(path: Path, table: Any) -> None:
    """One Parquet file, in one step."""
    arrow = import_pyarrow()
    sink = arrow.BufferOutputStream()
    arrow.parquet.write_table(table, sink)
    write_file(path, sink.getvalue().to_pybytes())


def shards_of(folder: Path) -> list[Path]:
    """In the order of the images."""
    return sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name))


def count_done(folder: Path) -> int:
    """How many images are written, by the names of the files."""
    matches = (NAME.fullmatch(path.name) for path in shards_of(folder))
    return sum(int(match[2]) - int(match[1]) + 1 for match in matches if match)


def read_shards(folder: Path, columns: list[str] | None = None) -> Iterator[Any]:
    """Tables, in the order of the images."""
    arrow = import_pyarrow()
    for path in shards_of(folder):
        yield arrow.parquet.read_table(path, columns=columns, partitioning=None)


def check_shards(folder: Path, images: int) -> list[str]:
    """Why images could not be read. Raises SppnetError unless each image is there, and once."""
    times = np.zeros(images, np.int64)
    reasons = []
    for table in read_shards(folder, ["number", "reason"]):
        np.add.at(times, table["number"].to_numpy(), 1)
        reasons += [reason for reason in table["reason"].to_pylist() if reason is not None]
    lost, doubled = int((times == 0).sum()), int((times > 1).sum())
    if lost or doubled:
        raise SppnetError(
            f"of {images} images {lost} are missing from the result and {doubled} are there more than once; "
            "run it again, and report it with the versions that sppnet doctor prints"
        )
    return reasons
