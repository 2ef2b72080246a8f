"""Training a classifier: our loop beside one as torchvision's reference scripts write it.

Both have the same network, batches, sizes and optimiser, and begin with the same files. The peer reads them
with a DataLoader, RandomResizedCrop and a flip, in processes of its own; ours in threads, and keeps decoded
images from one epoch to the next, as it does in training. An epoch of one size comes after one of another, so
what a change of size costs is among the times.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from sppnet.benchmark.results import Row, row_of, time_interleaved
from sppnet.benchmark.roofline import PRODUCT, large_product, multiply_adds
from sppnet.classify.config import TrainingConfig
from sppnet.classify.distributed import Workers
from sppnet.classify.run_folder import RunFolder
from sppnet.classify.sgd import Trainer
from sppnet.classify.train import build_network
from sppnet.data.folder import open_folder
from sppnet.demo import PATTERNS, generate
from sppnet.errors import ConfigError
from sppnet.nn.network import SPPNet
from sppnet.progress import NullProgress, Progress

PEER = "DataLoader, RandomResizedCrop, SGD"
GEMM = "a large product"


def run(
    data: Annotated[Path | None, "A folder for each class; drawn by default."] = None,
    trunk: Annotated[str, "The network of both sides."] = "zf5",
    width: Annotated[float, "Multiplies its channels."] = 0.25,
    sizes: Annotated[str, "Pixels, one or several in turn."] = "224,180",
    images: int = 192,
    batch_size: Annotated[int, "Images of a step."] = 32,
    workers: Annotated[int, "Our threads, and the peer's processes."] = 2,
    rounds: Annotated[int, "Timed repetitions of each side."] = 3,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Row]:
    """Time an epoch of every size.

    data: a folder with a folder for each class, all of it used; by default about `images` are drawn.
    sizes: one or several, in turn. workers: our threads, or the peer's processes.
    Raises ConfigError for nothing to do, DataError for a folder that is no data set.
    """
    config = TrainingConfig(
        trunk=trunk, width=width, sizes=sizes, batch_size=batch_size, workers=workers, device="cpu", seed=seed
    )
    if config.schedule_of_sizes().kind == "uniform" or rounds < 1 or images < len(PATTERNS):
        raise ConfigError(
            f'needs sizes as "224" or "224,180", {len(PATTERNS)} images or more, and 1 round or more; '
            f"got {sizes!r}, {images} and {rounds}"
        )
    progress = progress or NullProgress()
    with tempfile.TemporaryDirectory(prefix="sppnet-benchmark-") as folder:
        if data is None:
            data = Path(folder) / "images"
            generate(data, images // len(PATTERNS), seed)
        return _compare(data, config, Path(folder), rounds, progress)


def _compare(data: Path, config: TrainingConfig, folder: Path, rounds: int, progress: Progress) -> list[Row]:
    opened = open_folder(data)
    trainer = Trainer(
        build_network(config, len(opened.classes)), opened, config, RunFolder(folder / "run"), Workers()
    )
    peer = _Peer(data, build_network(config, len(opened.classes)), config)
    sizes = config.schedule_of_sizes().sizes
    calls: dict[str, Callable[[], object]] = {GEMM: large_product()}
    for turn, size in enumerate(sizes):
        calls[f"ours {size}"] = _Epochs(trainer, turn, len(sizes)).run
        calls[f"peer {size}"] = partial(peer.run_epoch, size)
    timings = time_interleaved(calls, rounds, progress=progress)
    rate = timings[GEMM].median_s / PRODUCT
    rows = []
    for size in sizes:
        own, other = timings[f"ours {size}"], timings[f"peer {size}"]
        speed = ", ".join(
            f"{name} {len(opened) / each.median_s:,.1f}" for name, each in (("ours", own), ("peer", other))
        )
        case = f"an epoch of {len(opened)} images, {config.trunk} × {config.width:g}, at {size}"
        floor_s = rate * len(opened) * _multiply_adds(trainer.network, size)
        rows.append(row_of(case, PEER, own, other, floor_s, note=f"at {size}, images a second: {speed}"))
    return rows


def _multiply_adds(network: SPPNet, size: int) -> float:
    """Of one image, forward and backward."""
    images = torch.zeros(2, 3, size, size)
    return multiply_adds(lambda: network(images).sum().backward()) / len(images)


class _Epochs:
    """Our epochs of one size, of those that come in turn."""

    def __init__(self, trainer: Trainer, first: int, step: int) -> None:
        self.trainer, self.epoch, self.step = trainer, first, step

    def run(self) -> dict[str, float]:
        result = self.trainer.train_epoch(self.epoch, NullProgress())
        self.epoch += self.step
        return result


class _Peer:
    """The reference loop: `train_one_epoch` of torchvision's classification scripts, without its logging."""

    def __init__(self, data: Path, network: SPPNet, config: TrainingConfig) -> None:
        self.network = network
        self.optimizer = torch.optim.SGD(
            network.parameters(), config.learning_rate, config.momentum, weight_decay=config.weight_decay
        )
        self.loss = nn.CrossEntropyLoss()
        self.loaders = {size: _load(data, network, config, size) for size in config.schedule_of_sizes().sizes}

    def run_epoch(self, size: int) -> float:
        self.network.train()
        total = 0.0
        for images, labels in self.loaders[size]:
            loss = self.loss(self.network(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return total


def _load(data: Path, network: SPPNet, config: TrainingConfig, size: int) -> "DataLoader[Any]":
    changes = transforms.Compose(
        [
            transforms.RandomResizedCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(network.trunk.mean, network.trunk.std),
        ]
    )
    # Spawned: a fork of a process with OpenMP threads may hang.
    apart: dict[str, Any] = (
        {"multiprocessing_context": "spawn", "persistent_workers": True} if config.workers else {}
    )
    return DataLoader(
        datasets.ImageFolder(str(data), changes),
        config.batch_size,
        shuffle=True,
        num_workers=config.workers,
        **apart,
    )
