"""Mined SVMs against those trained on every window there is, and what mining keeps in memory."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from sppnet.errors import ConfigError, DataError
from sppnet.svm import mining, vector_store
from sppnet.svm.cross_validation import deal_folds, first_folds
from sppnet.svm.linear_svm import fit_svm
from sppnet.svm.mining import mine_svms
from sppnet.svm.vector_store import NORM, LabelledVectors, MiningConfig

LENGTH = 5.0
"""Of every vector, so that the scale is known: 20 / 5."""
NAMES = ("cat", "dog")
IMAGES, WINDOWS, NUMBERS = 12, 150, 8


def windows_of(image, apart=1.0):
    """The windows of one image: a few of each class, many of none, some not used."""
    rng = np.random.default_rng(image)
    labels = rng.choice([0, 1, 2], WINDOWS, p=[0.03, 0.03, 0.94])
    labels[:2] = 0, 1
    vectors = rng.normal(size=(WINDOWS, NUMBERS)) + apart * np.eye(3, NUMBERS)[labels]
    vectors *= LENGTH / np.linalg.norm(vectors, axis=1, keepdims=True)
    signs = np.where(labels[:, None] == np.arange(2), 1, -1).astype(np.int8)
    signs[2::17, 0] = 0
    return LabelledVectors.of(torch.from_numpy(vectors).float(), signs)


def vectors_of(windows):
    return windows.take(np.arange(len(windows.signs)))


def every_window(source=windows_of):
    parts = [source(image) for image in range(IMAGES)]
    return torch.cat([vectors_of(part) for part in parts]), np.concatenate([part.signs for part in parts])


def objectives(svm, config, scale):
    """(k,) on every window, by the definition; scale: what mining multiplied vectors by."""
    vectors, signs = every_window()
    weight, bias = svm.weight.double().numpy() / scale, svm.bias.double().numpy()
    scores = (vectors.double().numpy() * scale) @ weight.T + bias
    short = np.maximum(1 - signs * scores, 0)
    losses = short if config.loss == "hinge" else short**2
    costs = config.C * np.where(signs > 0, config.class_weight, 1.0) * (signs != 0)
    return 0.5 * ((weight**2).sum(1) + (bias / config.intercept_scaling) ** 2) + (costs * losses).sum(0)


class Watched:
    """A source that counts its calls, and stores that say what is in them."""

    def __init__(self, monkeypatch):
        self.calls, self.stores = [], []
        opened, made = mining.VectorStore, self.stores

        class Store(opened):
            def __init__(self, *arguments):
                super().__init__(*arguments)
                self.left = []
                made.append(self)

            def make_room(self, svm, config):
                before = self.duals()
                super().make_room(svm, config)
                after = self.duals()
                assert after.items() <= before.items()
                self.left.append((svm, before.keys() - after.keys()))

            def duals(self):
                origins = map(tuple, self.origin[: self.count].tolist())
                return dict(zip(origins, map(tuple, self.dual.tolist()), strict=True))

        monkeypatch.setattr(mining, "VectorStore", Store)

    def __call__(self, image):
        self.calls.append(image)
        return windows_of(image)


@pytest.fixture
def watched(monkeypatch):
    return Watched(monkeypatch)


PATIENT = {"rounds": 30, "min_new_share": 0.0, "tolerance": 1e-3}


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("C", [1e-3, 0.02])
@pytest.mark.parametrize("most", [pytest.param(2, id="two a round"), pytest.param(200, id="all at once")])
def test_mining_to_the_end_equals_training_on_every_window(loss, C, most):
    config = MiningConfig(loss=loss, C=C, max_hard_negatives=most, **{**PATIENT, "rounds": 100})
    mined = mine_svms(windows_of, IMAGES, NAMES, config).svm
    vectors, signs = every_window()
    whole = fit_svm(
        vectors * (NORM / LENGTH), signs, C=C, loss=loss, class_weight=config.class_weight,
        intercept_scaling=config.intercept_scaling, tolerance=1e-5, max_iter=20_000,
    )  # fmt: skip
    ours = objectives(mined, config, NORM / LENGTH)
    assert (ours <= whole.fit.objective * (1 + 2e-3)).all()
    assert (ours >= whole.fit.objective * (1 - 1e-4)).all()


def test_the_scale_is_folded_into_the_weights():
    def halved(image):
        windows = windows_of(image)
        return LabelledVectors.of(vectors_of(windows) / 2, windows.signs)

    config = MiningConfig(**PATIENT)
    one, other = (mine_svms(source, IMAGES, NAMES, config).svm for source in (windows_of, halved))
    torch.testing.assert_close(other.weight, 2 * one.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.bias, one.bias, rtol=1e-4, atol=1e-5)


def test_vectors_in_half_precision_are_taken():
    def halves(image):
        windows = windows_of(image)
        return LabelledVectors.of(vectors_of(windows).half(), windows.signs)

    svm = mine_svms(halves, IMAGES, NAMES).svm
    assert svm.weight.dtype == torch.float32
    assert svm.classes == NAMES
    whole = mine_svms(windows_of, IMAGES, NAMES).svm
    torch.testing.assert_close(svm.weight, whole.weight, rtol=0.1, atol=0.02)


def test_the_first_round_has_all_positives_and_a_few_negatives(watched):
    mine_svms(watched, IMAGES, NAMES, MiningConfig(rounds=1, random_negatives=3))
    (store,) = watched.stores
    positive = sum(int((windows_of(image).signs > 0).any(1).sum()) for image in range(IMAGES))
    assert len(store) == positive + 3 * IMAGES
    assert watched.calls == list(range(IMAGES))


def test_what_is_known_leaves_its_place_to_the_next(watched):
    # Two a class and round: what joined before still scores highest, and must not count again.
    mine_svms(watched, IMAGES, NAMES, MiningConfig(C=0.02, max_hard_negatives=2, rounds=4, min_new_share=0.0))
    (store,) = watched.stores
    known = store.origin[: store.count]
    assert len(np.unique(known, axis=0)) == len(known)
    first = MiningConfig(C=0.02, max_hard_negatives=2, rounds=2, min_new_share=0.0)
    mine_svms(watched, IMAGES, NAMES, first)
    assert len(store) - len(watched.stores[1]) > IMAGES


def test_mining_ends_when_nothing_new_comes(watched):
    mine_svms(watched, IMAGES, NAMES, MiningConfig(**PATIENT))
    rounds = len(watched.calls) // IMAGES
    assert watched.calls == list(range(IMAGES)) * rounds
    assert 2 <= rounds < PATIENT["rounds"]


def test_every_round_is_told_as_it_was(watched):
    callback = []
    mine_svms(
        watched,
        IMAGES,
        NAMES,
        MiningConfig(random_negatives=3, max_hard_negatives=2, rounds=4, min_new_share=0.0),
        callback=callback.append,
    )
    assert [one.round for one in callback] == list(range(1, len(watched.calls) // IMAGES + 1))
    assert callback[0].joined == callback[0].negatives == 3 * IMAGES
    for before, one in pairwise(callback):
        assert one.positives == before.positives
        assert one.negatives == before.negatives - before.dropped + one.joined
    (store,) = watched.stores[:1]
    assert len(store) == callback[-1].positives + callback[-1].negatives - callback[-1].dropped


def test_mining_twice_gives_the_same_bits():
    first, second = (mine_svms(windows_of, IMAGES, NAMES, MiningConfig(seed=3)).svm for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    other = mine_svms(windows_of, IMAGES, NAMES, MiningConfig(seed=4, rounds=1)).svm
    assert not torch.equal(first.weight, other.weight)


# --- folds ---------------------------------------------------------------------------------------


def test_svms_of_a_fold_equal_those_trained_without_its_images():
    config = MiningConfig(
        loss="squared_hinge", C=0.02, max_hard_negatives=200, folds=3, **{**PATIENT, "rounds": 100}
    )
    mined = mine_svms(windows_of, IMAGES, NAMES, config)
    assert sorted(np.bincount(mined.fold_of).tolist()) == [4, 4, 4]
    vectors, signs = every_window()
    image = np.repeat(np.arange(IMAGES), WINDOWS)
    for fold, svm in enumerate(mined.folds):
        seen = mined.fold_of[image] != fold
        whole = fit_svm(
            vectors[torch.from_numpy(seen)] * (NORM / LENGTH), signs[seen], C=config.C,
            loss=config.loss, class_weight=config.class_weight,
            intercept_scaling=config.intercept_scaling, tolerance=1e-5, max_iter=20_000,
        )  # fmt: skip
        torch.testing.assert_close(svm.weight, whole.weight * (NORM / LENGTH), rtol=0.05, atol=0.01)
        torch.testing.assert_close(svm.bias, whole.bias, rtol=0.05, atol=0.01)
        assert not torch.allclose(svm.weight, mined.svm.weight, rtol=0.05, atol=0.01)


def test_a_class_of_one_image_cannot_be_judged_there():
    def source(image):
        windows = windows_of(image)
        signs = windows.signs.copy()
        if image:
            signs[:, 1] = np.minimum(signs[:, 1], 0)  # dogs are in image 0 alone
        return LabelledVectors.of(vectors_of(windows), signs)

    mined = mine_svms(source, IMAGES, NAMES, MiningConfig(folds=4))
    for fold, svm in enumerate(mined.folds):
        without_dogs = mined.fold_of[0] == fold
        assert torch.isfinite(svm.bias).tolist() == [True, not without_dogs]
        assert bool(svm.weight[1].any()) is not without_dogs


def test_no_more_folds_are_fitted_than_needed():
    config = MiningConfig(folds=4, held_out=4)  # of three images each
    mined = mine_svms(windows_of, IMAGES, NAMES, config)
    every = mine_svms(windows_of, IMAGES, NAMES, MiningConfig(folds=4))
    assert (len(mined.folds), len(every.folds)) == (2, 4)
    assert torch.equal(mined.folds[1].weight, every.folds[1].weight)
    assert first_folds(deal_folds(94, 5, 0), 128) == [0, 1, 2, 3, 4]
    assert first_folds(deal_folds(935, 7, 0), 128) == [0]
    assert first_folds(deal_folds(700, 7, 0), 128) == [0, 1]
    assert first_folds(np.zeros(0, np.int64), 128) == []


def test_images_of_one_photograph_stay_in_one_fold():
    """Every photograph twice, as with mirror images: what judges one must not have seen the other."""
    photograph_of = np.arange(2 * IMAGES) % IMAGES
    mined = mine_svms(lambda image: windows_of(image % IMAGES), photograph_of, NAMES, MiningConfig(folds=3))
    assert np.array_equal(mined.fold_of[:IMAGES], mined.fold_of[IMAGES:])
    assert np.array_equal(mined.fold_of[:IMAGES], deal_folds(IMAGES, 3, 0))
    assert len(mined.folds) == 3


@pytest.mark.parametrize(
    ("images", "folds", "sizes"),
    [
        pytest.param(10, 5, [2] * 5, id="alike"),
        pytest.param(7, 3, [3, 2, 2], id="nearly alike"),
        pytest.param(2, 2, [1, 1], id="two images"),
        pytest.param(1, 5, [], id="one image"),
        pytest.param(9, 0, [], id="not asked for"),
        pytest.param(9, 1, [], id="one fold holds all, so nothing is held out"),
    ],
)
def test_images_are_dealt_evenly(images, folds, sizes):
    dealt = deal_folds(images, folds, seed=0)
    assert sorted(np.bincount(dealt).tolist(), reverse=True) == sizes
    assert np.array_equal(dealt, deal_folds(images, folds, seed=0))


# --- memory --------------------------------------------------------------------------------------


def test_the_store_stays_within_its_bytes(watched):
    config = MiningConfig(
        C=0.02, max_hard_negatives=200, max_bytes=300 * NUMBERS * 4, rounds=6, min_new_share=0.0
    )
    svm = mine_svms(watched, IMAGES, NAMES, config).svm
    (store,) = watched.stores
    assert store.vectors.shape == (300, NUMBERS)
    assert len(store) <= 300
    assert len(store.known) == len(store)
    assert torch.isfinite(svm.weight).all()


def test_only_easy_negatives_leave(watched):
    config = MiningConfig(
        C=0.01,
        max_hard_negatives=40,
        max_bytes=600 * NUMBERS * 4,
        rounds=6,
        min_new_share=0.0,
        random_negatives=30,
    )
    callback = []
    mine_svms(watched, IMAGES, NAMES, config, callback=callback.append)
    (store,) = watched.stores
    assert any(gone for _, gone in store.left)
    assert [one.dropped for one in callback[1:]] == [len(gone) for _, gone in store.left]
    for svm, gone in store.left:
        for image, row in gone:
            windows = windows_of(image)
            scores = svm.scores(vectors_of(windows)[row : row + 1] * store.scale)[0].numpy()
            assert not (windows.signs[row] > 0).any()
            assert (scores[windows.signs[row] < 0] <= config.margin).all()


def test_rows_that_stay_keep_their_vectors_however_many_move_at_once(watched, monkeypatch):
    monkeypatch.setattr(vector_store, "ROWS_AT_ONCE", 7)
    config = MiningConfig(
        C=0.01, max_hard_negatives=40, max_bytes=600 * NUMBERS * 4, rounds=6, min_new_share=0.0
    )
    mine_svms(watched, IMAGES, NAMES, config)
    (store,) = watched.stores
    assert any(gone for _, gone in store.left)
    for row, (image, window) in enumerate(store.origin[: len(store)]):
        windows = windows_of(int(image))
        expected = vectors_of(windows)[window] * store.scale
        torch.testing.assert_close(torch.from_numpy(store.vectors[row]), expected, rtol=1e-5, atol=1e-6)
        assert store.signs[row].tolist() == windows.signs[window].tolist()


def test_positives_stay_whatever_leaves(watched):
    config = MiningConfig(
        C=0.05, max_hard_negatives=200, max_bytes=200 * NUMBERS * 4, rounds=5, min_new_share=0.0
    )
    mine_svms(watched, IMAGES, NAMES, config)
    (store,) = watched.stores
    positive = sum(int((windows_of(image).signs > 0).any(1).sum()) for image in range(IMAGES))
    assert int((store.signs[: store.count] > 0).any(1).sum()) == positive


def test_positives_beyond_an_images_share_are_drawn_at_random(watched):
    mine_svms(watched, IMAGES, NAMES, MiningConfig(max_positives=3, rounds=1))
    mine_svms(watched, IMAGES, NAMES, MiningConfig(max_positives=9, max_bytes=1, rounds=1))  # two of 64
    for store, share in zip(watched.stores, (3, 2), strict=True):
        positive = (store.signs[: store.count] > 0).any(axis=1)
        of_image = np.bincount(store.origin[: store.count][positive, 0], minlength=IMAGES)
        assert of_image.min() >= min(share, 2)
        assert of_image.max() <= share + 1  # one of each class is kept at any rate
        for image in range(IMAGES):
            own = store.signs[: store.count][store.origin[: store.count, 0] == image]
            assert (own > 0).any(axis=0).all()


def test_positives_beyond_the_memory_are_told():
    with pytest.raises(DataError, match=r"64 vectors of 8 numbers fit .* raise max_bytes"):
        mine_svms(lambda image: windows_of(image % IMAGES), 40, NAMES, MiningConfig(max_bytes=1))


# --- what cannot be mined ------------------------------------------------------------------------


def test_an_image_without_windows_gives_none():
    def source(image):
        windows = windows_of(image)
        return LabelledVectors.of(vectors_of(windows)[:0], windows.signs[:0]) if image % 2 else windows

    assert torch.isfinite(mine_svms(source, IMAGES, NAMES).svm.weight).all()


def test_a_class_without_positives_is_named():
    def source(image):
        windows = windows_of(image)
        return LabelledVectors.of(vectors_of(windows), np.minimum(windows.signs, np.array([1, -1], np.int8)))

    with pytest.raises(DataError, match="dog"):
        mine_svms(source, IMAGES, NAMES)


def test_no_images_are_refused():
    with pytest.raises(DataError, match="no images to train on"):
        mine_svms(windows_of, 0, NAMES)


@pytest.mark.parametrize("name", ["rounds", "random_negatives", "max_hard_negatives", "max_bytes"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} must be 1 or more; got 0"):
        MiningConfig(**{name: 0})
