"""Accuracy against seconds of training: ours and fine-tuned detectors of torchvision, from the same weights.

Every training is a process of its own with an empty cache. A run that is finished is not repeated.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from sppnet.benchmark.finetuned_peers import RECIPES
from sppnet.benchmark.learning_run import MAPS, RUN, Learned, LearningJob
from sppnet.benchmark.paired import spread_of
from sppnet.benchmark.subprocess_runner import run_in_subprocess
from sppnet.data.detection_dataset import default_split, open_annotated
from sppnet.errors import ConfigError, MissingExtraError, SppnetError
from sppnet.nn.model_file import write_file
from sppnet.progress import NullProgress, Progress, track
from sppnet.report.plots import Curve, draw_curves

OURS, OURS_ONNX = "sppnet", "sppnet-onnx"
LEARNERS = (OURS, *RECIPES)
PLOT = "learn.png"
LEARNING_RUN = "sppnet.benchmark.learning_run"
PARTS = RUN, MAPS
"""Of a job's folder, beside what was measured."""


@dataclass(frozen=True, kw_only=True)
class LearnRow:
    """One learner and one time, over the seeds."""

    learner: str
    trunk: str
    seconds: float | None
    """That were given; None for a training that takes the time it needs."""
    seeds: tuple[int, ...]
    map: tuple[float, ...]
    """VOC 2007, 11 points; for each seed, as all that follow."""
    map_50_95: tuple[float, ...]
    train_s: tuple[float, ...]
    detect_s: tuple[float, ...]
    peak_bytes: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        mean, deviation = spread_of(self.map)
        return {**asdict(self), "map_mean": mean, "map_deviation": deviation}


@dataclass(frozen=True, kw_only=True)
class LearnResult:
    data: str
    split: str
    test_split: str
    images: int
    tested: int
    rows: tuple[LearnRow, ...]
    plot: str | None
    """The file of the figure; None without the plots extra."""

    def to_json(self) -> dict[str, Any]:
        return {"benchmark": "learn", **asdict(self), "rows": [row.to_json() for row in self.rows]}


def run(
    data: Annotated[Path | None, "Annotated photographs: a VOC, COCO or YOLO folder or file."] = None,
    out: Annotated[Path | None, "Where runs and figure are kept."] = None,
    seconds: Annotated[tuple[int, ...], "Times that each learner is given."] = (15, 60, 150, 600),
    learners: Annotated[Sequence[str], "Of sppnet, ssdlite and fasterrcnn, with commas between."] = LEARNERS,
    seeds: Annotated[tuple[int, ...], "A run of each for each."] = (0,),
    split: Annotated[str | None, "What to learn from. By default trainval or train."] = None,
    test_split: Annotated[str | None, "What to test on. By default test or val."] = None,
    trunk: Annotated[str, "Of sppnet."] = "efficientnet_lite1:6+8",
    peer_trunk: Annotated[
        str, "Of the others, with maps at strides 8, 16 and 32."
    ] = "efficientnet_lite1:4+6+8",
    weights: Annotated[str, "Of both trunks: imagenet, or a file."] = "imagenet",
    onnx: Annotated[
        Path | None,
        "The ONNX file of a detector, as sppnet's trunk in one row more, without a limit of time.",
    ] = None,
    progress: Progress | None = None,
) -> LearnResult:
    """Train and test what is not there yet, seed by seed, and draw the curves.

    Raises ConfigError for nothing to do or a folder with runs of other settings, DataError for what cannot be
    read, SppnetError with the last words of a training that failed.
    """
    _check(data, out, seconds, learners, seeds)
    assert data is not None
    assert out is not None
    split = split or _split_of(data, ("trainval", "train"))
    test_split = test_split or _split_of(data, ("test", "val"))
    images, tested = open_annotated(data, split), open_annotated(data, test_split)

    def job(learner: str, given: float | None, seed: int) -> LearningJob:
        of_trunk = {OURS: (trunk, weights), OURS_ONNX: (str(onnx), None)}
        name, own = of_trunk.get(learner, (peer_trunk, weights))
        folder = out / (learner if given is None else f"{learner}-{given:g}s") / f"seed-{seed}"
        return LearningJob(
            data=str(data), split=split, test_split=test_split, learner=learner, trunk=name, weights=own,
            seconds=given, seed=seed, out=str(folder),
        )  # fmt: skip

    cases: list[tuple[str, float | None]] = [(name, given) for name in learners for given in sorted(seconds)]
    if onnx is not None:
        cases.append((OURS_ONNX, None))
    jobs = [job(*case, seed) for seed in seeds for case in cases]
    found = {one: _measure(one) for one in track(jobs, "learning", len(jobs), progress or NullProgress())}
    rows = [_row([job(*case, seed) for seed in seeds], found) for case in cases]
    return LearnResult(
        data=str(data), split=split, test_split=test_split, images=len(images), tested=len(tested),
        rows=tuple(rows), plot=_draw(rows, out / PLOT),
    )  # fmt: skip


def _check(
    data: Path | None, out: Path | None, seconds: Sequence[int], learners: Sequence[str], seeds: Sequence[int]
) -> None:
    if data is None or out is None:
        raise ConfigError("name the photographs and a folder, as sppnet benchmark learn DATA --out FOLDER")
    if not seconds or min(seconds) < 1:
        raise ConfigError(f"seconds are one time or more, of a second or more; got {seconds}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"give one seed or more, each once; got {seeds}")
    if (odd := [name for name in learners if name not in LEARNERS]) or not learners:
        raise ConfigError(f"learners are {', '.join(LEARNERS)}; got {', '.join(odd) or 'none'}")


def _split_of(data: Path, wanted: tuple[str, ...]) -> str:
    split = default_split(data, wanted)
    if split is None:
        raise ConfigError(f"{data} has no splits; one to learn from and another to test on are needed")
    return split


def _measure(job: LearningJob) -> Learned:
    """What is known of the job, which is done where nothing is; raises ConfigError where another was done."""
    folder, described = Path(job.out), {name: value for name, value in asdict(job).items() if name != "out"}
    file = folder / "learned.json"
    if file.exists():
        known = json.loads(file.read_text())
        if odd := [name for name, value in described.items() if known["job"].get(name) != value]:
            was = ", ".join(f"{name} was {known['job'].get(name)}" for name in odd)
            raise ConfigError(f"{folder} was learned with other settings: {was}; choose another --out")
        return Learned(**known["learned"])
    for part in PARTS:  # of a run that was stopped
        shutil.rmtree(folder / part, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        learned = run_in_subprocess(LEARNING_RUN, json.dumps(asdict(job)))
    except RuntimeError as error:
        raise SppnetError(f"{folder}: {str(error).splitlines()[-1]}") from error
    shutil.rmtree(folder / MAPS, ignore_errors=True)
    write_file(file, (json.dumps({"job": described, "learned": learned}, indent=2) + "\n").encode())
    return Learned(**learned)


def _row(jobs: Sequence[LearningJob], found: dict[LearningJob, Learned]) -> LearnRow:
    """Of jobs that differ in their seed alone."""
    first, each = jobs[0], [found[job] for job in jobs]
    return LearnRow(
        learner=first.learner, trunk=first.trunk, seconds=first.seconds,
        seeds=tuple(job.seed for job in jobs),
        map=tuple(one.map for one in each), map_50_95=tuple(one.map_50_95 for one in each),
        train_s=tuple(one.train_s for one in each),
        detect_s=tuple(one.detect_s for one in each), peak_bytes=tuple(one.peak_bytes for one in each),
    )  # fmt: skip


def _draw(rows: Sequence[LearnRow], path: Path) -> str | None:
    """A curve a learner, over the seconds that its trainings took."""
    names = dict.fromkeys(row.learner for row in rows)

    def curves(values: Callable[[LearnRow], Sequence[float]]) -> list[Curve]:
        found = []
        for name in names:
            own = [row for row in rows if row.learner == name]
            x = [spread_of(row.train_s)[0] for row in own]
            found.append(Curve(name, x, [100 * spread_of(values(row))[0] for row in own]))
        return found

    panels = {
        "mAP, IoU 0.5, %": curves(lambda row: row.map),
        "mAP, mean of IoU 0.5 to 0.95, %": curves(lambda row: row.map_50_95),
    }
    ticks = sorted({row.seconds for row in rows if row.seconds is not None})
    try:
        draw_curves(panels, path, "seconds of training", ticks)
    except MissingExtraError:
        return None
    return str(path)
