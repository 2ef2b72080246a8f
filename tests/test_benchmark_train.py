"""The benchmarks of training and of the GPU: what they compare, on small networks."""

import pytest
import torch

from sppnet.benchmark import gpu, train
from sppnet.errors import ConfigError

FEW = {"width": 0.0625, "images": 6, "batch_size": 4, "workers": 0, "rounds": 1}


def test_an_epoch_of_every_size_is_timed(monkeypatch):
    sizes = []
    step = train._Peer.run_epoch
    monkeypatch.setattr(train._Peer, "run_epoch", lambda self, size: sizes.append(size) or step(self, size))
    rows = train.run(sizes="64,56", **FEW)
    assert [row.case for row in rows] == [
        f"an epoch of 6 images, zf5 × 0.0625, at {size}" for size in (64, 56)
    ]
    assert {row.peer for row in rows} == {train.PEER}
    assert set(sizes) == {64, 56}
    assert all(min(row.ours_s, row.peer_s, row.floor_s) > 0 for row in rows)
    assert rows[0].note == f"at 64, images a second: ours {6 / rows[0].ours_s:,.1f}, peer " + (
        f"{6 / rows[0].peer_s:,.1f}"
    )


def test_our_epochs_of_a_size_are_those_of_the_schedule():
    class Heard:
        epochs = ()

        def train_epoch(self, epoch, progress):
            self.epochs += (epoch,)

    heard = Heard()
    second = train._Epochs(heard, 1, 3)
    for _ in range(3):
        second.run()
    assert heard.epochs == (1, 4, 7)


@pytest.mark.parametrize("options", [{"sizes": "64:80"}, {"rounds": 0}, {"images": 5}])
def test_what_cannot_be_timed_is_refused(options):
    with pytest.raises(ConfigError, match="needs sizes as"):
        train.run(**{**FEW, **options})


# --- gpu -----------------------------------------------------------------------------------------


def test_without_a_device_there_are_no_rows(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.run() == []


def test_the_same_cases_run_on_a_named_device():
    rows = gpu.run(windows=3, channels=16, width=0.0625, rounds=1, device="cpu")
    assert [row.case for row in rows] == [
        "3 windows, 16 channels",
        "3 windows, 16 channels, bfloat16",
        "3 windows, 16 channels, beside roi_align",
        "3 windows, 16 channels, forward and backward",
        "image to vectors of 3 windows, zf5",
        "a photograph, 500×375, from pixels to boxes",
    ]
    assert rows[4].peer == "R-CNN, from 3 of 3 crops"
    assert all(min(row.ours_s, row.peer_s, row.floor_s) > 0 for row in rows)


def test_no_windows_are_refused():
    with pytest.raises(ConfigError, match="windows, channels and rounds must be 1 or more"):
        gpu.run(windows=0)
