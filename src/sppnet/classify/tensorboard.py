"""The curves of a run for TensorBoard, where it is installed (the extra "tensorboard")."""

import time
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
