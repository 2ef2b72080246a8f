"""Probabilities of scores: against Platt scaling as it was fitted, in files, and of kept classes."""

import numpy as np
import pytest
import torch

from sppnet.detect.probabilities import (
    LOGIT_SHARE,
    MIN_KEPT_PROBABILITY,
    ScoreProbabilities,
    kept_probabilities,
)
from sppnet.errors import ModelError
from sppnet.svm.platt import PlattScaling

SCALINGS = (PlattScaling(-0.4, 0.3, 2.5, -1.0), PlattScaling(0.2, 1.5, 0.7, 0.4))
THRESHOLDS = np.array([-0.35, 0.8])


def test_they_are_the_scalings_after_thresholds_were_taken_off():
    odds = ScoreProbabilities.of(SCALINGS, THRESHOLDS)
    raw, labels = np.linspace(-3, 3, 40), np.arange(40) % 2
    expected = np.where(labels == 0, SCALINGS[0](raw), SCALINGS[1](raw))
    given = odds((raw - THRESHOLDS[labels]).astype(np.float32), labels)
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, expected, atol=1e-6)
    assert odds(np.empty(0, np.float32), np.empty(0, np.int64)).shape == (0,)


def test_a_file_holds_them():
    odds = ScoreProbabilities.of(SCALINGS, THRESHOLDS).joined(ScoreProbabilities.unknown(1))
    back = ScoreProbabilities.read({**odds.tensors(), "svm.bias": torch.zeros(3)}, 3)
    np.testing.assert_array_equal(back.slopes, odds.slopes)
    np.testing.assert_array_equal(back.intercepts, odds.intercepts)
    assert np.isnan(back(np.array([0.5], np.float32), np.array([2]))).all()
    assert ScoreProbabilities.read({"svm.bias": torch.zeros(3)}, 3) is None


@pytest.mark.parametrize("broken", [torch.zeros(2), torch.tensor([0.0, 1.0, torch.inf])])
def test_others_are_refused(broken):
    tensors = ScoreProbabilities.unknown(3).tensors()
    with pytest.raises(ModelError, match="3 slopes and intercepts"):
        ScoreProbabilities.read(tensors | {"probabilities.slopes": broken}, 3)


def test_kept_classes_have_their_networks_own():
    own = np.array([0.05, MIN_KEPT_PROBABILITY, 0.9, 1.0])
    scores = LOGIT_SHARE * np.log(own / MIN_KEPT_PROBABILITY)  # as `append_kept` says
    np.testing.assert_allclose(kept_probabilities(scores.astype(np.float32)), own, atol=1e-6)
    assert kept_probabilities(np.array([9.0], np.float32)).tolist() == [1]
