"""The curves of a run for TensorBoard, where it is installed (the extra "tensorboard")."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAMES = {
    "loss": "loss/train",
    "train_top1": "accuracy/train_top1",
    "val_top1": "accuracy/val_top1",
    "val_top5": "accuracy/val_top5",
    "learning_rate": "learning_rate",
    "seconds": "seconds",
}
"""What is drawn, by its column of metrics.csv."""


class Board:
    """Event files in a folder; without a folder, or without TensorBoard, nothing is written."""

    def __init__(self, folder: Path | None, epochs_done: int) -> None:
        """epochs_done: what another run wrote of later epochs is not shown any more."""
        self._writer: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(folder), purge_step=epochs_done + 1)

    def add(self, row: Mapping[str, Any]) -> None:
        """One epoch: a row of metrics.csv."""
        if self._writer is None:
            return
        for column, name in NAMES.items():
            self._writer.add_scalar(name, row[column], row["epoch"])
        self._writer.flush()

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()
