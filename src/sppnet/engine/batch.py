"""A list of images, worked on by all processes of a Ray.

Tasks and not actors: a block whose worker or machine is lost goes to any other one, while calls of an actor
wait for a place where that very actor can start again.
"""

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sppnet.data.files import writable_name
from sppnet.engine.cluster import joined
from sppnet.engine.tables import check_shards, count_done, import_pyarrow, unfinished, write_shard
from sppnet.engine.work import Work
from sppnet.errors import SppnetError
from sppnet.malloc import keep_memory
from sppnet.progress import Progress

MAX_IN_BLOCK = 64
"""Images of a block, at most: what is lost with a worker."""
BLOCKS_PER_PROCESS = 4
"""At least, where there are images enough: so that all end at about the same time."""
TRIES = 4
"""Ray tries a block again for ever; an image on which every worker dies must end the work."""
LOOK_SECONDS = 0.5
"""Between two looks at what is done."""


@dataclass(frozen=True)
class Block:
    """Work on rows of a Ray dataset, each of which is a block of images.

    Rows and not Ray's own blocks: those it may join or split, and a block must keep its name.
    """

    work: Work
    folder: str

    def __call__(self, rows: Any) -> Any:
        """A table with the columns "first", "images", "paths" → "first" alone, the parts being written."""
        keep_memory()  # the process is one of Ray's, and does nothing else
        for row in rows.to_pylist():
            with self._tried(row["first"], row["images"]):
                write_shard(
                    Path(self.folder),
                    self.work(list(map(os.fsdecode, row["paths"])), row["images"], row["first"]),
                )
        return rows.select(["first"])

    @contextmanager
    def _tried(self, first: int, names: Sequence[str]) -> Iterator[None]:
        """Counts in a file how often a worker began with this block and did not come back."""
        tries = Path(self.folder) / f".{first}.tries"
        with tries.open("ab") as file:
            if file.tell() >= TRIES:
                raise SppnetError(
                    f"{TRIES} workers died on the images {names[0]} to {names[-1]}: look whether one of them "
                    "is huge, and leave it out, or give workers more memory"
                )
            file.write(b".")
        yield
        tries.unlink(missing_ok=True)


def run_on_ray(
    work: Work, images: Sequence[Path], out: Path, device: str, stage: str, progress: Progress
) -> list[str]:
    """Write a folder of Parquet files at `out`, a row an image; returns why images could not be read.

    device: "auto" takes GPUs if Ray has some. Raises ConfigError if `out` is there, MissingExtraError, and
    SppnetError for what went wrong in a worker.
    """
    import_pyarrow()
    with unfinished(out.resolve()) as folder, joined() as ray:
        gpus = device.startswith("cuda") or (device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
        progress.begin(stage, len(images))
        with _watched(folder, progress):
            _work_through(ray, Block(work.on("auto" if gpus else "cpu"), str(folder)), images, gpus)
        return check_shards(folder, len(images))


def _work_through(ray: Any, block: Block, images: Sequence[Path], gpus: bool) -> None:
    rows = share_out(images, int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    per_task = {"num_cpus": 1, "num_gpus": 1, "max_calls": 0} if gpus else {"num_cpus": 1}
    try:
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            block, batch_size=1, batch_format="pyarrow", **per_task
        )
        dataset.materialize()
    except ray.exceptions.RayError as error:
        raise SppnetError(f"a worker of Ray failed: {_first_cause(error)}") from error


def share_out(images: Sequence[Path], processes: int) -> list[dict[str, Any]]:
    """Blocks of consecutive images, about as many in each: number of the first, names, and where they are."""
    n = len(images)
    blocks = max(-(-n // MAX_IN_BLOCK), min(n, processes * BLOCKS_PER_PROCESS))
    edges = [n * block // blocks for block in range(blocks + 1)]
    return [
        {
            "first": start,
            "images": [writable_name(path) for path in images[start:end]],
            "paths": [os.fsencode(path.absolute()) for path in images[start:end]],  # they need not be text
        }
        for start, end in pairwise(edges)
    ]


@contextmanager
def _watched(folder: Path, progress: Progress) -> Iterator[None]:
    """Tell from the files in the folder how far the work has come."""
    ended = threading.Event()
    reported = 0

    def look() -> None:
        nonlocal reported
        done = count_done(folder)
        progress.advance(done - reported)
        reported = done

    def watch() -> None:
        while not ended.wait(LOOK_SECONDS):
            look()

    watcher = threading.Thread(target=watch, name="sppnet-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        look()


def _first_cause(error: BaseException) -> str:
    """What the worker raised, out of the traceback that Ray makes a text of."""
    raised = re.search(r"^[A-Za-z_][\w.]*: (.+)$", str(error), re.MULTILINE)
    return raised[1] if raised else (str(error).strip().splitlines() or [type(error).__name__])[-1]
