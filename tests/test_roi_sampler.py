"""Batches of windows: their kinds and counts, that images take turns, and that a step is always the same."""

from collections import Counter

import numpy as np
import pytest

from sppnet.errors import ConfigError, DataError
from sppnet.heads.roi_sampler import RoISampler

K = 3


def scenes(counts, seed=0):
    """Overlaps and labels of images with (positives, negatives, neither) windows, mixed."""
    rng = np.random.default_rng(seed)
    overlaps, labels = [], []
    for positives, negatives, neither in counts:
        parts = (
            rng.uniform(0.5, 1, positives),
            rng.uniform(0.1, 0.49, negatives),
            rng.uniform(0, 0.09, neither),
        )
        overlap = rng.permutation(np.concatenate(parts))
        overlaps.append(overlap.astype(np.float32))
        labels.append(np.where(overlap >= 0.1, rng.integers(0, K, len(overlap)), -1))
    return overlaps, labels


def draw(counts, step=0, **options):
    overlaps, labels = scenes(counts)
    return RoISampler(overlaps, labels, K, **options).draw(step), overlaps, labels


def kinds(batch):
    """How many positives and negatives."""
    labels = np.concatenate([part.labels for part in batch])
    return int((labels < K).sum()), int((labels == K).sum())


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param([(40, 300, 50)] * 8, (32, 96), id="plenty of both"),
        pytest.param([(3, 300, 50)] * 8, (24, 104), id="too few positives: negatives make up"),
        pytest.param([(0, 300, 50)] * 8, (0, 128), id="no positives"),
        pytest.param([(40, 5, 50)] * 8, (88, 40), id="too few negatives: positives make up"),
        pytest.param([(40, 0, 50)] * 8, (128, 0), id="no negatives"),
        pytest.param([(2, 3, 50)] * 8, (16, 24), id="too few of both: a smaller batch"),
        pytest.param([(0, 0, 50)] * 7 + [(90, 200, 0)], (32, 96), id="one image of use"),
        pytest.param([(90, 200, 0)], (32, 96), id="one image in all"),
        pytest.param([(60, 0, 9)] * 4 + [(0, 200, 9)] * 4, (32, 96), id="each kind in other images"),
    ],
)
def test_a_batch_has_a_quarter_of_positives_where_it_can(counts, expected):
    for step in range(3):
        batch, *_ = draw(counts, step)
        assert kinds(batch) == expected


@pytest.mark.parametrize("step", [0, 1, 17])
def test_windows_have_the_label_their_overlap_gives_them(step):
    batch, overlaps, labels = draw([(20, 60, 20), (0, 40, 9), (9, 0, 9), (0, 0, 5), (5, 70, 0)], step)
    assert batch
    for image, windows, given in batch:
        assert len(windows) == len(given) > 0
        assert (np.diff(windows) > 0).all(), "ascending, each once"
        own = overlaps[image][windows]
        positives = own >= 0.5
        assert ((own >= 0.1) & (own <= 1)).all()
        np.testing.assert_array_equal(given, np.where(positives, labels[image][windows], K))
        assert image != 3


def test_the_ends_of_ranges():
    overlap = np.array([0.0, 0.0999, 0.1, 0.3, 0.4999, 0.5, 1.0])
    sampler = RoISampler([overlap], [np.arange(7) % K], K, batch_size=128)
    ((_, windows, labels),) = sampler.draw(0)
    assert windows.tolist() == [2, 3, 4, 5, 6]
    assert labels.tolist() == [K, K, K, 5 % K, 6 % K]


@pytest.mark.parametrize(
    ("images", "most"), [(24, 8), (23, 8), (17, 8), (9, 8), (5, 8), (1, 8), (7, 1), (7, 3)]
)
def test_every_image_is_visited_once_an_epoch(images, most):
    overlaps, labels = scenes([(30, 90, 5)] * images + [(0, 0, 9)])
    sampler = RoISampler(overlaps, labels, K, images_per_batch=most)
    epochs = 4
    batches = [sampler._images_of(step) for step in range(epochs * sampler.steps_per_epoch)]
    assert {len(batch) for batch in batches} <= {
        -(-images // sampler.steps_per_epoch),
        images // sampler.steps_per_epoch,
    }
    assert max(len(batch) for batch in batches) <= most
    assert Counter(np.concatenate(batches).tolist()) == dict.fromkeys(range(images), epochs)
    drawn = {part.image for step in range(sampler.steps_per_epoch) for part in sampler.draw(step)}
    assert drawn == set(range(images))


def test_windows_of_a_kind_are_equally_likely():
    overlaps, labels = scenes([(16, 48, 0)])
    sampler = RoISampler(overlaps, labels, K, batch_size=16)
    counts = Counter(int(w) for step in range(400) for w in sampler.draw(step)[0].windows)
    assert len(counts) == 64
    assert min(counts.values()) > 60
    assert max(counts.values()) < 145


def as_lists(batch):
    return [(image, windows.tolist(), labels.tolist()) for image, windows, labels in batch]


def test_a_step_depends_on_seed_and_step_alone():
    overlaps, labels = scenes([(30, 90, 5)] * 20)
    first, second = (RoISampler(overlaps, labels, K) for _ in range(2))
    forwards = [as_lists(first.draw(step)) for step in range(6)]
    backwards = [as_lists(second.draw(step)) for step in reversed(range(6))]
    assert forwards == backwards[::-1]
    assert len({str(batch) for batch in forwards}) == 6
    assert as_lists(RoISampler(overlaps, labels, K, seed=1).draw(0)) != forwards[0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        pytest.param({"best_label": []}, DataError, "1 images of overlaps", id="no labels"),
        pytest.param({"best_label": [[0]]}, DataError, "image 0: 2 overlaps, .*got 1", id="too few labels"),
        pytest.param({"best_label": [[3, 0]]}, DataError, r"0\.\.2; got 3", id="an unknown class"),
        pytest.param({"best_label": [[-1, 0]]}, DataError, "got -1", id="a positive without a class"),
        pytest.param({"best_overlap": [[0.6, 1.5]]}, DataError, "all from 0 to 1", id="more than all"),
        pytest.param({"best_overlap": [[0.6, np.nan]]}, DataError, "all from 0 to 1", id="NaN"),
        pytest.param({"best_overlap": [[0.0, 0.05]]}, DataError, "none of 1 images", id="no use"),
        pytest.param({"num_classes": 0}, ConfigError, "1 or more; got 0", id="no classes"),
        pytest.param({"batch_size": 0}, ConfigError, "1 or more", id="no batch"),
        pytest.param({"positive_share": 1.5}, ConfigError, "positive_share", id="more than all positive"),
        pytest.param({"negative": (0.1, 0.6)}, ConfigError, "must lie below", id="ranges that overlap"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_from_is_refused(change, error, message):
    given = {"best_overlap": [[0.6, 0.2]], "best_label": [[0, 0]], "num_classes": K}
    with pytest.raises(error, match=message):
        RoISampler(**{**given, **change})
