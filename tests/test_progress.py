"""What is told of work as it goes on."""

import pytest

from recording_progress import RecordingProgress
from sppnet import progress
from sppnet.progress import Timed, track


def test_a_stage_that_comes_twice_is_timed_in_all(monkeypatch):
    now = iter([0.0, 10.0, 10.0, 13.0, 13.0, 20.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    told = RecordingProgress()
    watch = Timed(told)
    assert watch.seconds == {}
    watch.begin("a", 3)
    watch.advance(2, "so far")
    watch.begin("b", 1)
    watch.begin("a", 1)
    assert watch.seconds == {"a": 17.0, "b": 3.0}
    assert (told.stages, told.advances) == ([("a", 3), ("b", 1), ("a", 1)], [(2, "so far")])


def test_results_are_counted_once_they_have_been_used():
    told = RecordingProgress()
    every = track(iter("xyz"), "letters", 3, told)
    assert next(every) == "x"
    assert (told.stages, told.done) == ([("letters", 3)], 0)
    assert list(every) == ["y", "z"]
    assert (told.stages, told.done) == ([("letters", 3)], 3)


def test_a_result_that_fails_is_not_counted():
    def results():
        yield 1
        raise OSError("gone")

    told = RecordingProgress()
    with pytest.raises(OSError, match="gone"):
        list(track(results(), "numbers", 2, told))
    assert told.done == 1
