"""Work on several items at once against `map`."""

import threading
import time

import pytest

from sppnet.errors import ImageError
from sppnet.threads import ordered_attempts, ordered_map


def running() -> int:
    return sum(thread.name.startswith("sppnet-work") for thread in threading.enumerate())


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
@pytest.mark.parametrize("ahead", [0, 3])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_results_come_in_the_order_of_the_items(workers, ahead, count):
    def slow_at_first(item: int) -> int:
        time.sleep(0.02 / (item + 1))
        return item * item

    assert list(ordered_map(slow_at_first, range(count), workers, ahead)) == [i * i for i in range(count)]
    assert running() == 0


def test_two_items_are_worked_on_at_once():
    both = threading.Barrier(2, timeout=20)  # passes only when two threads stand before it
    assert len(list(ordered_map(lambda item: both.wait(), range(6)))) == 6


@pytest.mark.parametrize(("workers", "ahead", "most"), [(0, 0, 1), (1, 0, 2), (2, 3, 6)])
def test_no_more_wait_than_were_asked_for(workers, ahead, most):
    """At most `workers + ahead` beyond the one that the caller has."""
    taken = []

    def items():
        for item in range(20):
            taken.append(item)
            yield item

    for done, _ in enumerate(ordered_map(lambda item: item, items(), workers, ahead), start=1):
        assert len(taken) - done < most


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_in_its_place_and_ends_the_rest(workers):
    seen = []

    def work(item: int) -> int:
        if item == 3:
            raise ValueError("the third")
        return item

    with pytest.raises(ValueError, match="the third"):
        seen.extend(ordered_map(work, range(100), workers))
    assert running() == 0


def test_the_threads_end_when_nobody_asks_any_more():
    started = []
    results = ordered_map(started.append, range(1000))
    next(results)
    assert running() > 0
    results.close()
    assert running() == 0
    assert len(started) < 10


def test_an_image_that_cannot_be_read_leaves_its_error_in_its_place():
    def work(item: int) -> int:
        if item == 1:
            raise ImageError("damaged")
        return 10 * item

    first, second, third = ordered_attempts(work, range(3))
    assert (first, str(second), third) == (0, "damaged", 20)
    assert isinstance(second, ImageError)
    with pytest.raises(ZeroDivisionError):
        list(ordered_attempts(lambda item: 1 // item, [0]))
