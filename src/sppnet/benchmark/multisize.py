"""Multi-size training: a network without a pyramid, with one, and trained at several sizes, by seeds.

Every row has as many updates. A run that is finished is not repeated, and one that was stopped goes on. The
model tested is that of the last epoch, which no look at the validation images has chosen.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from sppnet.benchmark.paired import Paired, compare_paired, spread_of
from sppnet.classify.classifier import Classifier
from sppnet.classify.config import TrainingConfig
from sppnet.classify.evaluate import evaluate
from sppnet.classify.run_folder import RunFolder
from sppnet.classify.sgd import CACHE_BYTES
from sppnet.classify.train import train
from sppnet.data.folder import split_folder
from sppnet.data.loader import ImageCache
from sppnet.errors import ConfigError
from sppnet.nn.model_file import write_file
from sppnet.progress import NullProgress, Progress

LEVELS, FEW_LEVELS = (1, 2, 3, 6), (1, 2, 3, 4)
"""Of 50 bins, and of 30, which are fewer than the 6×6 of a network without a pyramid, as are its weights."""
COLUMNS = ("crop", "small crop", "full", "10", "96")
FIXED_COLUMNS = ("crop", "10", "96")
"""Of the network without a pyramid, which takes one size."""
SCALE_PX = 256
"""The paper's: a view is 7/8 of the shorter side. In training it is a square anywhere, not one of five."""


@dataclass(frozen=True)
class Regime:
    """How a row is trained."""

    name: str
    levels: tuple[int, ...] | None
    sizes: str

    @property
    def folder(self) -> str:
        bins = "-of-30" if self.levels == FEW_LEVELS else ""
        return f"{'fixed' if self.levels is None else 'pyramid'}{bins}-{self.sizes.replace(':', '-to-')}"


@dataclass(frozen=True, kw_only=True)
class MultisizeRow:
    """One trunk, trained one way, over the seeds."""

    trunk: str
    training: str
    seeds: tuple[int, ...]
    top1: Mapping[str, tuple[float, ...]]
    """By column, for each seed; a column is missing where the network cannot be shown that."""
    epochs: int
    updates: int
    minutes: tuple[float, ...]
    """Of training, for each seed."""
    command: str
    """What trains the first seed by itself."""

    def to_json(self) -> dict[str, Any]:
        spread = {name: spread_of(values) for name, values in self.top1.items()}
        return {**asdict(self), "mean": {name: mean for name, (mean, _) in spread.items()},
                "deviation": {name: deviation for name, (_, deviation) in spread.items()}}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two rows on the views of one column."""

    trunk: str
    column: str
    better: str
    """The row that the paper finds better."""
    than: str
    paired: Paired


@dataclass(frozen=True, kw_only=True)
class MultisizeResult:
    data: str
    images: int
    tested: int
    rows: tuple[MultisizeRow, ...]
    comparisons: tuple[Comparison, ...]
    test_commands: Mapping[str, str]
    """By column; RUN stands for a run's folder."""

    def to_json(self) -> dict[str, Any]:
        return {"benchmark": "multisize", **asdict(self), "rows": [row.to_json() for row in self.rows]}


def run(
    data: Annotated[Path | None, "A folder of class folders, as classify train takes."] = None,
    out: Annotated[Path | None, "Where the runs are kept, a folder each."] = None,
    trunks: Annotated[Sequence[str], "The paper's trunks, with commas between."] = ("zf5",),
    width: Annotated[float, "Multiplies their channels."] = 0.125,
    seeds: Annotated[tuple[int, ...], "A run of every row for each."] = (0, 1, 2),
    sizes: Annotated[tuple[int, int], "The large and the small training size."] = (128, 104),
    epochs: Annotated[int, "Passes over the images, in every row."] = 30,
    batch_size: Annotated[int, "Images of a step."] = 16,
    learning_rate: Annotated[float, "At the start; half a cosine to zero."] = 0.003,
    dropout: Annotated[float, "Of fc6 and fc7."] = 0.2,
    columns: Annotated[Sequence[str], "What to test on: crop, small crop, full, 10, 96."] = COLUMNS,
    workers: Annotated[int, "Threads that read images."] = 2,
    progress: Progress | None = None,
) -> MultisizeResult:
    """Train and test what is not there yet, the rows of one seed after those of another.

    Raises ConfigError for nothing to do, or a folder with runs of other settings.
    """
    _check(data, out, seeds, sizes, columns)
    assert data is not None
    assert out is not None
    progress, cache = progress or NullProgress(), ImageCache(CACHE_BYTES)
    recipe = {
        "width": width, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate,
        "dropout": dropout, "crop": "random", "schedule": "cosine", "workers": workers, "scale_px": SCALE_PX,
    }  # fmt: skip
    regimes, tests = _regimes(*sizes), {name: _tests(*sizes)[name] for name in columns}
    runs = [
        _Run(data, out, trunk, regime, seed, recipe)
        for seed in seeds
        for trunk in trunks
        for regime in regimes
    ]
    found = {(one.trunk, one.regime.name, one.seed): one.measure(tests, cache, progress) for one in runs}
    train_images, val_images = split_folder(data, seed=seeds[0])
    rows = [
        _row(next(each for each in runs if (each.trunk, each.regime) == (trunk, regime)),
             {seed: found[trunk, regime.name, seed] for seed in seeds}, columns, len(train_images))
        for trunk in trunks for regime in regimes
    ]  # fmt: skip
    return MultisizeResult(
        data=str(data), images=len(train_images), tested=len(val_images), rows=tuple(rows),
        comparisons=tuple(_comparisons(rows, columns)),
        test_commands={name: _test_command(data, overrides) for name, overrides in tests.items()},
    )  # fmt: skip


def _check(
    data: Path | None, out: Path | None, seeds: Sequence[int], sizes: tuple[int, int], columns: Sequence[str]
) -> None:
    if data is None or out is None:
        raise ConfigError(
            "name the photographs and a folder, as sppnet benchmark multisize DATA --out FOLDER"
        )
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"give one seed or more, each once; got {seeds}")
    if not 0 < sizes[1] < sizes[0]:
        raise ConfigError(
            f"sizes are a large one and a smaller one, such as 128,104; got {sizes[0]},{sizes[1]}"
        )
    if odd := [name for name in columns if name not in COLUMNS]:
        raise ConfigError(f"columns are {', '.join(COLUMNS)}; got {', '.join(odd)}")


def _regimes(large: int, small: int) -> tuple[Regime, ...]:
    """The first is what the next two are compared with, the second what the last two are."""
    return (
        Regime(f"no pyramid, {large}", None, f"{large}"),
        Regime(f"pyramid, {large}", LEVELS, f"{large}"),
        Regime(f"pyramid of 30 bins, {large}", FEW_LEVELS, f"{large}"),
        Regime(f"pyramid, {large} and {small} in turn", LEVELS, f"{large},{small}"),
        Regime(f"pyramid, {small} to {large}", LEVELS, f"{small}:{large}"),
    )


def _tests(large: int, small: int) -> dict[str, dict[str, Any]]:
    """By column, fields of `Testing`; whole images are scaled as the crops of training are."""
    return {
        "crop": {"views": "crop", "size_px": large},
        "small crop": {"views": "crop", "size_px": small},
        "full": {"views": "full", "scale_px": SCALE_PX * large // 224},
        "10": {"views": "10", "size_px": large},
        "96": {"views": "96", "size_px": large},
    }


# --- a run ---------------------------------------------------------------------------------------


class _Run:
    """One seed of a row, and its folder."""

    def __init__(
        self, data: Path, out: Path, trunk: str, regime: Regime, seed: int, recipe: Mapping[str, Any]
    ) -> None:
        self.data, self.trunk, self.regime, self.seed = data, trunk, regime, seed
        self.folder = RunFolder(out / trunk / regime.folder / f"seed-{seed}")
        self.config = TrainingConfig(
            trunk=trunk, levels=regime.levels, sizes=regime.sizes, seed=seed, device="cpu", **recipe
        )

    @property
    def scores(self) -> Path:
        """Beside the models: the configuration, and top-1 by column."""
        return self.folder.root / "top1.json"

    def measure(
        self, tests: Mapping[str, dict[str, Any]], cache: ImageCache, progress: Progress
    ) -> dict[str, Any]:
        """{"top1": by column, "minutes": of training}; trains and tests what is missing, no more."""
        known = self._read()
        if known is None:
            train(self.data, self.folder.root, self.config, resume=True, progress=progress, cache=cache)
            known = self._write({}, self._minutes())
        top1 = dict(known["top1"])
        wanted = [name for name in tests if self.config.levels is not None or name in FIXED_COLUMNS]
        missing = [name for name in wanted if name not in top1]
        if missing:
            classifier = Classifier.load(self.folder.last)
            images = split_folder(self.data, seed=self.seed)[1]
            for name in missing:
                top1[name] = evaluate(classifier, images, progress, **tests[name]).top1
                known = self._write(top1, known["minutes"])
        return known

    def _read(self) -> dict[str, Any] | None:
        """What is known of this run; None before it is trained. Other settings are found by training."""
        if not self.scores.exists():
            return None
        known: dict[str, Any] = json.loads(self.scores.read_text())
        return known if known["config"] == self._described() else None

    def _write(self, top1: Mapping[str, float], minutes: float) -> dict[str, Any]:
        known = {"config": self._described(), "top1": dict(top1), "minutes": minutes}
        write_file(self.scores, (json.dumps(known, indent=2) + "\n").encode())
        return known

    def _described(self) -> dict[str, Any]:
        """Without what changes the speed alone."""
        return {
            name: value for name, value in self.config.to_json().items() if name not in ("workers", "device")
        }

    def _minutes(self) -> float:
        header, *lines = self.folder.metrics.read_text().splitlines()
        place = header.split(",").index("seconds")
        return sum(float(line.split(",")[place]) for line in lines) / 60

    def command(self) -> str:
        """What a person types to train this run alone."""
        usual = {field.name: field.default for field in fields(TrainingConfig)}
        names = {"scale_px": "scale", "workers": None}
        words = [f"sppnet classify train {self.data} --out {self.folder.root}"]
        for name, value in self.config.to_json().items():
            option = names.get(name, name.replace("_", "-"))
            if option is not None and (value != usual[name] and value != [*LEVELS]):
                words.append(f"--{option} {_written(value)}")
        return " ".join(words)


def _written(value: Any) -> str:
    """As an option takes it."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)


def _test_command(data: Path, overrides: Mapping[str, Any]) -> str:
    options = " ".join(f"--{name.removesuffix('_px')} {value}" for name, value in overrides.items())
    return f"sppnet classify evaluate {data} --model RUN/last.safetensors {options}"


# --- rows ----------------------------------------------------------------------------------------


def _row(
    first: _Run, found: Mapping[int, Mapping[str, Any]], columns: Iterable[str], images: int
) -> MultisizeRow:
    known = list(found.values())
    top1 = {name: tuple(each["top1"][name] for each in known) for name in columns if name in known[0]["top1"]}
    config = first.config
    return MultisizeRow(
        trunk=first.trunk, training=first.regime.name, seeds=tuple(found), top1=top1, epochs=config.epochs,
        updates=config.epochs * math.ceil(images / config.batch_size),
        minutes=tuple(each["minutes"] for each in known), command=first.command(),
    )  # fmt: skip


def _comparisons(rows: Sequence[MultisizeRow], columns: Sequence[str]) -> Iterable[Comparison]:
    """Of every trunk: the pyramid with none, and several sizes with one, column by column."""
    for trunk in dict.fromkeys(row.trunk for row in rows):
        fixed, single, few, *several = [row for row in rows if row.trunk == trunk]
        for better, than in [(single, fixed), (few, fixed), *((each, single) for each in several)]:
            for name in columns:
                if name in better.top1 and name in than.top1:
                    yield Comparison(
                        trunk=trunk, column=name, better=better.training, than=than.training,
                        paired=compare_paired(better.top1[name], than.top1[name]),
                    )  # fmt: skip
