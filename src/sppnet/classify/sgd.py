"""Training by SGD: single-size, multi-size by epoch, or whole images in their own shape.

Everything random is a pure function of the seed and the epoch, so a run stopped after any epoch
resumes to the same weights.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sppnet.classify.config import TrainingConfig
from sppnet.classify.distributed import Workers
from sppnet.classify.run_folder import Board, RunFolder
from sppnet.data import transforms
from sppnet.data.folder import ImageFolder
from sppnet.data.image import read_header
from sppnet.data.loader import Batch, Damaged, ImageCache, batches, bucket_by_size, epoch_order
from sppnet.errors import DataError, ImageError, SppnetError
from sppnet.nn.network import SPPNet
from sppnet.progress import Progress
from sppnet.rng import Stream, torch_seed

CACHE_BYTES = 2 << 30
"""Memory for decoded images; a thousand photographs at a shorter side of 256 take 0.3 GB."""
MAX_DROPS = 2
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


class Trainer:
    """One run of SGD on a network; `run` does the epochs that are left."""

    def __init__(
        self,
        network: SPPNet,
        train: ImageFolder,
        config: TrainingConfig,
        folder: RunFolder,
        workers: Workers,
        cache: ImageCache | None = None,
    ) -> None:
        self.network = network.to(memory_format=torch.channels_last)  # a quarter less time a step on a CPU
        self.train, self.config = train, config
        self.folder, self.workers = folder, workers
        self.device = next(network.parameters()).device
        self.sizes = config.schedule_of_sizes()
        self.cache = ImageCache(CACHE_BYTES) if cache is None else cache
        self.damaged: list[Damaged] = []
        self.state = LoopState()
        self.learned = _learned_parameters(network, config.freeze_trunk)
        self.optimizer = torch.optim.SGD(
            self.learned, config.learning_rate, config.momentum, weight_decay=config.weight_decay
        )
        workers.check_images(
            (path.relative_to(train.root).as_posix() for path in train.paths), config.batch_size
        )
        workers.share_tensors(network.state_dict().values())

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
        torch.manual_seed(
            torch_seed(self.config.seed, Stream.DROPOUT, epoch, self.workers.rank)
        )  # for dropout
        self.network.train()
        if self.config.freeze_trunk:
            self.network.trunk.eval()
        order = self._order(epoch)
        progress.begin(f"epoch {epoch + 1}/{self.config.epochs} at {self._size_name(epoch)}", len(order))
        total = torch.zeros(3, dtype=torch.float64)  # loss, right, images
        for batch, whole in zip(self._shares(epoch, order), order, strict=True):
            total += self._step(batch, len(whole))
            loss, right, seen = total.tolist()
            progress.advance(note=f"loss {loss / seen:.3f}, top-1 {right / seen:.1%}" if seen else "")
        loss, right, seen = total.tolist()
        if not seen:
            raise DataError(
                f"none of the {len(self.train)} images to train on could be used in epoch {epoch + 1}"
            )
        return {"loss": round(loss / seen, 6), "train_top1": round(right / seen, 6), "images": int(seen)}

    def _step(self, batch: Batch | None, count: int) -> Tensor:
        """One update from this process's share of `count` images, damaged ones among them.

        Returns (3,) of all processes: the summed loss, how many were right, and how many there were.
        """
        self.optimizer.zero_grad(set_to_none=True)
        totals = torch.zeros(3, dtype=torch.float64) if batch is None else self._add_gradients(batch, count)
        totals = self.workers.add_up(self.learned, totals)
        if not torch.isfinite(totals[0]):
            raise SppnetError(
                f"the loss is {totals[0].item()}: training diverged; lower --learning-rate "
                f"(now {self.optimizer.param_groups[0]['lr']})"
            )
        if totals[2]:  # not if all are damaged
            self.optimizer.step()
        return totals

    def _add_gradients(self, batch: Batch, count: int) -> Tensor:
        images = batch.images.to(self.device, memory_format=torch.channels_last)
        labels = batch.labels.to(self.device)
        with _precision(self.device):
            scores = self.network(images)
            loss = nn.functional.cross_entropy(scores, labels, reduction="sum")
        (loss / count).backward()
        right = (scores.argmax(1) == labels).sum()
        return torch.tensor([loss.item(), right.item(), len(labels)], dtype=torch.float64)

    def _close_epoch(self, row: Metrics, save: Callable[[bool], None]) -> None:
        state = self.state
        state.epoch += 1
        improved = row["val_top1"] > state.best_top1
        state.best_top1 = max(state.best_top1, row["val_top1"])
        state.since_best = 0 if improved else state.since_best + 1
        if state.since_best >= self.config.patience and state.drops < MAX_DROPS:
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

    def _order(self, epoch: int) -> list[list[int]]:
        """The batches of the epoch, over all processes."""
        config = self.config
        if config.shape == "full":
            return bucket_by_size(self._sizes_hw(epoch), config.batch_size, config.seed, epoch)
        return epoch_order(len(self.train), config.batch_size, config.seed, epoch)

    def _shares(self, epoch: int, order: list[list[int]]) -> Iterator[Batch | None]:
        """This process's share of each batch; None where it has no image, or damaged ones alone."""
        shares = [self.workers.own(batch) for batch in order]
        place_of = {index: place for place, share in enumerate(shares) for index in share}
        next_place = 0
        for batch in self._batches(epoch, shares):
            place = place_of[int(batch.indices[0])]
            yield from [None] * (place - next_place)
            yield batch
            next_place = place + 1
        yield from [None] * (len(order) - next_place)

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
        """Shorter side of whole images."""
        return self.config.full_scale_px(self.sizes.size(epoch))

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
        mirrored = rng.random() < 0.5
        image = transforms.alter_lighting(image, rng.normal(0.0, 1.0, 3) * transforms.LIGHTING_SIGMA)
        image = transforms.mirror(image) if mirrored else image
        return transforms.to_tensor(image, self.network.trunk.mean, self.network.trunk.std)

    # --- stopping and going on -------------------------------------------------------------------

    def _write_checkpoint(self) -> None:
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for index, parameter in enumerate(self.learned):
            buffer = self.optimizer.state[parameter].get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum.{index}"] = buffer
        self.folder.save_checkpoint({"state": asdict(self.state)}, tensors)

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if it has one. The leader reads it and tells the others."""
        checkpoint = self.folder.load_checkpoint() if self.workers.leads else None
        state, met = self.workers.share(None if checkpoint is None else self._restore(*checkpoint)) or (
            None,
            [],
        )
        if state is None:
            return
        self.state = LoopState(**state)
        moments = [self.optimizer.state[self.learned[index]] for index in met]
        for index, moment in zip(met, moments, strict=True):
            moment.setdefault("momentum_buffer", torch.zeros_like(self.learned[index]))
        self.workers.share_tensors(moment["momentum_buffer"] for moment in moments)
        self.workers.share_tensors(self.network.state_dict().values())

    def _restore(
        self, header: dict[str, Any], tensors: dict[str, Tensor]
    ) -> tuple[dict[str, Any], list[int]]:
        """Take weights and momentum from a checkpoint; its state, and which parameters had momentum."""
        own = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
        self.network.load_state_dict(own)
        met = [index for index in range(len(self.learned)) if f"momentum.{index}" in tensors]
        for index in met:
            buffer = tensors[f"momentum.{index}"].to(self.device)
            self.optimizer.state[self.learned[index]]["momentum_buffer"] = buffer
        return dict(header["state"]), met


def _learned_parameters(network: SPPNet, freeze_trunk: bool) -> list[nn.Parameter]:
    network.trunk.requires_grad_(not freeze_trunk)
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _precision(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 where it is faster: on CUDA devices."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
