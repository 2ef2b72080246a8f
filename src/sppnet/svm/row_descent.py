"""A fit as sweeps over the rows: after each, what every class does in the next.

A class descends until the sum of what its rows added to the duality gap, each when it was visited, is
small; then a sweep scores all its rows exactly, those left out too, and the gap is known. Looks take
part in the sweeps of the others, so that rows are read once for both.
"""

import numpy as np

from sppnet.arrays import Array
from sppnet.jit import kernel_running, thread_count
from sppnet.progress import Progress
from sppnet.svm import row_kernels
from sppnet.svm.objective import FitOptions
from sppnet.svm.row_kernels import DESCEND, LOOK, START, WAIT, Problem, State

PATIENCE = 30
"""Sweeps after which a look is due, whatever the estimate: `change` may have become large beside what is
still to be gained, and its rounding with it."""

SLACK = 0.5
"""Tighten the threshold by this factor after a failed exact check."""


class Fit:
    """k classes on their way; `run` takes them to the end."""

    def __init__(self, rows: Array, signs: Array, options: FitOptions, dual: Array) -> None:
        """rows (n, d) float32, signs (k, n) int8; dual (k, n) to begin at is written over."""
        k = len(signs)
        caps, ridges = options.caps_and_ridges(k)
        with kernel_running():
            products = row_kernels.multiply_blocks(rows)
        self.options = options
        self.problem = Problem(rows, products, signs, caps, ridges, options.intercept_scaling)
        np.clip(dual, 0, np.where(signs > 0, caps[:, 1:], caps[:, :1]), out=dual)
        self.state = _begin(signs, rows.shape[1], dual)
        self.tasks = np.where(dual.any(axis=1), START, DESCEND)
        self.sweeps = np.zeros(k, np.int64)
        self.objective, self.gap, self.dual = np.zeros(k), np.ones(k), np.zeros(k)
        self.wanted = np.full(k, options.tolerance)
        self.looked = np.zeros(k, np.int64)  # sweeps at the last look
        self.random = np.random.default_rng(options.seed)

    def run(self, progress: Progress) -> None:
        """Sweep until every class is done; progress is told of each."""
        reported = 0
        while len(classes := np.flatnonzero(self.tasks != WAIT)):
            self._sweep(classes)
            for k in classes.tolist():
                self._judge(k)
            done = int(np.count_nonzero(self.tasks == WAIT))
            progress.advance(done - reported)
            reported = done

    def _sweep(self, classes: Array) -> None:
        self.state.tallies[:] = -np.inf, np.inf, 0.0, 0.0
        count = -(-len(self.problem.rows) // row_kernels.BLOCK)
        order, seed = self.random.permutation(count), int(self.random.integers(1 << 62))
        with kernel_running():
            row_kernels.sweep(self.problem, self.state, self.tasks, classes, order, thread_count(), seed)

    def _judge(self, k: int) -> None:
        """What class k does next, by what the sweep found."""
        if self.tasks[k] == LOOK:
            self._measure(k)
            done = self.gap[k] <= self.options.tolerance or self.sweeps[k] >= self.options.max_iter
            self.tasks[k] = WAIT if done else DESCEND
        elif self.tasks[k] == START or self._seems_done(k):
            self.tasks[k] = LOOK
            self.state.weights[k] += self.state.change[k]
            self.state.change[k] = 0

    def _seems_done(self, k: int) -> bool:
        highest, lowest, gap, growth = self.state.tallies[k]
        self.state.bounds[k] = highest if highest > 0 else np.inf, lowest if lowest < 0 else -np.inf
        self.dual[k] += growth
        self.sweeps[k] += 1
        due = min(self.looked[k] + PATIENCE, self.options.max_iter)
        return bool(gap <= self.wanted[k] * (self.dual[k] + gap) or self.sweeps[k] >= due)

    def _measure(self, k: int) -> None:
        """The objective, and how far above the least possible it may lie; all rows take part again."""
        problem, state = self.problem, self.state
        sign, alpha, side = problem.signs[k], state.alpha[k], (problem.signs[k] > 0).astype(np.int64)
        ridge, cap = problem.ridges[k][side], problem.caps[k][side]
        margin = sign * (state.base[k] + problem.bias * state.bias[k])
        short = np.where(sign != 0, np.maximum(1 - margin, 0), 0)
        squared = self.options.loss == "squared_hinge"
        losses = (0.5 / ridge * short**2 if squared else cap * short).sum()
        half = 0.5 * (alpha * margin).sum()
        self.objective[k] = half + losses
        self.dual[k] = (alpha * (1 - 0.5 * ridge * alpha)).sum() - half
        gap = self.objective[k] - self.dual[k]
        self.gap[k] = gap / self.objective[k] if self.objective[k] > 0 else 0.0
        if self.sweeps[k] < self.looked[k] + PATIENCE:
            self.wanted[k] *= SLACK
        self.looked[k] = self.sweeps[k]
        state.active[k] = sign != 0
        state.bounds[k] = np.inf, -np.inf


def _begin(signs: Array, length: int, dual: Array) -> State:
    """No weights yet, and every row that a class uses in the descent."""
    k, n = signs.shape
    return State(
        alpha=dual,
        active=signs != 0,
        weights=np.zeros((k, length)),
        base=np.zeros((k, n)),
        change=np.zeros((k, length), np.float32),
        bias=np.zeros(k),
        bounds=np.tile([np.inf, -np.inf], (k, 1)),
        tallies=np.zeros((k, 4)),
    )
