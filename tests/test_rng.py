"""Streams of random numbers: the numbers stay what they were, and keep apart."""

import numpy as np
import pytest

from sppnet.rng import Stream, generator, torch_seed


def test_a_key_is_that_of_a_spawned_seed_sequence():
    child = np.random.SeedSequence(5).spawn(4)[Stream.DROPOUT]
    assert generator(5, Stream.DROPOUT).integers(1 << 60) == np.random.default_rng(child).integers(1 << 60)


def test_places_and_streams_keep_apart():
    keys = [(Stream.ORDER, 0), (Stream.ORDER, 1), (Stream.SIZES, 0), (Stream.ORDER, 0, 0), (Stream.ORDER,)]
    assert len({torch_seed(3, *key) for key in keys}) == len(keys)
    assert torch_seed(3, *keys[0]) != torch_seed(4, *keys[0])


@pytest.mark.parametrize("key", [(), (Stream.CELLS, 7)])
def test_torch_takes_the_seed(key):
    assert 0 <= torch_seed(0, *key) < 1 << 63


def test_numbers_of_streams_are_kept():
    """Another number would give other models from the same seed."""
    names = "TRANSFORMS ORDER SIZES DROPOUT REGRESSED_WINDOWS SCALES VALIDATION FOLDS CELLS"
    assert [Stream[name] for name in names.split()] == [0, 1, 2, 3, 7, 11, 12, 13, 21]
    assert torch_seed(0, Stream.DROPOUT, 2, 0) == 1597482064227351395
