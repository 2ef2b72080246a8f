"""A folder of Parquet files, one for each block of images, named by the numbers of its first and last image.

A block that is done again, its worker having been killed, overwrites its own file in one step, so that
nothing is there twice. The folder takes its name when all images have been counted in it.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sppnet.engine.tables import import_pyarrow
from sppnet.errors import ConfigError, SppnetError
from sppnet.nn.model_file import write_file

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
