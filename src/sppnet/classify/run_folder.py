"""The folder of a training run: its configuration, its metrics, its models, and where it stands."""

import csv
import io
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
