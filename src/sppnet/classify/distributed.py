"""The processes that train together: one, or those that torchrun started, on one machine or several.

Gradients are added up by hand, once a step, and not by DistributedDataParallel: there a process
whose share of a batch is empty falls out of step, so that small batches have to be left out. Here
it gives zeros, and several processes meet exactly the batches that one would.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from itertools import count, pairwise
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from sppnet.errors import ConfigError, DataError

_groups = count()


class Workers:
    """A group of processes, in a `with` block. Outside torchrun it is this process alone."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.starts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        """How often torchrun started the group again after one of its processes was lost."""

    @property
    def leads(self) -> bool:
        """Whether this process reads and writes the run folder, validates, and tells how it goes."""
        return self.rank == 0

    def __enter__(self) -> "Workers":
        if self.count > 1 and not dist.is_initialized():
            self._meet()
        return self

    def _meet(self) -> None:
        """Processes find each other in a store of torchrun's, which still has the addresses of lost groups.

        So each group has its own names in it (torch 2.15). Starts are counted alike on one machine only; on
        several torchrun has to be told to make a store for every start (docs/cluster.md).
        """
        alone = os.environ.get("LOCAL_WORLD_SIZE") == str(self.count)
        name = f"start {self.starts if alone else 0}, group {next(_groups)}"
        store, rank, size = next(rendezvous("env://"))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=PrefixStore(name, store),
            rank=rank,
            world_size=size,
        )

    def __exit__(self, *error: object) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    def own(self, batch: Sequence[int]) -> list[int]:
        """This process's share of a batch; with more processes than images some have none."""
        return list(batch[self.rank :: self.count])

    def share(self, value: Any) -> Any:
        """The leader's value, on every process."""
        if self.count == 1:
            return value
        shared = [value]
        dist.broadcast_object_list(shared)
        return shared[0]

    def share_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors, which all processes name in one order, with the leader's."""
        if self.count > 1:
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, 0)
                tensor.detach().copy_(whole)

    def add_up(self, parameters: Sequence[nn.Parameter], totals: Tensor) -> Tensor:
        """Every process's gradients are added, and its totals (k,), which are returned. None counts as zero.

        All in one message. The sums are the same bits on every process, so their weights stay alike.
        """
        if self.count == 1:
            return totals
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([totals.to(grads[0]), *(grad.reshape(-1) for grad in grads)])
        dist.all_reduce(flat)
        edges = np.cumsum([len(totals), *(grad.numel() for grad in grads)]).tolist()
        for parameter, (start, end) in zip(parameters, pairwise(edges), strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(flat[start:end].view(parameter.shape))
        return flat[: len(totals)].to(totals)

    def check_images(self, names: Iterable[str], batch_size: int) -> None:
        """Raises DataError unless all processes see the same images, ConfigError for too small a batch."""
        if batch_size < self.count:
            raise ConfigError(
                f"a batch of {batch_size} leaves some of {self.count} processes without an image; "
                "raise --batch-size, which counts the images of all, or start fewer"
            )
        own = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()
        every: list[Any] = [own] * self.count
        if self.count > 1:
            dist.all_gather_object(every, own)
        strange = [rank for rank, digest in enumerate(every) if digest != every[0]]
        if strange:
            raise DataError(
                "all processes must be given the same images, under the same names in their folder; those of "
                f"process {', '.join(map(str, strange))} differ from those of process 0"
            )
