"""Size schedules: the paper's two, and how people write them."""

import pytest

from sppnet.data.sizes import SizeSchedule
from sppnet.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected", "sizes"),
    [
        pytest.param("224", [224, 224, 224, 224], (224,), id="one size"),
        pytest.param("224,180", [224, 180, 224, 180], (224, 180), id="the paper's two, 224 first"),
        pytest.param(" 96, 64 ,80", [96, 64, 80, 96], (96, 64, 80), id="three in turn, with spaces"),
        pytest.param("224,180,224", [224, 180, 224, 224], (224, 180), id="one size twice as often"),
        pytest.param("64:64", [64, 64, 64, 64], (64,), id="a range of one"),
    ],
)
def test_sizes_follow_the_epochs(text, expected, sizes):
    schedule = SizeSchedule.parse(text)
    assert [schedule.size(epoch) for epoch in range(4)] == expected
    assert schedule.sizes == sizes


def test_drawn_sizes_reach_both_ends_evenly():
    schedule = SizeSchedule.uniform(180, 224, seed=3)
    drawn = [schedule.size(epoch) for epoch in range(4500)]
    counts = [drawn.count(size) for size in range(180, 225)]
    assert sum(counts) == 4500
    assert schedule.sizes == tuple(range(180, 225))
    # 45 sizes, 100 draws each with a deviation of 10: beyond 5 deviations once in a million.
    assert 50 < min(counts) <= max(counts) < 150


def test_a_draw_depends_on_seed_and_epoch_alone():
    first, again, other = (SizeSchedule.parse("1:1000000", seed=seed) for seed in (5, 5, 6))
    forwards = [first.size(epoch) for epoch in range(20)]
    assert forwards == [again.size(epoch) for epoch in reversed(range(20))][::-1]
    assert len(set(forwards)) == 20
    assert set(forwards).isdisjoint(other.size(epoch) for epoch in range(20))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "sizes are written", id="nothing"),
        pytest.param("224x224", "got '224x224'", id="a width and a height"),
        pytest.param("180-224", "180:224", id="a dash"),
        pytest.param("224,", "got '224,'", id="a comma too many"),
        pytest.param("180:200:224", "sizes are written", id="two colons"),
        pytest.param("-224", "sizes are written", id="a negative size"),
        pytest.param("0", "at least 1 pixel", id="zero"),
        pytest.param("224:180", "smallest and a largest", id="a range upside down"),
    ],
)
def test_what_is_no_schedule_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        SizeSchedule.parse(text)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        pytest.param("triple", (3,), "got 'triple'", id="an unknown kind"),
        pytest.param("single", ("3",), "whole pixels", id="a size in quotes"),
        pytest.param("single", (3, 4), "one size", id="two single sizes"),
        pytest.param("alternate", (), "whole pixels", id="no sizes"),
    ],
)
def test_what_is_no_kind_or_size_is_refused(kind, values, message):
    with pytest.raises(ConfigError, match=message):
        SizeSchedule(kind, values)


def test_epochs_count_from_zero():
    with pytest.raises(ConfigError, match="count from 0"):
        SizeSchedule.single(224).size(-1)


@pytest.mark.parametrize(
    ("text", "size"), [("224", 224), ("224,180", 224), ("180,224", 180), ("180:224", 224)]
)
def test_what_to_test_at_does_not_depend_on_the_seed(text, size):
    assert {SizeSchedule.parse(text, seed).test_size for seed in range(3)} == {size}
