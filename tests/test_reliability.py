"""Reliability of probabilities, against a loop over the bins."""

import numpy as np
import pytest

from sppnet.metrics.reliability import expected_calibration_error, reliability


def plain(probabilities, is_right, least):
    rows = []
    for low in np.arange(10) / 10:
        last = low == 0.9
        near = [
            (p, right)
            for p, right in zip(probabilities, is_right, strict=True)
            if p >= least and low <= p and (p < low + 0.1 - 1e-12 or last)
        ]
        if near:
            rows.append((np.mean([p for p, _ in near]), np.mean([right for _, right in near]), len(near)))
    return rows


@pytest.mark.parametrize("least", [0.0, 0.1, 0.45])
def test_bins_are_those_of_a_loop(least):
    rng = np.random.default_rng(0)
    odds = np.append(rng.random(300), [0.0, 1.0])
    right = rng.random(302) < odds**2
    found, expected = reliability(odds, right, least), plain(odds, right, least)
    rows = list(zip(found.predicted, found.observed, found.counts, strict=True))
    np.testing.assert_allclose(rows, expected)
    error = sum(count * abs(p - share) for p, share, count in expected) / sum(row[2] for row in expected)
    assert expected_calibration_error(odds, right, least) == pytest.approx(error)


def test_nothing_has_no_error():
    assert expected_calibration_error(np.zeros(0), np.zeros(0, bool)) is None
    assert expected_calibration_error(np.full(4, 0.05), np.zeros(4, bool)) is None


def test_what_comes_true_as_often_as_said_has_none():
    assert expected_calibration_error(np.full(4, 0.75), np.array([1, 1, 1, 0], bool)) == 0
