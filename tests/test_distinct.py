"""Distinct rows against numpy's."""

import numpy as np
import pytest

from sppnet.distinct import distinct_rows


@pytest.mark.parametrize(
    ("shape", "high"),
    [((500, 4), 5), ((300, 13), 70), ((40, 3), 1 << 40), ((7, 1), 3), ((1, 4), 9), ((0, 4), 1)],
)
def test_as_numpys(shape, high):
    rows = np.random.default_rng(0).integers(0, high, shape)
    rows[len(rows) // 2 :] = rows[: len(rows) - len(rows) // 2]  # repeats
    expected, of_row = np.unique(rows, axis=0, return_inverse=True)
    found, place = distinct_rows(rows)
    assert np.array_equal(found, expected)
    assert np.array_equal(place, of_row.reshape(-1))
    assert np.array_equal(found[place], rows)


def test_rows_that_are_not_contiguous():
    rows = np.random.default_rng(1).integers(0, 3, (5, 60)).T[::2]
    found, place = distinct_rows(rows)
    assert np.array_equal(found[place], rows)
    assert len(found) == len({tuple(row) for row in rows.tolist()})
