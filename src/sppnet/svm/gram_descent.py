"""Dual coordinate descent for linear SVMs on a Gram matrix, compiled: a class a task.

table (n, n): the Gram matrix      sign (n,): 1, −1, 0 of one class      alpha (n,): its dual variables
state (n + 1,): the sum of alpha·sign·table so far, which is every score without its bias, and last
that of alpha·sign·intercept_scaling.
"""

import numpy as np

from sppnet.arrays import Array
from sppnet.jit import compiled_parallel, inner, inner_sum, nb

FIRST_SPREAD = 0.1
"""The first spread of projected gradients that is small enough to look at the duality gap."""

SPREAD_FACTOR = 0.3
"""By how much the spread must fall before the gap is looked at again."""


@inner_sum
def _add(row: Array, step: float, state: Array) -> None:
    for j in range(len(row)):
        state[j] += step * np.float64(row[j])


@inner_sum
def _square(row: Array) -> float:
    total = 0.0
    for j in range(len(row)):
        total += np.float64(row[j]) * np.float64(row[j])
    return total


@compiled_parallel
def squares_of(rows: Array) -> Array:
    squares = np.empty(len(rows))
    for i in nb.prange(len(rows)):
        squares[i] = _square(rows[i])
    return squares


@compiled_parallel
def solve(
    table: Array, signs: Array, costs: Array, squared: bool, bias: float,
    dual: Array, seed: int, tolerance: float, max_iter: int, report: Array,
) -> None:  # fmt: skip
    """A task is one class. report (k, 3): objective, gap as a share of it, sweeps."""
    for k in nb.prange(len(signs)):
        _solve_class(
            table, signs[k], costs[k], squared, bias, dual[k], seed + k,
            tolerance, max_iter, report[k],
        )  # fmt: skip


@inner
def _solve_class(
    table: Array, sign: Array, costs: Array, squared: bool, bias: float,
    alpha: Array, seed: int, tolerance: float, max_iter: int, report: Array,
) -> None:  # fmt: skip
    """Descends until the projected gradients are close to each other, looks at the gap, and so on."""
    used = np.flatnonzero(sign)
    n = len(table)
    caps, ridge = np.empty(n), np.empty(n)
    for i in used:
        cost = costs[1] if sign[i] > 0 else costs[0]
        caps[i], ridge[i] = (np.inf, 0.5 / cost) if squared else (cost, 0.0)
        alpha[i] = min(max(alpha[i], 0.0), caps[i])
    state = np.zeros(table.shape[1] + 1)
    for i in used:
        if alpha[i] > 0:
            _step(table, int(i), alpha[i] * sign[i], bias, state)
    random = np.array([seed + 1], np.uint64)
    spread, sweeps = FIRST_SPREAD, 0
    while True:
        sweeps = _descend(
            table, sign, used, caps, ridge, bias, alpha, state, random, spread, sweeps,
            max_iter,
        )  # fmt: skip
        objective, gap = _measure(table, sign, used, caps, ridge, bias, alpha, state)
        if gap <= tolerance * objective or sweeps >= max_iter:
            break
        spread *= SPREAD_FACTOR
    report[0], report[1], report[2] = objective, gap / objective if objective > 0 else 0.0, sweeps


@inner
def _step(table: Array, i: int, step: float, bias: float, state: Array) -> None:
    _add(table[i], step, state)
    state[-1] += step * bias


@inner
def _score(i: int, bias: float, state: Array) -> float:
    return float(state[i]) + bias * float(state[-1])


@inner
def _descend(
    table: Array, sign: Array, used: Array, caps: Array, ridge: Array,
    bias: float, alpha: Array, state: Array, random: Array, spread: float, sweeps: int, max_iter: int,
) -> int:  # fmt: skip
    """Sweeps until all projected gradients lie within `spread`; gives the number of sweeps so far.

    What stands at a bound, with a gradient that points out of it beyond all those of the sweep
    before, is left out of the following sweeps (shrinking).
    """
    order = used.copy()
    active = len(order)
    highest, lowest = np.inf, -np.inf
    while sweeps < max_iter:
        sweeps += 1
        shuffle(order, active, random)
        top, bottom = -np.inf, np.inf
        place = 0
        while place < active:
            i = order[place]
            gradient = sign[i] * _score(i, bias, state) - 1.0 + ridge[i] * alpha[i]
            low, high = alpha[i] <= 0.0, alpha[i] >= caps[i]
            if (low and gradient > highest) or (high and gradient < lowest):
                active -= 1
                order[place], order[active] = order[active], order[place]
                continue
            place += 1
            if (low and gradient > 0.0) or (high and gradient < 0.0):
                gradient = 0.0
            top, bottom = max(top, gradient), min(bottom, gradient)
            if abs(gradient) > 1e-12:
                before = alpha[i]
                curvature = table[i, i] + bias * bias + ridge[i]
                alpha[i] = min(max(before - gradient / curvature, 0.0), caps[i])
                _step(table, i, (alpha[i] - before) * sign[i], bias, state)
        if top - bottom <= spread:
            break
        highest = top if top > 0.0 else np.inf
        lowest = bottom if bottom < 0.0 else -np.inf
    return sweeps


@inner
def _measure(
    table: Array, sign: Array, used: Array, caps: Array, ridge: Array, bias: float,
    alpha: Array, state: Array,
) -> tuple[float, float]:  # fmt: skip
    """The objective, and how far above the least possible it may lie (the duality gap)."""
    length, losses, dual = 0.0, 0.0, 0.0
    for i in used:
        margin = sign[i] * _score(i, bias, state)
        short = max(1.0 - margin, 0.0)
        length += alpha[i] * margin
        losses += 0.5 / ridge[i] * short * short if ridge[i] > 0.0 else caps[i] * short
        dual += alpha[i] * (1.0 - 0.5 * ridge[i] * alpha[i])
    objective = 0.5 * length + losses
    return objective, objective - (dual - 0.5 * length)


@inner
def shuffle(order: Array, count: int, random: Array) -> None:
    """The first `count` in a new order; `random` is the state of a splitmix64 generator."""
    for last in range(count - 1, 0, -1):
        random[0] += np.uint64(0x9E3779B97F4A7C15)
        bits = random[0]
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits = bits ^ (bits >> np.uint64(31))
        other = np.int64(bits % np.uint64(last + 1))
        order[last], order[other] = order[other], order[last]
