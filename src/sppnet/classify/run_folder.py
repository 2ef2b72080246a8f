"""The folder of a training run: its configuration, its metrics, its models, and where it stands."""

import csv
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sppnet.classify.config import TrainingConfig
from sppnet.nn.model_file import load_model, save_model, write_file
from sppnet.run_lock import keep_config

CHECKPOINT_KIND = "checkpoint"
FREE = ("workers", "device")
"""What may change when a run is resumed."""


@dataclass(frozen=True)
class RunFolder:
    """best.safetensors, last.safetensors, metrics.csv, config.json, and a checkpoint to resume from."""

    root: Path

    @property
    def best(self) -> Path:
        """The model of the epoch with the best validation accuracy."""
        return self.root / "best.safetensors"

    @property
    def last(self) -> Path:
        """The model of the last epoch."""
        return self.root / "last.safetensors"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint.safetensors"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.csv"

    @property
    def board(self) -> Path:
        """The folder for TensorBoard."""
        return self.root / "tensorboard"

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    def start(self, config: TrainingConfig, data: str, resume: bool) -> None:
        """Take the folder for a run; raises ConfigError if another run's results would be lost."""
        results = (self.checkpoint, self.best, self.last)
        keep_config(self.config, {"data": data, **config.to_json()}, FREE, results, resume)

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """All rows so far, so that a resumed run leaves no row twice."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        write_file(self.metrics, text.getvalue().encode())

    def save_checkpoint(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        save_model(self.checkpoint, CHECKPOINT_KIND, state, tensors)

    def load_checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """What `save_checkpoint` wrote last, or None."""
        return load_model(self.checkpoint, CHECKPOINT_KIND) if self.checkpoint.exists() else None


# --- TensorBoard ---------------------------------------------------------------------------------


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
    """An event file in a folder; without a folder, or without TensorBoard, nothing is written.

    Not by SummaryWriter: it hands events to a thread through a queue, and Ctrl-C while the two hold its
    locks can leave both waiting for ever. Six numbers an epoch need no thread.
    """

    def __init__(self, folder: Path | None, epochs_done: int) -> None:
        """epochs_done: what another run wrote of later epochs is not shown any more."""
        self._records: Any = None
        if folder is None:
            return
        try:
            from tensorboard.compat.proto.event_pb2 import SessionLog
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._records = RecordWriter((folder / f"events.out.tfevents.{time.time_ns()}").open("wb"))
        self._write(file_version="brain.Event:2")
        self._write(step=epochs_done + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, row: Mapping[str, Any]) -> None:
        """One epoch: a row of metrics.csv."""
        if self._records is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=row[column]) for column, name in NAMES.items()]
        self._write(step=row["epoch"], summary=Summary(value=values))
        self._records.flush()

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *error: object) -> None:
        if self._records is not None:
            self._records.close()
