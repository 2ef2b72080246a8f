"""Linear SVMs, one against the rest: `fit_svm` beside scikit-learn's LinearSVC, at the same objective.
By default it needs 8 GB, and minutes.

The vectors are made to be like a detector's: maxima of a ReLU's output, half of them 0, scaled to a mean
length of 20, with what tells the classes in a few directions, and noise. Loss, C and bias are those
of hard-negative mining. LinearSVC runs at liblinear's own default tolerance, 0.1, a thousandth of
scikit-learn's: that is the faster for it. Our objectives are at most 0.1 % above its own, which is checked.

Each fit runs in a process of its own. Its peak of memory, vectors included and what the libraries take
when they are loaded left out, is told beside the time.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from sppnet.arrays import Array
from sppnet.benchmark.results import Row, row_of, summarise
from sppnet.benchmark.subprocess_runner import peak_bytes, run_in_subprocess
from sppnet.errors import ConfigError, SppnetError
from sppnet.progress import NullProgress, Progress

Fits = list[dict[str, Any]]
Fit = Callable[[Array, Array], tuple[Array, Array]]

PEER = "sklearn.svm.LinearSVC, tol=0.1"
C, POSITIVE_WEIGHT, BIAS, NORM = 1e-3, 2.0, 10.0, 20.0
DIRECTIONS = 64
"""In which vectors differ by their class."""

ARRIVALS = 3
"""Times a tenth of the vectors arrives, with the SVMs of those before at hand."""

AGREEMENT = 1e-3
"""By how much our objectives may lie above the peer's, as a share. Lower ones cost us time alone."""

STRIP = 500
"""Vectors made at once."""


def run(
    vectors: Annotated[int, "Number of vectors to learn from."] = 20_000,
    length: Annotated[int, "Length of each vector."] = 12_800,
    classes: Annotated[int, "Number of classes, each against the rest."] = 20,
    rounds: Annotated[int, "Timed repetitions of each side."] = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Row]:
    """Time a fit from nothing, and refits as vectors arrive.

    vectors × length × 4 bytes are written to a temporary file; LinearSVC needs five times that.
    Raises SppnetError if our objectives are worse, ConfigError for sizes too small to learn from.
    """
    if vectors < 20 * classes or classes < 3 or length < 1 or rounds < 1:
        raise ConfigError(
            "needs 3 classes or more, 20 vectors a class, and 1 round or more; "
            f"got {classes} classes, {vectors} vectors of {length} and {rounds} rounds"
        )
    progress = progress or NullProgress()
    step = vectors // 10
    arriving = [vectors - turn * step for turn in range(ARRIVALS, -1, -1)]
    what = f"{vectors:,} × {length:,}, {classes} classes"
    cases = {
        f"{what}, from nothing": [vectors],
        f"{what}, refitted as {step:,} vectors arrive {ARRIVALS} times": arriving,
    }
    with tempfile.TemporaryDirectory(prefix="sppnet-benchmark-") as folder:
        _save(Path(folder), *draw(vectors, length, classes, seed))
        progress.begin("fitting", 2 * rounds * len(cases))
        return [_time(case, sizes, Path(folder), rounds, progress) for case, sizes in cases.items()]


def draw(vectors: int, length: int, classes: int, seed: int = 0) -> tuple[Array, Array]:
    """Vectors (n, d) float32 and labels (n,), every class among them."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((DIRECTIONS, length), np.float32) / np.float32(DIRECTIONS**0.5)
    planted = rng.standard_normal((DIRECTIONS, classes)) / DIRECTIONS**0.5
    rows, labels = np.empty((vectors, length), np.float32), np.empty(vectors, np.int64)
    for start in range(0, vectors, STRIP):
        part = rows[start : start + STRIP]
        hidden = rng.standard_normal((len(part), DIRECTIONS), np.float32)
        np.maximum(hidden @ mixing + rng.standard_normal(part.shape, np.float32), 0, out=part)
        scores = hidden @ planted + 0.5 * rng.standard_normal((len(part), classes))
        labels[start : start + STRIP] = scores.argmax(axis=1)
    labels[:classes] = np.arange(classes)
    rows *= NORM / np.sqrt(np.einsum("nd,nd->n", rows, rows)).mean()
    return rows, labels


def _save(folder: Path, rows: Array, labels: Array) -> None:
    np.save(folder / "rows.npy", rows)
    np.save(folder / "labels.npy", labels)


def _time(case: str, sizes: Sequence[int], folder: Path, rounds: int, progress: Progress) -> Row:
    """Both sides in turn, each in a new process."""
    runs: dict[str, Fits] = {"ours": [], "peer": []}
    for turn in range(rounds):
        for side in list(runs)[:: -1 if turn % 2 else 1]:
            runs[side].append(_fit_apart(side, sizes, folder))
            progress.advance(note=f"{side}, {case}")
    _require_agreement(runs)
    own, other = (summarise([fit["seconds"] for fit in runs[side]]) for side in runs)
    return row_of(
        case,
        PEER,
        own,
        other,
        min(fit["floor_s"] for fit in runs["ours"]),
        ours_bytes=max(fit["bytes"] for fit in runs["ours"]),
        peer_bytes=max(fit["bytes"] for fit in runs["peer"]),
    )


def _require_agreement(runs: dict[str, Fits]) -> None:
    ours, peer = (np.array(runs[side][0]["objectives"]) for side in ("ours", "peer"))
    above = float((ours / peer - 1).max())
    if not above <= AGREEMENT:
        raise SppnetError(f"the objective of fit_svm is {above:.2%} above that of {PEER}: nothing to compare")


def _fit_apart(side: str, sizes: Sequence[int], folder: Path) -> dict[str, Any]:
    """What `main` prints in a process of its own."""
    return run_in_subprocess(__name__, side, str(folder), *map(str, sizes))


# --- in a process of its own ---------------------------------------------------------------------


def main(side: str, folder: str, *sizes: str) -> None:
    """Fit the first vectors, as many as each size says; only refits count where there are several."""
    labels = np.load(Path(folder, "labels.npy"))
    classes = int(labels.max()) + 1
    fit: Fit = _Ours(classes).fit if side == "ours" else _Peer(classes).fit
    libraries = peak_bytes()
    rows = np.load(Path(folder, "rows.npy"))
    start = time.perf_counter()
    rows.sum(axis=1)
    floor_s = time.perf_counter() - start
    seconds, weights = [], (np.zeros(0), np.zeros(0))
    for size in map(int, sizes):
        start = time.perf_counter()
        weights = fit(rows[:size], labels[:size])
        seconds.append(time.perf_counter() - start)
    peak = peak_bytes() - libraries
    counted = seconds[1:] or seconds
    print(
        json.dumps(
            {
                "seconds": sum(counted),
                "floor_s": floor_s * len(counted),
                "bytes": max(peak, rows.nbytes),
                "objectives": _objectives(*weights, rows, labels).tolist(),
            }
        )
    )


class _Ours:
    """`fit_svm`, from where the fit before ended."""

    def __init__(self, classes: int) -> None:
        from sppnet.svm.linear_svm import fit_svm

        self.fit_svm, self.classes = fit_svm, tuple(map(str, range(classes)))
        self.dual: Array | None = None
        few = np.eye(4, dtype=np.float32)[np.arange(200) % 4]
        fit_svm(few, np.arange(200) % 4, loss="hinge")  # loads or compiles the kernels

    def fit(self, rows: Array, labels: Array) -> tuple[Array, Array]:
        svm = self.fit_svm(
            rows, labels, C=C, loss="hinge", class_weight=POSITIVE_WEIGHT, intercept_scaling=BIAS,
            classes=self.classes, start=self.dual,
        )  # fmt: skip
        assert svm.fit is not None
        self.dual = svm.fit.dual
        return svm.weight.numpy(), svm.bias.numpy()


class _Peer:
    """LinearSVC, which always begins anew."""

    def __init__(self, classes: int) -> None:
        from sklearn.svm import LinearSVC

        self.svm = LinearSVC(
            C=C, loss="hinge", class_weight=dict.fromkeys(range(classes), POSITIVE_WEIGHT),
            intercept_scaling=BIAS, tol=0.1, random_state=0,
        )  # fmt: skip

    def fit(self, rows: Array, labels: Array) -> tuple[Array, Array]:
        self.svm.fit(rows, labels)
        return self.svm.coef_, self.svm.intercept_


def _objectives(weight: Array, bias: Array, rows: Array, labels: Array) -> Array:
    """(k,) by the definition."""
    signs = np.where(labels[:, None] == np.arange(len(bias)), 1, -1)
    scores = rows @ weight.T.astype(np.float32) + bias
    costs = C * np.where(signs > 0, POSITIVE_WEIGHT, 1)
    lengths = (weight.astype(np.float64) ** 2).sum(axis=1) + (bias / BIAS) ** 2
    objectives: Array = 0.5 * lengths + (costs * np.maximum(1 - signs * scores, 0)).sum(axis=0)
    return objectives


if __name__ == "__main__":
    main(*sys.argv[1:])
