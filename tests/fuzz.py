"""Coverage-guided fuzzing of one reader: python tests/fuzz.py image --minutes 10

Needs atheris (pip install atheris). Inputs that a reader neither reads nor refuses as it should are kept
below --out, one for each place where they fail, and the run goes on. Exits with 1 if there are any.
"""

import argparse
import importlib
import importlib.util
import os
import re
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

READERS = ("image", "voc", "coco", "yolo", "model", "weights", "boxes", "maps")

PACKAGES = ("sppnet", "PIL", "yaml")
"""Whose branches guide the search, and those of torch's reader of pickles."""

SLOW_SECONDS = 5.0
"""Of the processor, so that a machine that is busy makes no findings."""

MEMORY_MB = 4096
"""What ends the run; torch alone takes a good part of it."""


@dataclass
class Watch:
    """Reads one input after the other, and keeps those that fail; each place once."""

    name: str
    read: Callable[[bytes, Path], None]
    work: Path
    out: Path
    deadline: float
    began: float = field(default_factory=time.monotonic)
    tried: int = 0
    places: dict[str, int] = field(default_factory=dict)

    def __call__(self, data: bytes) -> None:
        started, worked = time.monotonic(), time.process_time()
        try:
            self.read(data, self.work)
        except Exception as error:
            self.keep(place_of(error), data, traceback.format_exc())
        self.tried += 1
        if (spent := time.process_time() - worked) > SLOW_SECONDS:
            self.keep("slow", data, f"{spent:.1f} s")
        if started > self.deadline:
            self.end()

    def keep(self, place: str, data: bytes, told: str) -> None:
        self.places[place] = self.places.get(place, 0) + 1
        if self.places[place] == 1:
            self.out.mkdir(parents=True, exist_ok=True)
            file = self.out / f"{self.name}-{len(self.places)}"
            file.with_suffix(".input").write_bytes(data)
            file.with_suffix(".txt").write_bytes(f"{place}\n{told}".encode("utf-8", "replace"))
            print(f"finding: {place}", file=sys.stderr)

    def end(self) -> None:
        minutes = (time.monotonic() - self.began) / 60
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{self.name}: {self.tried:,} inputs in {minutes:.1f} minutes, {len(self.places)} findings, "
            f"{memory:,.0f} MiB at most",
            flush=True,
        )
        os._exit(1 if self.places else 0)  # libFuzzer has no way to come back from


def place_of(error: BaseException) -> str:
    """The kind of an error and the innermost line of this package."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{os.sep}sppnet{os.sep}" in frame.filename] or frames
    return f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno}"


def kernels() -> list[str]:
    """Modules with functions that numba or Triton compiles: those must stay as they are written."""
    package = Path(importlib.util.find_spec("sppnet").submodule_search_locations[0])
    return [
        ".".join(["sppnet", *path.relative_to(package).with_suffix("").parts])
        for path in package.rglob("*.py")
        if re.search(
            r"^\s*(import|from) (numba|triton|llvmlite|sppnet\.jit)", path.read_text("utf-8"), re.MULTILINE
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--longest", type=int, default=4096, help="bytes of an input, unless a seed has more")
    asked = parser.parse_args()
    import atheris
    from torch import _weights_only_unpickler

    with atheris.instrument_imports(["torch"]):  # the one module: the others are there already
        importlib.reload(_weights_only_unpickler)
    with atheris.instrument_imports(list(PACKAGES), kernels()):
        import reading_damaged
    warnings.simplefilter("error")
    reader = reading_damaged.READERS[asked.reader]
    with TemporaryDirectory() as name:
        work, seeds = Path(name, "work"), Path(name, "seeds")
        work.mkdir()
        seeds.mkdir()
        for number, data in enumerate(reader.seeds()):
            (seeds / str(number)).write_bytes(data)
        longest = max(asked.longest, *(path.stat().st_size for path in seeds.iterdir()))
        limits = [
            f"-artifact_prefix={name}/",
            f"-max_len={longest}",
            f"-rss_limit_mb={MEMORY_MB}",
            "-timeout=60",
        ]
        watch = Watch(asked.reader, reader.read, work, asked.out, time.monotonic() + 60 * asked.minutes)
        atheris.Setup([sys.argv[0], *limits, str(seeds)], watch)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
