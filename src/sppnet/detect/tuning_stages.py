"""Fine-tuning as two stages of a detector's training: the fc layers, and the trunk with them."""

from collections.abc import Callable

from torch import nn

from sppnet.arrays import Floats
from sppnet.detect.components import tensors_of
from sppnet.detect.config import DetectorConfig
from sppnet.detect.finetune import FinetuneSamples, finetune_layers, finetune_trunk
from sppnet.detect.label_assignment import TrainingImages
from sppnet.detect.run_folder import StageStore
from sppnet.geometry.grid import count_bins
from sppnet.heads.fc_layers import FinetuneState, detection_head
from sppnet.progress import Progress


class TuningStages:
    """Each is read from the run folder if it ended before, and goes on where it was stopped."""

    def __init__(self, store: StageStore, config: DetectorConfig, progress: Progress) -> None:
        self.store, self.run, self.config, self.progress = store, store.run, config, progress

    def tune_layers(self, photos: TrainingImages, proposals: list[Floats]) -> nn.Sequential:
        """Fine-tuned fc layers."""
        stage = self.store.ended("tuning")
        if stage is not None:
            length = photos.extractor.trunk.channels * count_bins(self.config.levels)
            head = detection_head(length, self.config.hidden, len(photos.classes))
            head.load_state_dict(tensors_of(stage.tensors, "head"))
            return head.eval()
        samples = FinetuneSamples(photos, proposals, self.config)
        samples.keep_crops(self.progress)
        head = finetune_layers(samples, *self._so_far("tuning"), self.progress)
        self._keep("tuning", {"head": head})
        return head

    def tune_trunk(self, photos: TrainingImages, head: nn.Sequential, proposals: list[Floats]) -> None:
        """Trunk and fc layers fine-tuned further, in place."""
        trunk, stage = photos.extractor.trunk, self.store.ended("trunk")
        if stage is not None:
            head.load_state_dict(tensors_of(stage.tensors, "head"))
            trunk.load_state_dict(tensors_of(stage.tensors, "trunk"))
        else:
            samples = FinetuneSamples(photos, proposals, self.config)
            finetune_trunk(samples, head, *self._so_far("trunk"), self.progress)
            self._keep("trunk", {"head": head, "trunk": trunk})

    def _so_far(self, stage: str) -> tuple[FinetuneState | None, Callable[[FinetuneState], None]]:
        """Where a fine-tuning that was stopped stands, and what keeps that."""
        name = f"{stage} so far"
        stored = self.run.load_stage(name)
        state = None if stored is None else FinetuneState.from_json(*stored)
        return state, lambda state: self.run.save_stage(name, state.to_json(), state.tensors)

    def _keep(self, name: str, modules: dict[str, nn.Module]) -> None:
        """The end of a fine-tuning, with how its error fell."""
        state, _ = self._so_far(name)
        tensors = {
            f"{part}.{key}": tensor
            for part, module in modules.items()
            for key, tensor in module.state_dict().items()
        }
        self.store.keep(name, {} if state is None else state.to_json(), tensors)
        self.run.drop_stage(f"{name} so far")
