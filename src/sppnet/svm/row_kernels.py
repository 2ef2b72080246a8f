"""Dual coordinate descent for linear SVMs, all classes at once and a block of rows at a time.

A row of 12,800 floats is read from memory once a sweep for all classes, where one class after another
would read it as often as there are classes. A block's scores are made together, its dual variables
descend on the inner products of its rows (made once), and what that changed is added to the weights:
the same steps as one row after another takes, but with the arithmetic of matrix products.

Scores are `base`, exact for the weights at the last look, plus those of `change`, what was added to
the weights since: float32 is enough for `change`, however small the gap is to become, for the change
becomes small with it. A class never sees which others share its thread.
"""

from typing import NamedTuple

import numpy as np

from sppnet.arrays import Array
from sppnet.jit import compiled_parallel, inner, nb
from sppnet.svm.dot_products import add_four, add_one, dot_four, dot_four_exactly, dot_one
from sppnet.svm.gram_descent import shuffle

BLOCK = 4
"""Rows that are read together, always the same ones. More would need more sweeps: vectors of a network have a
large mean in common, and a block fits that to its own share of positives. To a gap of 0.1 %, 4,000 ×
3,200, 10 classes: blocks of 4 took 11 to 16 sweeps, of 16 14 to 20, of 64 30 to 41."""

CHUNK = 1024
"""Columns read together: four rows of them stay in the first-level cache while every class uses them."""

WAIT, START, DESCEND, LOOK = 0, 1, 2, 3
"""What a sweep does for a class: nothing, weights from dual variables, descent, exact scores."""


class Problem(NamedTuple):
    """What does not change during a fit."""

    rows: Array
    """(n, d) float32."""
    products: Array
    """(n, BLOCK) float32: of every row with each row of its own block."""
    signs: Array
    """(k, n) int8: 1, −1, and 0 for what a class does not use."""
    caps: Array
    """(k, 2): the greatest dual variable of a negative and of a positive."""
    ridges: Array
    """(k, 2): what the squared hinge adds to their curvature."""
    bias: float
    """The constant feature."""


class State(NamedTuple):
    """Where a fit stands."""

    alpha: Array
    """(k, n) float64 dual variables."""
    active: Array
    """(k, n) bool: what descends; the rest stands at a bound and is left out (shrinking)."""
    weights: Array
    """(k, d) float64 at the last look."""
    base: Array
    """(k, n) float64 scores by `weights`, without bias."""
    change: Array
    """(k, d) float32: what is to be added to `weights`."""
    bias: Array
    """(k,) weights of the constant feature."""
    bounds: Array
    """(k, 2) the highest and lowest projected gradient of the sweep before: beyond them rows leave."""
    tallies: Array
    """(k, 4) of the sweep: highest and lowest projected gradient, duality gap, growth of the dual."""


@compiled_parallel
def multiply_blocks(rows: Array) -> Array:
    """(n, d) → (n, BLOCK) inner products of every row with each row of its own block."""
    products = np.zeros((len(rows), BLOCK), np.float32)
    for block in nb.prange((len(rows) + BLOCK - 1) // BLOCK):
        first = block * BLOCK
        _multiply_block(rows[first : first + BLOCK], products[first : first + BLOCK])
    return products


@inner
def _multiply_block(rows: Array, products: Array) -> None:
    last = len(rows) - 1
    for low in range(0, rows.shape[1], CHUNK):
        high = min(low + CHUNK, rows.shape[1])
        for i in range(len(rows)):
            for j in range(0, i + 1, 4):  # beyond the diagonal, or the last row, they are written over
                sums = dot_four(
                    rows, j, min(j + 1, last), min(j + 2, last), min(j + 3, last), rows, i, low, high
                )
                for q in range(4):
                    products[i, j + q] += sums[q]
    for i in range(len(rows)):
        for j in range(i):
            products[j, i] = products[i, j]


@compiled_parallel
def sweep(
    problem: Problem, state: State, tasks: Array, classes: Array, blocks: Array, parts: int, seed: int
) -> None:
    """Once over all rows. tasks (k,): what to do for each class; classes: those that do not wait.

    A thread takes every `parts`-th class; all classes see the blocks in the same order.
    """
    for part in nb.prange(parts):
        mine = classes[part::parts]
        if len(mine) > 0:
            _sweep_some(problem, state, tasks, mine, blocks, seed)


@inner
def _sweep_some(
    problem: Problem, state: State, tasks: Array, classes: Array, blocks: Array, seed: int
) -> None:
    n = len(problem.rows)
    picks = np.zeros((len(classes), BLOCK), np.int64)
    counts = np.zeros(len(classes), np.int64)
    scores = np.zeros((len(classes), BLOCK))
    steps = np.zeros((len(classes), BLOCK), np.float32)
    row_scores = np.zeros(BLOCK)
    random = np.zeros(1, np.uint64)
    for block in blocks:
        first = block * BLOCK
        rows = problem.rows[first : first + BLOCK]
        for c in range(len(classes)):
            counts[c] = _pick(state, classes[c], tasks[classes[c]], first, min(BLOCK, n - first), picks[c])
        _score(rows, state, tasks, classes, picks, counts, scores)
        for c in range(len(classes)):
            k = classes[c]
            if tasks[k] == START:
                counts[c] = _take_all(problem, state, k, first, len(rows), picks[c], steps[c])
            elif tasks[k] == LOOK:
                for r in range(len(rows)):  # as one assignment of arrays it takes seconds to compile
                    state.base[k, first + r] = scores[c, r]
                counts[c] = 0
            elif counts[c] > 0:
                random[0] = np.uint64(seed + block)
                counts[c] = _descend(
                    problem, state, k, first, picks[c], counts[c], scores[c], steps[c], row_scores, random
                )
        _apply(rows, state, classes, picks, counts, steps)


@inner
def _pick(state: State, k: int, task: int, first: int, size: int, picks: Array) -> int:
    """The rows of a block whose scores are wanted, by their place in it; the last is repeated."""
    count = 0
    for r in range(size):
        if task == LOOK or (task == DESCEND and state.active[k, first + r]):
            picks[count] = r
            count += 1
    if count > 0:
        picks[count:] = picks[count - 1]
    return count


@inner
def _score(
    rows: Array, state: State, tasks: Array, classes: Array, picks: Array, counts: Array, scores: Array
) -> None:
    """scores (classes, picks): by `change`, or by `weights` where a class takes a look."""
    scores[:] = 0.0
    for low in range(0, rows.shape[1], CHUNK):
        high = min(low + CHUNK, rows.shape[1])
        for c in range(len(classes)):
            k = classes[c]
            i, j, m, o = picks[c, 0], picks[c, 1], picks[c, 2], picks[c, 3]
            if tasks[k] == LOOK:
                sums = dot_four_exactly(rows, i, j, m, o, state.weights, k, low, high)
                for q in range(4):
                    scores[c, q] += sums[q]
            elif counts[c] > 1:
                near = dot_four(rows, i, j, m, o, state.change, k, low, high)
                for q in range(4):
                    scores[c, q] += near[q]
            elif counts[c] == 1:
                scores[c, 0] += dot_one(rows, i, state.change, k, low, high)


@inner
def _take_all(
    problem: Problem, state: State, k: int, first: int, size: int, picks: Array, steps: Array
) -> int:
    """What the dual variables of a block add to the weights of nothing."""
    count = 0
    for r in range(size):
        step = state.alpha[k, first + r] * problem.signs[k, first + r]
        if step != 0.0:
            picks[count], steps[count] = r, step
            state.bias[k] += step * problem.bias
            count += 1
    return count


@inner
def _descend(
    problem: Problem, state: State, k: int, first: int, picks: Array, count: int, picked: Array, steps: Array,
    scores: Array, random: Array,
) -> int:  # fmt: skip
    """Descent within a block; gives how many rows moved: those stand first in `picks`, with their steps."""
    bias, square = problem.bias * state.bias[k], problem.bias * problem.bias
    size = min(BLOCK, len(problem.rows) - first)
    for p in range(count):
        scores[picks[p]] = state.base[k, first + picks[p]] + picked[p] + bias
    shuffle(picks, count, random)
    moved = 0
    for p in range(count):
        r = picks[p]
        i = first + r
        sign = problem.signs[k, i]
        side = 1 if sign > 0 else 0
        cap, ridge, alpha = problem.caps[k, side], problem.ridges[k, side], state.alpha[k, i]
        gradient = sign * scores[r] - 1.0 + ridge * alpha
        low, high = alpha <= 0.0, alpha >= cap
        if (low and gradient > state.bounds[k, 0]) or (high and gradient < state.bounds[k, 1]):
            state.active[k, i] = False
            continue
        _tally(state.tallies[k], gradient, alpha, cap, ridge)
        if abs(gradient) <= 1e-12 or (low and gradient > 0.0) or (high and gradient < 0.0):
            continue
        curvature = problem.products[i, r] + square + ridge
        state.alpha[k, i] = min(max(alpha - gradient / curvature, 0.0), cap)
        step = state.alpha[k, i] - alpha
        state.tallies[k, 3] -= step * (gradient + 0.5 * step * curvature)
        for other in range(size):
            scores[other] += step * sign * (problem.products[i, other] + square)
        state.bias[k] += step * sign * problem.bias
        picks[moved], steps[moved] = r, step * sign
        moved += 1
    return moved


@inner
def _tally(tallies: Array, gradient: float, alpha: float, cap: float, ridge: float) -> None:
    """What a row adds to the gap: its loss, and alpha times how far it is from its place."""
    low, high = alpha <= 0.0, alpha >= cap
    if not ((low and gradient > 0.0) or (high and gradient < 0.0)):
        tallies[0], tallies[1] = max(tallies[0], gradient), min(tallies[1], gradient)
    short = max(ridge * alpha - gradient, 0.0)
    loss = 0.5 / ridge * short * short if ridge > 0.0 else cap * short
    tallies[2] += alpha * gradient + loss - 0.5 * ridge * alpha * alpha


@inner
def _apply(rows: Array, state: State, classes: Array, picks: Array, counts: Array, steps: Array) -> None:
    """Add to `change` what moved: counts (classes,) rows of each, with their steps."""
    for c in range(len(classes)):
        count = counts[c]
        if count > 0:
            picks[c, count:] = picks[c, count - 1]
            steps[c, count:] = 0.0
    for low in range(0, rows.shape[1], CHUNK):
        high = min(low + CHUNK, rows.shape[1])
        for c in range(len(classes)):
            if counts[c] > 1:
                add_four(rows, picks[c], steps[c], state.change, classes[c], low, high)
            elif counts[c] == 1:
                add_one(rows, picks[c, 0], steps[c, 0], state.change, classes[c], low, high)
