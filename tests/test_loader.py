"""Batches: the same for any number of threads, whole in the face of damage, and prompt to stop."""

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sppnet.data import transforms
from sppnet.data.folder import open_folder
from sppnet.data.image import read_image
from sppnet.data.loader import ImageCache, batches, bucket_by_size, epoch_order
from sppnet.errors import ConfigError, DataError, ImageError


class Numbers:
    """A data set of n files whose labels are their squares."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Path, int]:
        return Path(f"{index}.png"), index**2


def image_of(index: int) -> np.ndarray:
    time.sleep(0.001 * (index % 3))  # so that threads finish out of order
    return np.full((3, 2, 2), index, np.float32)


def loader_threads() -> int:
    return sum(thread.name.startswith("sppnet-work") for thread in threading.enumerate())


# --- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [0, 3])
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_batches_come_in_order_for_any_number_of_threads(workers, ahead):
    order = [[4, 2], [0, 1, 3], [9], [8, 7, 6, 5], [1]]
    made = list(batches(Numbers(10), image_of, order, workers=workers, ahead=ahead))
    assert [batch.indices.tolist() for batch in made] == order
    for batch in made:
        assert torch.equal(batch.labels, batch.indices**2)
        assert batch.images.shape == (len(batch), 3, 2, 2)
        assert torch.equal(batch.images[:, 0, 0, 0], batch.indices.float())
    assert loader_threads() == 0


@pytest.mark.parametrize("workers", [0, 3])
def test_views_do_not_depend_on_the_threads(tmp_path, workers):
    root = tmp_path / "a"
    root.mkdir()
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50 + i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
    folder, cache = open_folder(tmp_path), ImageCache(10**6)

    def view(index: int) -> torch.Tensor:
        image = cache.read(folder.paths[index], 40)
        rng = transforms.sample_rng(3, 5, index)
        shown = transforms.training_view(image, 24, rng, scale_px=40, view_px=32)
        return transforms.to_tensor(shown, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))

    order = epoch_order(6, 4, seed=3, epoch=5)
    made = torch.cat([batch.images for batch in batches(folder, view, order, workers=workers)])
    assert torch.equal(made, torch.stack([view(index) for index in itertools.chain(*order)]))
    assert len(cache) == 6


def damaged_image(index: int) -> np.ndarray:
    if index in (2, 5, 6):
        raise ImageError(f"{index}.png cannot be read as an image: truncated")
    return image_of(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_files_are_left_out_and_named_once(workers, caplog):
    damaged = []
    for _ in range(2):
        made = batches(
            Numbers(8), damaged_image, [[1, 2, 3], [5, 6], [7, 2]], workers=workers, damaged=damaged
        )
        assert [batch.indices.tolist() for batch in made] == [[1, 3], [7]]
    assert [(item.index, str(item.path)) for item in damaged] == [(2, "2.png"), (5, "5.png"), (6, "6.png")]
    assert [record.message for record in caplog.records] == [
        f"left out: {i}.png cannot be read as an image: truncated" for i in (2, 5, 6)
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_other_errors_end_the_iteration_and_name_the_file(workers):
    def make(index: int) -> np.ndarray:
        if index == 3:
            raise KeyError("missing")
        return image_of(index)

    made = batches(Numbers(50), make, [[i] for i in range(50)], workers=workers)
    with pytest.raises(KeyError, match="missing") as caught:
        list(made)
    assert "while making image 3 of the data set, 3.png" in caught.value.__notes__
    assert loader_threads() == 0


def test_images_of_unlike_shapes_form_no_batch():
    made = batches(Numbers(3), lambda i: np.zeros((3, 4, 4 + i)), [[0, 1]])
    with pytest.raises(DataError, match=r"\(3, 4, 4\) for 0\.png and \(3, 4, 5\) for 1\.png.*bucket_by_size"):
        next(made)


def test_threads_stop_soon_after_their_consumer():
    started = []

    def slow(index: int) -> np.ndarray:
        started.append(index)
        time.sleep(0.02)
        return image_of(index)

    batches(Numbers(9), slow, [[0]], workers=2).close()  # never started: nothing to stop
    assert started == []

    short_then_long = [[0], list(range(1, 500)), list(range(500, 1000))]
    made = batches(Numbers(1000), slow, short_then_long, workers=2)
    next(made)
    begun = time.perf_counter()
    made.close()
    assert time.perf_counter() - begun < 1  # the long batches would take 5 seconds each
    assert len(started) < 60
    assert loader_threads() == 0


def test_no_more_batches_are_made_than_asked_for():
    made_so_far = []

    def make(index: int) -> np.ndarray:
        made_so_far.append(index)
        return image_of(index)

    made = batches(Numbers(100), make, [[i] for i in range(100)], workers=2, ahead=3)
    next(made)
    time.sleep(0.1)
    assert len(made_so_far) <= 1 + 2 + 3
    made.close()


@pytest.mark.parametrize("option", ["workers", "ahead"])
def test_options_are_checked_at_once(option):
    with pytest.raises(ConfigError, match="0 or more"):
        batches(Numbers(3), image_of, [[0]], **{option: -1})


# --- order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 65])
def test_an_epoch_is_a_permutation_in_batches(n):
    order = epoch_order(n, 8, seed=1, epoch=2)
    assert sorted(itertools.chain(*order)) == list(range(n))
    assert all(len(batch) == 8 for batch in order[:-1])


def test_an_order_depends_on_seed_and_epoch_alone():
    orders = [epoch_order(50, 50, seed, epoch)[0] for seed in range(3) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 9
    assert epoch_order(50, 50, 2, 1)[0] == orders[7]
    assert orders[0] != sorted(orders[0])


def test_an_order_without_batches_is_refused():
    with pytest.raises(ConfigError, match="at least 1 image; got 0"):
        epoch_order(10, 0, 0, 0)


def test_buckets_hold_equal_sizes_and_every_image_once():
    sizes = [[(224, 300), (300, 224), (224, 224)][i * i % 3] for i in range(40)]
    formed = bucket_by_size(sizes, 6, seed=0, epoch=1)
    assert sorted(itertools.chain(*formed)) == list(range(40))
    assert all(len({sizes[i] for i in batch}) == 1 and len(batch) <= 6 for batch in formed)
    per_size = [sizes.count(size) for size in set(sizes)]
    assert len(formed) == sum(-(-count // 6) for count in per_size)
    assert formed == bucket_by_size(sizes, 6, seed=0, epoch=1)
    assert formed != bucket_by_size(sizes, 6, seed=0, epoch=2)
    with pytest.raises(ConfigError, match="at least 1 image"):
        bucket_by_size(sizes, 0, 0, 0)


# --- cache ---------------------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)).save(path)
    return path


def test_a_cached_image_is_decoded_once_for_each_scale(photo):
    cache = ImageCache(10**6)
    first = cache.read(photo, 20)
    assert np.array_equal(first, read_image(photo))
    assert cache.read(photo, 10).shape == (15, 10, 3)
    photo.unlink()
    assert cache.read(photo, 20) is first
    assert cache.used_bytes == 30 * 20 * 3 + 15 * 10 * 3
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 0


def test_a_full_cache_keeps_what_it_has(photo):
    cache = ImageCache(30 * 20 * 3 + 1)
    kept = cache.read(photo, 20)
    assert cache.read(photo, 10).shape == (15, 10, 3)
    assert len(cache) == 1
    assert cache.read(photo, 20) is kept
    with pytest.raises(ConfigError, match="0 bytes or more"):
        ImageCache(-1)


def test_a_cache_counts_right_on_many_threads(photo):
    cache = ImageCache(10**6)
    list(batches(Numbers(200), lambda i: cache.read(photo, 1 + i % 5), [[i] for i in range(200)], workers=8))
    assert len(cache) == 5
    assert cache.used_bytes == sum(3 * side * ((2 * 30 * side + 20) // 40) for side in range(1, 6))
