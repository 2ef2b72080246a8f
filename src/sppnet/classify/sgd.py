"""Training by SGD: single-size, multi-size by epoch, or whole images in their own shape.

Everything random is a pure function of the seed and the epoch, so a run stopped after any epoch
resumes to the same weights.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sppnet.classify.board import Board
from sppnet.classify.config import TrainingConfig
from sppnet.classify.run import RunFolder
from sppnet.data import transforms
from sppnet.data.folder import ImageFolder
from sppnet.data.image import read_header
from sppnet.data.loader import Batch, Damaged, ImageCache, batches, bucket_by_size, epoch_order
from sppnet.errors import DataError, ImageError, SppnetError
from sppnet.geometry.grid import VIEW_PX
from sppnet.nn.network import SPPNet
from sppnet.progress import Progress

CACHE_BYTES = 2 << 30
"""Memory for decoded images; a thousand photographs at a shorter side of 256 take 0.3 GB."""
MOST_DROPS = 2
"""How often the plateau schedule lowers the learning rate (paper section 3.1)."""

Metrics = dict[str, Any]
"""One epoch: a row of metrics.csv."""
Validate = Callable[[], tuple[float, float]]
"""Top-1 and top-5 on the validation images."""


@dataclass
class LoopState:
    """Where the loop stands after an epoch, weights and momentum apart. Fit for JSON."""

    epoch: int = 0
    """Epochs done."""
    best_top1: float = -1.0
    since_best: int = 0
    """Epochs without improvement; the plateau schedule counts them anew after each drop."""
    drops: int = 0
    rows: list[Metrics] = field(default_factory=list)
    """Metrics of every epoch so far."""


class Workers:
    """The processes that train together: one, or those that torchrun started."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.count = int(os.environ.get("WORLD_SIZE", "1"))

    @property
    def leads(self) -> bool:
        """Whether this process writes files and validates."""
        return self.rank == 0

    def __enter__(self) -> "Workers":
        if self.count > 1 and not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        return self

    def __exit__(self, *error: object) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    def share(self, numbers: list[float]) -> list[float]:
        """The leader's numbers, on every process."""
        if self.count == 1:
            return numbers
        shared: list[Any] = [numbers]
        dist.broadcast_object_list(shared)
        return list(shared[0])


class Trainer:
    """One run of SGD on a network; `run` does the epochs that are left."""

    def __init__(
        self, network: SPPNet, train: ImageFolder, config: TrainingConfig, folder: RunFolder, workers: Workers
    ) -> None:
        self.network = network.to(memory_format=torch.channels_last)  # a quarter less time a step on a CPU
        self.train, self.config = train, config
        self.folder, self.workers = folder, workers
        self.device = next(network.parameters()).device
        self.sizes = config.schedule_of_sizes()
        self.cache = ImageCache(CACHE_BYTES)
        self.damaged: list[Damaged] = []
        self.state = LoopState()
        learned = _learned_parameters(network, config.freeze_trunk)
        self.optimizer = torch.optim.SGD(
            learned, config.learning_rate, config.momentum, weight_decay=config.weight_decay
        )
        self.module: nn.Module = network
        if workers.count > 1:
            self.module = DistributedDataParallel(network)

    def run(self, validate: Validate, save: Callable[[bool], None], progress: Progress) -> None:
        """The epochs from where the state stands.

        validate: measures the network as it is. save(best): writes the model, the best one so far or not.
        Both are called by the leading process alone.
        """
        if self.state.epoch >= self.config.epochs:
            return
        with Board(self.folder.board if self.workers.leads else None, self.state.epoch) as board:
            while self.state.epoch < self.config.epochs:
                board.add(self._run_epoch(validate, save, progress))

    def _run_epoch(self, validate: Validate, save: Callable[[bool], None], progress: Progress) -> Metrics:
        epoch = self.state.epoch
        started = time.perf_counter()
        row: Metrics = {"epoch": epoch + 1, "size": self._size_name(epoch)}
        row["learning_rate"] = self._set_rate(epoch)
        row |= self.train_epoch(epoch, progress)
        row["seconds"] = round(time.perf_counter() - started, 2)
        measured = list(validate()) if self.workers.leads else []
        row["val_top1"], row["val_top5"] = self.workers.share(measured)
        self._close_epoch(row, save)
        return row

    def train_epoch(self, epoch: int, progress: Progress) -> dict[str, float]:
        """One pass over the images; loss and accuracy on them as they were met."""
        torch.manual_seed(_stream(self.config.seed, epoch, self.workers.rank))  # for dropout
        self.module.train()
        if self.config.freeze_trunk:
            self.network.trunk.eval()
        order, counts = self._order(epoch)
        progress.begin(f"epoch {epoch + 1}/{self.config.epochs} at {self._size_name(epoch)}", len(order))
        total = torch.zeros(3, dtype=torch.float64)  # loss, right, images
        # By image and not by place: a batch of damaged images alone does not come.
        count_of = {index: count for batch, count in zip(order, counts, strict=True) for index in batch}
        with self._joined():
            for batch in self._batches(epoch, order):
                total += self._step(batch, count_of[int(batch.indices[0])])
                loss, right, seen = total.tolist()
                progress.advance(note=f"loss {loss / seen:.3f}, top-1 {right / seen:.1%}")
        if self.workers.count > 1:
            dist.all_reduce(total)
        loss, right, seen = total.tolist()
        if not seen:
            raise DataError(
                f"none of the {len(self.train)} images to train on could be used in epoch {epoch + 1}"
            )
        return {"loss": round(loss / seen, 6), "train_top1": round(right / seen, 6), "images": int(seen)}

    def _step(self, batch: Batch, count: int) -> Tensor:
        """One update; the summed loss, how many were right, and how many there were."""
        images = batch.images.to(self.device, memory_format=torch.channels_last)
        labels = batch.labels.to(self.device)
        with _precision(self.device):
            scores = self.module(images)
            loss = nn.functional.cross_entropy(scores, labels, reduction="sum")
        if not torch.isfinite(loss):
            raise SppnetError(
                f"the loss is {loss.item()}: training diverged; lower --learning-rate "
                f"(now {self.optimizer.param_groups[0]['lr']})"
            )
        self.optimizer.zero_grad(set_to_none=True)
        (loss * (self.workers.count / count)).backward()  # several processes average: the mean of all images
        self.optimizer.step()
        right = (scores.argmax(1) == labels).sum()
        return torch.tensor([loss.item(), right.item(), len(labels)], dtype=torch.float64)

    def _joined(self) -> AbstractContextManager[Any]:
        """Lets a process that ran out of images, some being damaged, wait for the others."""
        if isinstance(self.module, DistributedDataParallel):
            return self.module.join()  # type: ignore[no-any-return]
        return nullcontext()

    def _close_epoch(self, row: Metrics, save: Callable[[bool], None]) -> None:
        state = self.state
        state.epoch += 1
        improved = row["val_top1"] > state.best_top1
        state.best_top1 = max(state.best_top1, row["val_top1"])
        state.since_best = 0 if improved else state.since_best + 1
        if state.since_best >= self.config.patience and state.drops < MOST_DROPS:
            state.drops, state.since_best = state.drops + 1, 0
        state.rows.append(row)
        if self.workers.leads:
            self.folder.write_metrics(state.rows)
            save(improved)
            self._write_checkpoint()

    # --- learning rate, order, batches -----------------------------------------------------------

    def _set_rate(self, epoch: int) -> float:
        rate = self.config.learning_rate
        if self.config.schedule == "cosine":
            rate *= 0.5 * (1 + float(np.cos(np.pi * epoch / self.config.epochs)))
        else:
            rate *= 0.1**self.state.drops
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _size_name(self, epoch: int) -> str:
        size = self.sizes.size(epoch)
        return f"{size}" if self.config.shape == "square" else f"{size} (full)"

    def _order(self, epoch: int) -> tuple[list[list[int]], list[int]]:
        """This process's batches of the epoch, and how many images each step has over all processes."""
        config, workers = self.config, self.workers
        if config.shape == "full":
            whole = bucket_by_size(self._sizes_hw(epoch), config.batch_size, config.seed, epoch)
            whole = [batch for batch in whole if len(batch) >= workers.count]
            return [batch[workers.rank :: workers.count] for batch in whole], [len(batch) for batch in whole]
        whole = epoch_order(len(self.train), config.batch_size, config.seed, epoch)
        order = epoch_order(
            len(self.train), config.batch_size, config.seed, epoch, workers.rank, workers.count
        )
        return order, [len(batch) for batch in whole]

    def _sizes_hw(self, epoch: int) -> list[tuple[int, int]]:
        scale = self._full_scale(epoch)
        sizes = []
        for path in self.train.paths:
            try:
                sizes.append(transforms.shorter_size(read_header(path).size_hw, scale))
            except ImageError:
                sizes.append((scale, scale))  # the loader will name it
        return sizes

    def _full_scale(self, epoch: int) -> int:
        """Shorter side of whole images: a crop of 224 from 256 at that size shows objects as large."""
        return self.sizes.size(epoch) * self.config.test_scale_px // VIEW_PX

    def _batches(self, epoch: int, order: list[list[int]]) -> Iterator[Batch]:
        make = self._make_full if self.config.shape == "full" else self._make_square
        return batches(
            self.train,
            lambda index: make(epoch, index),
            order,
            workers=self.config.workers,
            damaged=self.damaged,
        )

    def _make_square(self, epoch: int, index: int) -> Tensor:
        rng = transforms.sample_rng(self.config.seed, epoch, index)
        scale = self.config.test_scale_px
        image = self.cache.read(self.train.paths[index], scale)
        view = transforms.training_view(
            image, self.sizes.size(epoch), rng, scale_px=scale, crop_rule=self.config.crop
        )
        return transforms.to_tensor(view, self.network.trunk.mean, self.network.trunk.std)

    def _make_full(self, epoch: int, index: int) -> Tensor:
        rng = transforms.sample_rng(self.config.seed, epoch, index)
        image = self.cache.read(self.train.paths[index], self._full_scale(epoch))
        if rng.random() < 0.5:
            image = image[:, ::-1]
        image = transforms.alter_lighting(image, rng.normal(0.0, 1.0, 3) * transforms.LIGHTING_SIGMA)
        return transforms.to_tensor(image, self.network.trunk.mean, self.network.trunk.std)

    # --- stopping and going on -------------------------------------------------------------------

    def _write_checkpoint(self) -> None:
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for index, parameter in enumerate(self._learned()):
            buffer = self.optimizer.state[parameter].get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum.{index}"] = buffer
        self.folder.save_checkpoint({"state": asdict(self.state)}, tensors)

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if it has one."""
        checkpoint = self.folder.load_checkpoint()
        if checkpoint is None:
            return
        header, tensors = checkpoint
        self.state = LoopState(**header["state"])
        own = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
        self.network.load_state_dict(own)
        for index, parameter in enumerate(self._learned()):
            buffer = tensors.get(f"momentum.{index}")
            if buffer is not None:
                self.optimizer.state[parameter]["momentum_buffer"] = buffer.to(self.device)

    def _learned(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def _learned_parameters(network: SPPNet, freeze_trunk: bool) -> list[nn.Parameter]:
    network.trunk.requires_grad_(not freeze_trunk)
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _stream(seed: int, epoch: int, rank: int) -> int:
    """A seed for torch that no two epochs and processes share."""
    return int(np.random.SeedSequence(seed, spawn_key=(3, epoch, rank)).generate_state(1, np.uint64)[0] >> 1)


def _precision(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 where it is faster: on CUDA devices."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
