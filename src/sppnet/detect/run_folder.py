"""The folder of a detector's training: its configuration, a file a stage, and the model."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sppnet.destination import check_destination
from sppnet.detect.config import DetectorConfig
from sppnet.nn.model_file import load_model, save_model, write_file
from sppnet.proposals.dense_windows import WindowConfig
from sppnet.proposals.proposal_head import ProposalHead, current_names
from sppnet.run_lock import check_unused, keep_config

KIND = "stage"
FREE = ("device",)
"""What may change when a run is resumed."""


@dataclass(frozen=True)
class DetectorRun:
    """detector.safetensors, config.json, times.json, and stages/ to resume from."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "detector.safetensors"

    @property
    def times(self) -> Path:
        return self.root / "times.json"

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def vectors(self) -> Path:
        """Where R-CNN's vectors are kept while it trains."""
        return self.root / "stages" / "vectors"

    def check(self, resume: bool) -> None:
        """Before the work: whether a run can be written here. Raises ConfigError."""
        check_destination(self.root, "--out")
        if not resume:
            check_unused(self.root, (self.config, self.model))

    def start(self, config: DetectorConfig, data: Mapping[str, Any], resume: bool) -> None:
        """Take the folder for a run; raises ConfigError if another run's results would be lost."""
        keep_config(self.config, {**data, **config.to_json()}, FREE, (self.config, self.model), resume)

    def read_trunk(self) -> str | None:
        """Of the run that began here; None where none did."""
        try:
            return str(json.loads(self.config.read_text())["trunk"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save_stage(self, name: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        save_model(self._stage(name), KIND, header, tensors)

    def load_stage(self, name: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """What a stage left behind; None if it has not ended."""
        path = self._stage(name)
        return load_model(path, KIND) if path.exists() else None

    def drop_stage(self, name: str) -> None:
        self._stage(name).unlink(missing_ok=True)

    def write_times(self, seconds: Mapping[str, float]) -> None:
        write_file(self.times, (json.dumps(dict(seconds), indent=2) + "\n").encode())

    def read_times(self) -> dict[str, float]:
        """Of the stages that have ended; empty where none has, or the file is damaged."""
        try:
            return dict(json.loads(self.times.read_text()))
        except (OSError, ValueError, TypeError):
            return {}

    def _stage(self, name: str) -> Path:
        return self.root / "stages" / f"{name}.safetensors"


@dataclass(frozen=True)
class Stage:
    """What a stage left behind in an earlier run."""

    header: dict[str, Any]
    tensors: dict[str, Tensor]

    def windows_head(self, channels: int) -> ProposalHead:
        """The head of the learned windows that the stage made."""
        head = ProposalHead(channels, WindowConfig.from_json(self.header["windows"]))
        head.load_state_dict(current_names(self.tensors))
        return head.eval()


class StageStore:
    """The stages of a run, with the seconds that each took."""

    def __init__(self, run: DetectorRun) -> None:
        self.run = run
        self.seconds: dict[str, float] = {}
        self.began = 0.0

    def ended(self, name: str) -> Stage | None:
        """A stage that ended before; None for one that begins now, and ends with `keep`."""
        stored = self.run.load_stage(name)
        self.began = time.perf_counter()
        return None if stored is None else Stage(*stored)

    def keep(self, name: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """The end of a stage; its time first, which is lost if that comes last and the run is stopped."""
        self.seconds[name] = round(time.perf_counter() - self.began, 1)
        self.run.write_times(self.seconds)
        self.run.save_stage(name, header, tensors)
